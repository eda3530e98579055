import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn.evaluation import top_k_recall
from crossknn.evaluation.origins import bucket_ends, origins
from crossknn.vectors import ranks_of


@pytest.mark.parametrize(
    ("n_items", "budget", "expected"),
    [
        (8, 8, [8]),
        (10, 5, [5, 10]),
        (300, 100, [10, 100, 300]),
        (300, 200, [10, 100, 200, 300]),
        (50_000, 500, [10, 100, 500, 1000, 50_000]),
    ],
)
def test_buckets_end_where_reranking_does(n_items: int, budget: int, expected: list[int]) -> None:
    assert bucket_ends(n_items, budget) == expected


@given(st.data())
def test_origins_equal_a_slow_count(data: st.DataObject) -> None:
    n_queries, n_items = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 14))
    few = st.integers(0, 3)  # many ties
    matrix = st.lists(st.lists(few, min_size=n_items, max_size=n_items), min_size=n_queries, max_size=n_queries)
    exact, cheap = np.array(data.draw(matrix), dtype=float), np.array(data.draw(matrix), dtype=float)
    k, n_scored = data.draw(st.integers(1, n_items)), data.draw(st.integers(1, n_items))
    scored = np.array([data.draw(st.permutations(range(n_items)))[:n_scored] for _ in exact])
    ends = sorted({end for end in (2, 5) if end < n_items} | {n_items})

    found, missed = dict.fromkeys(ends, 0), dict.fromkeys(ends, 0)
    for row in range(n_queries):
        order = sorted(range(n_items), key=lambda i: (-cheap[row, i], i))
        top = sorted(range(n_items), key=lambda i: (-exact[row, i], i not in scored[row], order.index(i)))[:k]
        for item in top:
            bucket = next(end for end in ends if order.index(item) + 1 <= end)
            (found if item in scored[row] else missed)[bucket] += 1

    ranks = np.array([ranks_of(row, np.arange(len(row))) for row in cheap])
    measured = origins(exact, scored, ranks, k, ends)
    assert [(b.first_rank, b.last_rank) for b in measured.buckets] == list(
        zip([1, *(end + 1 for end in ends)], ends, strict=False)
    )
    assert [b.found * k * n_queries for b in measured.buckets] == pytest.approx(list(found.values()))
    assert [b.missed * k * n_queries for b in measured.buckets] == pytest.approx(list(missed.values()))
    recall = [top_k_recall(row, some, k) for row, some in zip(exact, scored, strict=True)]
    assert measured.found == pytest.approx(np.mean(recall))
    assert measured.total == pytest.approx(1)
    assert [b.first_rank for b in measured.beyond(3).buckets] == [b.first_rank for b in measured.buckets[2:]]
