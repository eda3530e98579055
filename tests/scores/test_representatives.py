"""Queries that stand for others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crossknn.scores.representatives import representatives


def covered(vectors: np.ndarray, chosen: np.ndarray) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float((unit @ unit[chosen].T).max(axis=1).sum())


def test_one_of_each_group_is_chosen() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4) * 10
    vectors = np.vstack([centre + 0.5 * rng.normal(size=(9, 4)) for centre in centres] + [centres])
    groups = np.append(np.repeat(np.arange(4), 9), np.arange(4))
    assert sorted(groups[representatives(vectors, 4)]) == [0, 1, 2, 3]


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_they_cover_nearly_as_much_as_can_be_and_more_than_others(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, 3))
    chosen = representatives(vectors, n)
    assert len(set(chosen.tolist())) == n
    assert (np.diff(chosen) > 0).all()
    others = [rng.choice(12, n, replace=False) for _ in range(20)]
    spent = [covered(vectors, other) + 12 for other in others]  # above 0 from -1, as the bound of the greedy choice is
    assert covered(vectors, chosen) + 12 >= (1 - 1 / np.e) * max(spent)
    assert covered(vectors, chosen) >= np.mean([covered(vectors, other) for other in others]) - 1e-6


def test_blank_vectors_and_all_of_them() -> None:
    assert representatives(np.zeros((3, 2)), 2).tolist() == [0, 1]
    assert representatives(np.ones((3, 2)), 3).tolist() == [0, 1, 2]
