"""Measures of the task against their formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest

from crossknn.errors import InputError
from crossknn.evaluation.task import Judgements, RightItem

ITEM_IDS = [f"d{n}" for n in range(150)]


def test_ndcg_and_recall_are_trec_evals() -> None:
    pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    relevant = [{"d3": 2, "d7": 1, "gone": 1, "d9": 0}, {"d140": 1}]
    indices = np.array([rng.permutation(150)[:120] for _ in relevant])
    scores = np.round(rng.normal(size=indices.shape), 1)  # ties
    found = Judgements(relevant, ITEM_IDS).measure(scores, indices)
    for row, grades in enumerate(relevant):
        ranked = sorted(zip(-scores[row], indices[row], strict=True))
        gains = [grades.get(ITEM_IDS[i], 0) for _, i in ranked]
        ideal = sorted(grades.values(), reverse=True)
        discounted = [sum(g / np.log2(place + 2) for place, g in enumerate(some[:10])) for some in (gains, ideal)]
        assert found["nDCG@10"][row] == pytest.approx(discounted[0] / discounted[1])
        n_relevant = sum(g > 0 for g in grades.values())
        assert found["R@100"][row] == pytest.approx(sum(g > 0 for g in gains[:100]) / n_relevant)


def test_items_that_read_like_the_right_one_are_right() -> None:
    judge = RightItem(["a", "c"], ["a", "b", "c"], ["same", "same", "other"])
    scores, indices = np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([[2, 1], [2, 0]])
    assert judge.measure(scores, indices)["accuracy"].tolist() == [1.0, 0.0]  # of equal scores the first item counts
    with pytest.raises(InputError, match="'x' is no item"):
        RightItem(["x"], ["a"], ["text"])


@pytest.mark.parametrize(
    ("relevant", "message"), [([{"d1": 1}, {"d2": 0}], "query 1"), ([{"elsewhere": 1}], "none of the judged items")]
)
def test_judgements_that_fit_nothing_are_refused(relevant: list[dict[str, int]], message: str) -> None:
    pytest.importorskip("ir_measures")
    with pytest.raises(InputError, match=message):
        Judgements(relevant, ITEM_IDS)
