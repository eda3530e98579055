"""MF_Trns by AdamW: its first step by hand, what it learns, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossknn.errors import InputError
from crossknn.factorization import MFTransductive, MFTransductiveAdamW, Normalisation
from crossknn.scores import Pairs, ScoreMatrix

N_QUERIES, N_ITEMS, D = 30, 50, 4
UNSEEN = slice(N_ITEMS - 5, None)


def _problem() -> tuple[ScoreMatrix, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    u, v, noise = (rng.normal(size=(n, D)) for n in (N_QUERIES, N_ITEMS, N_ITEMS))
    exact, seen = 3 * u @ v.T - 2, rng.random((N_QUERIES, N_ITEMS)) < 0.6
    seen[:, UNSEEN] = False
    return ScoreMatrix(*np.nonzero(seen), exact[seen], exact.shape), {
        "item_vectors": v + 0.5 * noise,
        "query_vectors": u,
    }


@pytest.mark.torch
def test_the_first_step_is_adamws() -> None:
    pytest.importorskip("torch")
    scores, vectors = _problem()
    model = MFTransductiveAdamW(epochs=1, learning_rate=0.01, batch_size=10_000).fit(scores, **vectors)
    u, v = vectors["query_vectors"], vectors["item_vectors"]
    products = np.array([u[q] @ v[i] for q, i in zip(scores.query_indices, scores.item_indices, strict=True)])
    normalisation = Normalisation.matching(scores.values, products)
    slope = np.zeros_like(v)
    for q, i, s, p in zip(scores.query_indices, scores.item_indices, scores.values, products, strict=True):
        slope[i] += 2 * (p - normalisation.apply(s)) * u[q] / len(products)
    np.testing.assert_allclose(model.vectors, v - 0.01 * slope / (np.abs(slope) + 1e-8), atol=1e-5)
    assert model.normalisation.scale == pytest.approx(normalisation.scale)


@pytest.mark.torch
def test_it_fits_the_observed_cells_and_leaves_the_other_items_alone() -> None:
    pytest.importorskip("torch")
    scores, vectors = _problem()

    def error(model: Any) -> float:
        """How well the rows of the items' vectors can still explain each query's normalised scores."""
        residuals = []
        for _, cells in scores.by_query():
            matrix, target = model.vectors[scores.item_indices[cells]], model.normalisation.apply(scores.values[cells])
            residuals.append(target - matrix @ np.linalg.lstsq(matrix, target, rcond=None)[0])
        return float(np.mean(np.concatenate(residuals) ** 2))

    fits = [MFTransductiveAdamW(epochs=n, learning_rate=0.02, batch_size=100).fit(scores, **vectors) for n in (1, 60)]
    assert error(fits[1]) < 0.1 * error(fits[0])
    closed = MFTransductive(ridge=0.1, bias_ridge=1e9, sweeps=60).fit(scores, **vectors)  # no biases, hardly held
    assert error(fits[1]) < error(closed) * 1.1
    for model in fits:
        np.testing.assert_array_equal(model.vectors[UNSEEN], vectors["item_vectors"][UNSEEN].astype(np.float32))
        assert not model.biases.any()
    again = MFTransductiveAdamW(epochs=60, learning_rate=0.02, batch_size=100).fit(scores, **vectors)
    np.testing.assert_array_equal(again.vectors, fits[1].vectors)


@pytest.mark.torch
def test_what_cannot_be_fitted_is_refused() -> None:
    pytest.importorskip("torch")
    scores, vectors = _problem()
    with pytest.raises(InputError, match="dense first stage"):
        MFTransductiveAdamW().fit(scores)
    with pytest.raises(InputError, match="do not fit"):
        MFTransductiveAdamW().fit(scores, vectors["item_vectors"][1:], vectors["query_vectors"])
    with pytest.raises(InputError, match="cannot use the device 'toaster'"):
        MFTransductiveAdamW(device="toaster").fit(scores, **vectors)
    none = np.empty(0, dtype=np.int64)
    with pytest.raises(InputError, match="no score"):
        MFTransductiveAdamW().check(Pairs(none, none), 3, has_vectors=True)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}], ids=str)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        MFTransductiveAdamW(**settings)
