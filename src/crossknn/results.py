"""What a search gives back: the answer, what it cost, and where each part of it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from crossknn.search.rounds import RoundCost


@dataclass(frozen=True)
class Hit:
    """One item found.

    Attributes:
        id: the item's own key.
        score: its exact CE score (raw logit).
        round: the round that scored it, from 1.
        first_stage_rank: its rank in the first stage over all items that were allowed, from 1. Above the budget:
            reranking with as many calls would not have seen it.
        text: the item.
        metadata: its fields.
    """

    id: str
    score: float
    round: int
    first_stage_rank: int
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ScoredItem:
    """One item that a search paid for.

    Attributes:
        id: the item's own key.
        score: its exact CE score (raw logit).
        predicted: the score that the search expected of it; None where it expected none.
        round: the round that scored it, from 1.
    """

    id: str
    score: float
    predicted: float | None
    round: int


@dataclass(frozen=True)
class SearchResult(Sequence[Hit]):
    """The best items found for a query, best first; equal scores in the order of the index.

    Attributes:
        query: the query's text.
        hits: up to k of them.
        calls: CE calls spent.
        trace: what each round cost.
        expected_recall: the share of the exact top k that these hits are expected to hold, in 0..1; None in a search
            without ``target_recall`` or ``share_budget``.
    """

    query: str
    hits: tuple[Hit, ...]
    calls: int
    trace: tuple[RoundCost, ...]
    expected_recall: float | None = None

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, position: int) -> Hit: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, position: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[position]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return asdict(self)
