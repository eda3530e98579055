import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn.errors import InputError
from crossknn.evaluation import paired_interval, top_k_recall
from crossknn.evaluation.measures import top_item_is_right


@pytest.mark.parametrize(
    ("scores", "scored", "k", "expected"),
    [
        ([5, 4, 3, 2], [0, 1], 2, 1.0),
        ([5, 4, 3, 2], [0, 3], 2, 0.5),
        ([5, 4, 4, 2], [0, 2], 2, 1.0),  # item 2 ties with the second best
        ([4, 4, 4, 2], [0, 1, 2], 2, 1.0),  # three candidates for two places: never above 1
        ([4, 4, 4, 2], [2], 2, 0.5),
        ([1, 1, 1, 1], [3], 1, 1.0),
        ([5, 4, 3, 3], [2, 3], 3, 1 / 3),  # both tie for the one place that is left
        ([5, 4, 3, 2], [0, 0, 0], 2, 0.5),  # a repeated item counts once
        ([5, 4, 3, 2], [], 3, 0.0),
    ],
)
def test_recall_known_answers(scores: list[float], scored: list[int], k: int, expected: float) -> None:
    assert top_k_recall(np.array(scores, dtype=float), np.array(scored, dtype=np.int64), k) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_recall_equals_the_best_over_all_ways_to_break_ties(scores: list[int], data: st.DataObject) -> None:
    n = len(scores)
    k = data.draw(st.integers(1, n))
    scored = data.draw(st.lists(st.integers(0, n - 1), max_size=n, unique=True))
    preferred = sorted(range(n), key=lambda i: (-scores[i], i not in scored))[:k]  # ties broken for the search
    expected = len(set(preferred) & set(scored)) / k
    assert top_k_recall(np.array(scores, dtype=float), np.array(scored, dtype=np.int64), k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [0, 5])
def test_recall_refuses_a_k_out_of_range(k: int) -> None:
    with pytest.raises(InputError, match="between 1 and the 4 items"):
        top_k_recall(np.arange(4.0), np.array([0]), k)


def test_the_top_item_among_equals_is_the_first() -> None:
    right = np.array([False, True, False])
    assert top_item_is_right(np.array([2.0, 2.0]), np.array([2, 1]), right) == 1.0
    assert top_item_is_right(np.array([3.0, 2.0]), np.array([2, 1]), right) == 0.0


def test_a_paired_interval_is_narrower_than_its_parts_where_queries_differ_more_than_methods() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.random(200)
    better, worse = difficulty + 0.1, difficulty + 0.02 * rng.normal(size=200)
    gain = paired_interval(better, worse)
    assert gain.low < gain.mean < gain.high
    assert gain.mean == pytest.approx(0.1, abs=0.01)
    alone = paired_interval(better)
    assert gain.high - gain.low < 0.2 * (alone.high - alone.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        interval = paired_interval(rng.normal(0.3, 1.0, size=60), seed=seed)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 100 <= 0.99


def test_an_interval_holds_its_mean_to_the_last_bit() -> None:
    for n in (3, 7, 300):
        for value in (1.0, 0.1, 1 / 3):
            found = paired_interval(np.full(n, value))
            assert found.low <= found.mean <= found.high
