"""ZeShEL (Logeswaran et al., ACL 2019), one world at a time, with fixed splits; for whoever has the files."""

from __future__ import annotations

from pathlib import Path

from crossknn.datasets.splits import SPLITS, Dataset, LabelledQuery, hash_order, split_of
from crossknn.inputs.zeshel import read_zeshel

SHARES = {"ce_train": 0.0, "index_train": 0.5, "dev": 0.1, "test": 0.4}
"""Of the entities, by hash; with each its mentions. The cross-encoder was trained on other worlds, so none of this one
is left for that. The paper draws 100, 500 or 2,000 train queries of a world (``--train-limit``)."""


def load_zeshel(documents: Path, mentions: Path) -> Dataset:
    """A world's entities, and its mentions split by entity (:data:`SHARES`).

    Args:
        documents: one world, such as ``documents/yugioh.json``; its name is the world's.
        mentions: such as ``mentions/test.json``, of whose worlds this one is taken.

    Raises:
        InputError: which line is wrong, and how (:func:`crossknn.inputs.read_zeshel`).
    """
    items, mentioned = read_zeshel(documents, mentions)
    item_splits = {item_id: split_of(f"zeshel:{item_id}", SHARES) for item_id in items}
    queries: dict[str, list[LabelledQuery]] = {split: [] for split in SPLITS}
    for query in mentioned:
        assert query.label is not None  # read_zeshel gives each its entity
        queries[item_splits[query.label]].append(LabelledQuery(query.text, query.label))
    world = documents.name.partition(".")[0]
    return Dataset(f"zeshel-{world}", items, {s: hash_order(qs) for s, qs in queries.items()}, item_splits)
