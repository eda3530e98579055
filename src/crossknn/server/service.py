"""What a service serves now: an index, which another may replace while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossknn.errors import InputError
from crossknn.index import Index
from crossknn.search import METHODS
from crossknn.server.metrics import Metrics
from crossknn.server.models import FieldModel
from crossknn.server.options import ServerOptions
from crossknn.server.scheduler import Scheduler


@dataclass(frozen=True)
class Served:
    """An index, and what requests want of it again and again.

    Attributes:
        index: what is searched.
        positions: of its items, by their ids.
        fields: of its metadata, with the first values of each.
        default_budget: where a client names none.
        default_method: its name, "tuned" where it has none.
        examples: queries that the page offers.
    """

    index: Index
    positions: dict[str, int]
    fields: list[FieldModel]
    default_budget: int
    default_method: str
    examples: list[str]

    @classmethod
    def of(cls, index: Index, options: ServerOptions, examples: Sequence[str] | None) -> Served:
        """With three of the train queries as examples where none are given."""
        values = {name: [value for value, _ in index.metadata.values(name)] for name in index.metadata.fields}
        named = next((name for name, method in METHODS.items() if method == index.default_method()), "tuned")
        return cls(
            index,
            {item_id: n for n, item_id in enumerate(index.item_ids)},
            [FieldModel(name=name, distinct=len(known), values=known[:50]) for name, known in values.items()],
            min(index.default_budget(), options.max_budget),
            index.tuning.method if index.tuning is not None else named,
            list(index.train_queries[:3] if examples is None else examples),
        )


class Service:
    """An index that is served, by one scheduler.

    Attributes:
        options: limits and batching.
        scheduler: runs the searches.
        metrics: what is counted.
        now: what is served.
        stale: whether where it came from has something else by now, or nothing, that cannot be served.
    """

    def __init__(self, index: Index, options: ServerOptions, examples: Sequence[str] | None = None) -> None:
        self.options, self._examples = options, examples
        self.scheduler = Scheduler(
            index.scorer, batch_pairs=options.batch_pairs, wait_ms=options.wait_ms, queue=options.queue
        )
        self.now, self.stale = Served.of(index, options, examples), False
        self.metrics = Metrics(self.scheduler, n_items=lambda: len(self.now.index), stale=lambda: self.stale)

    def replace(self, index: Index) -> None:
        """Serve another index from the next request on, such as :meth:`~crossknn.Index.updated` makes; those under way
        end with the one they began with. It keeps the scorer of the first: nothing else may use it meanwhile.

        Raises:
            InputError: it has another scorer.
        """
        if index.scorer is not self.scheduler.scorer:
            raise InputError("the index has another scorer; load it with that of the index that is served")
        self.now = Served.of(index, self.options, self._examples)
