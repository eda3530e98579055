"""Variational factorization: the same as written out cell by cell, and what it knows on data of its own kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossknn.factorization import variational
from crossknn.factorization.variational import factorize

N_QUERIES, N_ITEMS, D = 12, 40, 3


def _planted(share: float, noise: float = 0.3, moved: float = 0.4, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(N_ITEMS, D))
    v, u = start + moved * rng.normal(size=start.shape), rng.normal(size=(N_QUERIES, D))
    c, b = 0.5 * rng.normal(size=N_ITEMS), rng.normal(size=N_QUERIES)
    exact = u @ v.T + b[:, None] + c
    seen = rng.random(exact.shape) < share
    seen[:, 0] = True  # every query has a cell
    seen[:, -1] = False  # and one item has none
    queries, items = np.nonzero(seen)
    scores = exact + noise * rng.normal(size=exact.shape)
    return queries, items, scores[queries, items], start, exact, seen


def _slow(queries: Any, items: Any, r: Any, start: Any, sweeps: int) -> tuple[np.ndarray, np.ndarray]:
    """The expectations of every cell, one by one."""
    d, variance = start.shape[1], np.var(r)
    before = {i: np.append(start[i], 0.0) for i in range(len(start))}
    centre, noise = np.zeros(d + 1), variance / 4
    vary_u, vary_v = np.diag([1.0] * d + [variance / 3]), np.diag([variance / 50] * (d + 1))
    v = {i: (before[i], np.zeros((d + 1, d + 1))) for i in before}
    u: dict[int, Any] = {}

    def side(mine: Any, theirs: Any, others: Any, row: int, mean: Any, variances: Any) -> Any:
        precision = np.linalg.inv(variances)
        right = precision @ mean
        for cell in np.flatnonzero(mine == row):
            m, cov = others[theirs[cell]]
            second = cov + np.outer(m, m)  # of [w | e]
            one = np.append(m[:-1], 1.0)
            square = np.outer(one, one)
            square[:-1, :-1] += cov[:-1, :-1]
            precision = precision + square / noise
            right = right + (r[cell] * one - np.append(second[:-1, -1], m[-1])) / noise
        covariance = np.linalg.inv(precision)
        return covariance @ right, covariance

    def error(cell: int) -> float:
        """``E (r - [u | b | 1] . [v | 1 | c])^2`` of the cell, by the distributions of both rows."""
        (a, cov_a), (m, cov_m) = u[queries[cell]], v[items[cell]]
        left, right = np.append(a, 1.0), np.concatenate([m[:-1], [1.0, m[-1]]])
        second_left = np.outer(left, left)
        second_left[:-1, :-1] += cov_a
        second_right = np.outer(right, right)
        kept = [*range(d), d + 1]
        second_right[np.ix_(kept, kept)] += cov_m
        return float(r[cell] ** 2 - 2 * r[cell] * left @ right + np.sum(second_left * second_right))

    for sweep in range(sweeps + 1):
        if sweep:
            for i in np.unique(items):
                v[i] = side(items, queries, u, i, before[i], vary_v)
        for q in np.unique(queries):
            u[q] = side(queries, items, v, q, centre, vary_u)
        new_centre = np.mean([m for m, _ in u.values()], axis=0)
        squares = np.mean([(m - new_centre) ** 2 + np.diag(cov) for m, cov in u.values()], axis=0)
        noise = np.mean([error(cell) for cell in range(len(r))])
        centre, vary_u = new_centre, np.diag([squares[:-1].mean()] * d + [squares[-1]])
        if sweep:
            squares = np.mean([(v[i][0] - before[i]) ** 2 + np.diag(v[i][1]) for i in np.unique(items)], axis=0)
            vary_v = np.diag([squares[:-1].mean()] * d + [squares[-1]])
    return np.array([u[q][0] for q in sorted(u)]), np.array([v[i][0] for i in sorted(v)])


@pytest.mark.parametrize("sweeps", [0, 1, 4])
@pytest.mark.parametrize("at_once", [1, 7 * (D + 1) ** 2, 10_000])
def test_it_is_what_it_is_cell_by_cell(monkeypatch: pytest.MonkeyPatch, at_once: int, sweeps: int) -> None:
    monkeypatch.setattr(variational, "_NUMBERS_AT_ONCE", at_once)
    queries, items, r, start, *_ = _planted(0.3)
    found = factorize(queries, items, r, N_QUERIES, start, sweeps)
    for mine, expected in zip(found, _slow(queries, items, r, start, sweeps), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-9)
    np.testing.assert_array_equal(found[1][-1], [*start[-1], 0.0])  # never scored


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_what_was_not_seen_is_told_better_than_by_the_start(share: float) -> None:
    errors = []
    for seed in range(5):
        queries, items, r, start, exact, seen = _planted(share, seed=seed)

        def error(rows: Any, columns: Any, exact: Any = exact, seen: Any = seen) -> float:
            told = rows[:, :-1] @ columns[:, :-1].T + rows[:, -1:] + columns[:, -1]
            return float(np.mean((told - exact)[~seen] ** 2))

        errors.append([error(*factorize(queries, items, r, N_QUERIES, start, sweeps)) for sweeps in (0, 20)])
    as_it_starts, learned = np.mean(errors, axis=0)
    assert learned < {0.2: 0.9, 0.6: 0.5}[share] * as_it_starts


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_scores_in_other_units_are_learned_alike(unit: float) -> None:
    queries, items, r, start, *_ = _planted(0.3)
    found, scaled = (factorize(queries, items, s * r, N_QUERIES, s * start, 5) for s in (1.0, unit))
    np.testing.assert_allclose(scaled[0], found[0] * np.append(np.ones(D), unit))
    np.testing.assert_allclose(scaled[1], unit * found[1])
