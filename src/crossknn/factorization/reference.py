"""The factorization of :mod:`crossknn.factorization.transductive`, written to be obviously right and not to be fast.

Tests compare the two. Cells are visited one by one, and every system is the plain normal equation.
"""

from __future__ import annotations

import numpy as np

from crossknn.factorization.transductive import Factors, MFTransductive


def sweep(factors: Factors, start: Factors, cells: list[tuple[int, int, float]], options: MFTransductive) -> Factors:
    """One sweep over all queries and then all items.

    Args:
        factors: state before the sweep.
        start: what vectors are held to.
        cells: observed ``(query, item, s' - mu)``.
        options: settings.
    """
    queries, items = factors.queries.copy(), factors.items.copy()
    for q in range(len(queries)):
        seen = [(items[i], value) for query, i, value in cells if query == q]
        queries[q] = _normal_equation(seen, start.queries[q], options) if seen else queries[q]
    for i in range(len(items)):
        seen = [(queries[q], value) for q, item, value in cells if item == i]
        items[i] = _normal_equation(seen, start.items[i], options) if seen else items[i]
    return Factors(queries, items, factors.mean)


def _normal_equation(seen: list[tuple[np.ndarray, float]], start: np.ndarray, options: MFTransductive) -> np.ndarray:
    d = len(start) - 1
    ridge = np.diag([options.ridge] * d + [options.bias_ridge])
    left = ridge.copy()
    right = ridge @ start
    for other, value in seen:
        features = np.append(other[:d], 1.0)
        left += np.outer(features, features)
        right += features * (value - other[d])
    return np.asarray(np.linalg.solve(left, right))
