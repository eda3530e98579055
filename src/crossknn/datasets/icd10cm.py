"""ICD-10-CM: how a clinician says it (query) to the official description of a code (item).

The files come with the PyPI package ``simple-icd-10-cm``; the classification itself is in the public domain (US CDC).
"""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossknn.datasets.splits import SPLITS, Dataset, LabelledQuery, hash_order, normalise, split_of
from crossknn.errors import MissingDataError

SHARES = {"ce_train": 0.79, "index_train": 0.08, "dev": 0.04, "test": 0.09}
"""Share of the three-character categories that goes into each split."""

_NOTE_TARGET = re.compile(r"\(([A-Z]\d[0-9A-Z](?:\.[0-9A-Z]{1,4})?)[^()]*\)\s*$")


@dataclass(frozen=True)
class Code:
    """One code of the classification: identifier, official description, its category, and how else it is said."""

    id: str
    description: str
    category: str
    inclusion_terms: tuple[str, ...]
    included: tuple[str, ...]
    excluded: tuple[str, ...]


def find_tabular() -> Path:
    """The tabular XML inside the installed ``simple-icd-10-cm``, without importing (and so parsing) that package."""
    spec = importlib.util.find_spec("simple_icd_10_cm")
    found = []
    if spec is not None and spec.origin is not None:
        found = sorted((Path(spec.origin).parent / "data").glob("icd10c*-tabular-*.xml"))
    if not found:
        raise MissingDataError("the ICD-10-CM files are not installed; try: pip install 'crossknn[icd10cm]'")
    return found[-1]


def read_codes(tabular: Path | None = None) -> list[Code]:
    """All codes in the order of the book. The first of two entries with the same code is kept."""
    root = ET.parse(tabular or find_tabular()).getroot()
    codes: dict[str, Code] = {}
    for diag in root.iter("diag"):
        code = Code(
            id=diag.findtext("name", "").strip(),
            description=_text(diag.find("desc")),
            category=diag.findtext("name", "").strip()[:3],
            inclusion_terms=tuple(_notes(diag, "inclusionTerm")),
            included=tuple(_notes(diag, "includes")),
            excluded=(*_notes(diag, "excludes1"), *_notes(diag, "excludes2")),
        )
        if code.id and code.description:
            codes.setdefault(code.id, code)
    return list(codes.values())


def load_icd10cm(tabular: Path | None = None) -> Dataset:
    """Every code with its description; queries are the inclusion terms that differ from their code's description.

    Split by three-character category (:data:`SHARES`), so no code of a test query has a sibling in training. A
    cross-encoder's training sees no code, description or term of the other three splits, not even as a negative.

    Raises:
        MissingDataError: ``simple-icd-10-cm`` is not installed.
    """
    codes = read_codes(tabular)
    item_splits = {c.id: split_of(f"icd10cm:{c.category}", SHARES) for c in codes}
    queries: dict[str, list[LabelledQuery]] = {split: [] for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    for code in codes:
        for term in code.inclusion_terms:
            key = (normalise(term), code.id)
            if key[0] != normalise(code.description) and key not in seen:
                seen.add(key)
                queries[item_splits[code.id]].append(LabelledQuery(term, code.id))
    ordered = {split: hash_order(labelled) for split, labelled in queries.items()}
    return Dataset("icd10cm", {c.id: c.description for c in codes}, ordered, item_splits)


def load_icd10cm_10k(tabular: Path | None = None) -> Dataset:
    """The measuring subset: every code outside the cross-encoder's training categories, about 10K, whole categories.

    All index-train, dev and test queries have their label in it, with all its siblings as distractors.
    """
    full = load_icd10cm(tabular)
    kept = [i for i, split in full.item_splits.items() if split != "ce_train"]
    return full.subset(kept, "icd10cm-10k")


def training_notes(codes: list[Code]) -> list[LabelledQuery]:
    """More phrases for training a cross-encoder: "includes" notes, and "excludes" notes that name one other code."""
    by_id = {c.id: c for c in codes}
    found: list[LabelledQuery] = []
    for code in codes:
        found += [LabelledQuery(note, code.id) for note in code.included if "(" not in note]
        for note in code.excluded:
            target = _NOTE_TARGET.search(note)
            if target and target[1] in by_id:
                found.append(LabelledQuery(note[: target.start()].strip(), target[1]))
    return [q for q in found if q.text and normalise(q.text) != normalise(by_id[q.item_id].description)]


def _notes(diag: ET.Element, tag: str) -> Iterator[str]:
    for parent in diag.findall(tag):
        for note in parent.findall("note"):
            if text := _text(note):
                yield text


def _text(element: ET.Element | None) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""
