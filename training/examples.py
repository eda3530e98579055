"""What the demo's cross-encoder learns from: (query, right item) pairs of the CE-train splits, and their items.

Nothing of an index-train, dev or test split enters: not its queries, not its items (not even as negatives), and no
training phrase that reads like a held-out query of any of the three data sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossknn.datasets.hpo import load_hpo
from crossknn.datasets.icd10cm import load_icd10cm, read_codes, training_notes
from crossknn.datasets.splits import Dataset, LabelledQuery, normalise
from crossknn.datasets.wordnet import load_wordnet

HELD_OUT = ("index_train", "dev", "test")


@dataclass(frozen=True)
class Corpus:
    """One data set as the trainer sees it: item texts, and for each query its text and its item's position.

    The first ``n_real`` queries are of the data set's own kind; those after them (notes, descriptions) are like it.
    """

    name: str
    items: list[str]
    queries: list[str]
    labels: np.ndarray  # (n_queries,) int64, positions in items
    n_real: int


def load_corpora(wordnet_folder: Path, rng: np.random.Generator) -> list[Corpus]:
    """ICD-10-CM in full, HPO (half of its items by name alone), and a slice of WordNet (two cores would take days)."""
    icd, hpo, wordnet = load_icd10cm(), load_hpo(), load_wordnet(wordnet_folder)
    held_out = {normalise(q.text) for data in (icd, hpo, wordnet) for split in HELD_OUT for q in data.queries[split]}

    notes = [q for q in training_notes(read_codes()) if icd.item_splits[q.item_id] == "ce_train"]
    trained = [i for i, split in icd.item_splits.items() if split == "ce_train"]
    itself = [LabelledQuery(icd.items[i], i) for i in rng.choice(trained, 800, replace=False)]
    names_only = {i: text.partition(". ")[0] if rng.random() < 0.5 else text for i, text in hpo.items.items()}
    sentences = wordnet.queries["ce_train"][:12000]
    wordnet = wordnet.subset([q.item_id for q in sentences], "wordnet")
    return [
        _corpus(icd, [*icd.queries["ce_train"], *notes, *itself], icd.items, held_out),
        _corpus(hpo, hpo.queries["ce_train"], names_only, held_out),
        _corpus(wordnet, sentences, wordnet.items, held_out),
    ]


def _corpus(data: Dataset, queries: list[LabelledQuery], texts: dict[str, str], held_out: set[str]) -> Corpus:
    kept = [i for i, split in data.item_splits.items() if split == "ce_train"]
    position = {item_id: n for n, item_id in enumerate(kept)}
    unique = dict.fromkeys(q for q in queries if normalise(q.text) not in held_out)
    return Corpus(
        name=data.name,
        items=[texts[i] for i in kept],
        queries=[q.text for q in unique],
        labels=np.array([position[q.item_id] for q in unique], dtype=np.int64),
        n_real=len(unique.keys() & set(data.queries["ce_train"])),
    )
