"""Is what the cross-encoder finds what people wanted? Measures of the task, beside recall of its own top k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError, import_extra
from crossknn.evaluation.measures import top_item_is_right

_RANKED = (("nDCG", 10), ("R", 100))
_DEPTH = 100


class Judge(Protocol):
    """Measures rankings of scored items, query by query."""

    def measure(self, scores: FloatArray, indices: IntArray) -> dict[str, FloatArray]:
        """Measure to (n_queries,) values, of (n_queries, n_scored) items and their CE scores."""
        ...


class RightItem:
    """One item is right for each query; ``accuracy`` is the share of queries where it is scored highest.

    Args:
        labels: id of the right item for each query. Items with the same text are right too.
        item_ids, items: of the index.

    Raises:
        InputError: a label is no item.
    """

    def __init__(self, labels: Sequence[str], item_ids: Sequence[str], items: Sequence[str]) -> None:
        position = _positions(item_ids)
        missing = next((label for label in labels if label not in position), None)
        if missing is not None:
            raise InputError(f"the label {missing!r} is no item of the index")
        texts = np.array(items, dtype=object)
        self._right: list[BoolArray] = [np.asarray(texts == items[position[x]], dtype=bool) for x in labels]

    def measure(self, scores: FloatArray, indices: IntArray) -> dict[str, FloatArray]:
        """See :class:`Judge`."""
        rows = zip(scores, indices, self._right, strict=True)
        return {"accuracy": np.array([top_item_is_right(*row) for row in rows])}


class Judgements:
    """Graded relevance of several items for each query: nDCG@10 and R@100 by ``ir_measures`` (extra ``ir``).

    Args:
        relevant: item id to grade, for each query. Items that are not in the index count as never found.
        item_ids: of the index.

    Raises:
        InputError: a query has no relevant item, or none of the judged items is in the index.
        MissingExtraError: ir_measures is not installed.
    """

    def __init__(self, relevant: Sequence[Mapping[str, int]], item_ids: Sequence[str]) -> None:
        self._library: Any = import_extra("ir_measures", "ir")
        for number, grades in enumerate(relevant):
            if not any(grade > 0 for grade in grades.values()):
                raise InputError(f"query {number} (from 0) has no relevant item, so nothing can be measured on it")
        known = set(item_ids)
        if not any(item in known for grades in relevant for item in grades):
            raise InputError("none of the judged items is in the index; are these judgements of other items?")
        self._item_ids = list(item_ids)
        self._qrels = {str(n): dict(grades) for n, grades in enumerate(relevant)}

    def measure(self, scores: FloatArray, indices: IntArray) -> dict[str, FloatArray]:
        """See :class:`Judge`; equal scores by item position."""
        run = {}
        for row, (of_query, items) in enumerate(zip(scores, indices, strict=True)):
            best = np.lexsort((items, -of_query))[:_DEPTH]
            run[str(row)] = {self._item_ids[items[n]]: float(len(best) - place) for place, n in enumerate(best)}
        measures = [getattr(self._library, name) @ depth for name, depth in _RANKED]
        found: dict[str, FloatArray] = {str(measure): np.zeros(len(run)) for measure in measures}
        for value in self._library.iter_calc(measures, self._qrels, run):
            found[str(value.measure)][int(value.query_id)] = value.value
        return found


def _positions(item_ids: Sequence[str]) -> dict[str, int]:
    return {item_id: n for n, item_id in enumerate(item_ids)}
