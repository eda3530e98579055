"""Data sets with fixed splits: which queries train the cross-encoder, the index, and which only measure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SPLITS = ("ce_train", "index_train", "dev", "test")
"""Cross-encoder training; train queries of the index; choices; reports. No group stands in two of them."""


@dataclass(frozen=True)
class LabelledQuery:
    """A query with the one item that is right for it."""

    text: str
    item_id: str


@dataclass(frozen=True)
class Dataset:
    """Items, and queries by split.

    Attributes:
        name: short name, part of every result that is measured on it.
        items: item id to item text, in a fixed order.
        queries: split name to labelled queries, in a fixed order.
        item_splits: item id to the split of its group. An item of ``dev`` or ``test`` is never shown to a
            cross-encoder in training, not even as a negative.
    """

    name: str
    items: Mapping[str, str]
    queries: Mapping[str, Sequence[LabelledQuery]]
    item_splits: Mapping[str, str] = field(repr=False)

    def subset(self, item_ids: Iterable[str], name: str) -> Dataset:
        """The same data over fewer items; queries whose label is left out go too."""
        kept = set(item_ids)
        return Dataset(
            name=name,
            items={i: text for i, text in self.items.items() if i in kept},
            queries={s: [q for q in qs if q.item_id in kept] for s, qs in self.queries.items()},
            item_splits={i: s for i, s in self.item_splits.items() if i in kept},
        )

    def held_out(self, size: int, name: str) -> Dataset:
        """Every item outside the cross-encoder's training, filled up to ``size`` with others by hash.

        All index-train, dev and test queries have their label in it. The others are distractors that a cross-encoder
        may have seen in training; their queries are no part of a report.
        """
        kept = [i for i, split in self.item_splits.items() if split != "ce_train"]
        others = [i for i, split in self.item_splits.items() if split == "ce_train"]
        others.sort(key=lambda i: hashlib.sha256(f"{name}:{i}".encode()).digest())
        return self.subset([*kept, *others[: max(0, size - len(kept))]], name)

    def summary(self) -> dict[str, object]:
        """Counts and SHA-256 hashes of the items and of every split: equal on every machine, or the data changed."""
        return {
            "name": self.name,
            "items": {"count": len(self.items), "sha256": _digest(self.items.items())},
            "queries": {
                split: {"count": len(qs), "sha256": _digest((q.text, q.item_id) for q in qs)}
                for split, qs in self.queries.items()
            },
        }


def split_of(group: str, shares: Mapping[str, float]) -> str:
    """The split of a group of items: a hash of its name, cut at the cumulative shares.

    Depends on nothing but the name, so a later release of the data moves no old group to another split.
    """
    position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for split, share in shares.items():
        edge += share
        if position < edge:
            return split
    return list(shares)[-1]


def hash_order(queries: Iterable[LabelledQuery]) -> list[LabelledQuery]:
    """Queries in a random-looking order that is the same everywhere and needs no seed."""
    return sorted(queries, key=lambda q: hashlib.sha256(f"{q.text}\t{q.item_id}".encode()).digest())


def normalise(text: str) -> str:
    """Lower case, single spaces: what makes two phrases the same phrase."""
    return " ".join(text.lower().split())


def _digest(rows: Iterable[Sequence[str]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(list(row), ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
