"""A scorer that misbehaves is caught at the border, with a message that says what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crossknn import FunctionScorer, ReplayScorer
from crossknn.errors import InputError, ScorerError
from crossknn.scorers.base import checked_scores


def _raise(pairs: Any) -> list[float]:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raise, "RuntimeError: out of memory"),
        (lambda pairs: [1.0] * (len(pairs) - 1), "returned 2 scores for 3 pairs"),
        (lambda pairs: [1.0] * (len(pairs) + 1), "returned 4 scores for 3 pairs"),
        (lambda pairs: [[1.0, 2.0]] * len(pairs), r"shape \(3, 2\) for 3 pairs"),
        (lambda pairs: None, "TypeError"),
        (lambda pairs: [None, 1.0, "x"], "failed on 3 pairs"),
        (lambda pairs: [0.0, np.nan, 1.0], "nan for query 'q' and item 1"),
        (lambda pairs: [0.0, 1.0, -np.inf], "-inf for query 'q' and item 2"),
        (lambda pairs: [0.0, -1e31, 1.0], r"-1e\+31 for query 'q' and item 1; .* at most 1e\+30 in size"),
        (lambda pairs: [0.0, 1j, 1.0], "complex"),
    ],
    ids=["raises", "too few", "too many", "two each", "none", "no numbers", "nan", "infinite", "huge", "complex"],
)
def test_what_is_no_score_is_a_scorer_error(function: Callable[[Any], Any], message: str) -> None:
    bound = FunctionScorer(function, name="bad").prepare(["x", "y", "z"])
    with pytest.raises(ScorerError, match=message):
        checked_scores(bound, ["q"], np.zeros(3, dtype=np.int64), np.arange(3))


def test_too_many_scores_in_one_batch_do_not_make_up_for_too_few_in_the_next() -> None:
    sizes = iter([3, 1])
    scorer = FunctionScorer(lambda pairs: [1.0] * next(sizes), name="shifted", batch_size=2)
    with pytest.raises(ScorerError):
        checked_scores(scorer.prepare(["x"]), ["q"], np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64))


def test_good_scores_pass_as_float64() -> None:
    bound = FunctionScorer(lambda pairs: np.array([1, 2], dtype=np.float16), name="half").prepare(["x", "y"])
    scores = checked_scores(bound, ["q"], np.zeros(2, dtype=np.int64), np.arange(2))
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, [1, 2])


def test_function_scorer_needs_a_name_and_a_batch_and_passes_batches_of_at_most_that_size() -> None:
    sizes: list[int] = []

    def count(pairs: Any) -> list[float]:
        sizes.append(len(pairs))
        return [0.0] * len(pairs)

    with pytest.raises(InputError, match="name"):
        FunctionScorer(count, name="")
    with pytest.raises(InputError, match="batch_size"):
        FunctionScorer(count, name="x", batch_size=0)
    FunctionScorer(count, name="x", batch_size=3).prepare(["y"]).score(["q"], np.zeros(7, int), np.zeros(7, int))
    assert sizes == [3, 3, 1]


def test_replay_scorer_knows_only_its_own_texts() -> None:
    with pytest.raises(InputError, match=r"\(1, 2\)"):
        ReplayScorer([[1.0, 2.0]], ["q"], ["x"])
    with pytest.raises(InputError, match="twice"):
        ReplayScorer([[1.0], [2.0]], ["q", "q"], ["x"])
    scorer = ReplayScorer([[1.0, 2.0]], ["q"], ["x", "x"])
    with pytest.raises(InputError, match="very items"):
        scorer.prepare(["x", "y"])
    with pytest.raises(InputError, match="'other'"):
        checked_scores(scorer.prepare(["x", "x"]), ["other"], np.array([0]), np.array([0]))
