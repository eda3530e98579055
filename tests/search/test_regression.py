"""The query-vector solvers against their textbook forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossknn import BayesianRidge, MinNorm
from crossknn.errors import InputError

D = 6


def _problem(n_scored: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors with singular values between 1 and 2, scores that no vector explains exactly, and a prior mean."""
    rng = np.random.default_rng(seed)
    left, _, right = np.linalg.svd(rng.normal(size=(n_scored, D)), full_matrices=False)
    vectors = left @ np.diag(rng.uniform(1, 2, min(n_scored, D))) @ right
    return vectors, rng.normal(size=n_scored) * 3, rng.normal(size=D)


_spread = np.random.default_rng(1).normal(size=(D, D))
COVARIANCES: dict[str, Any] = {
    "number": 0.7,
    "diagonal": np.linspace(0.5, 2, D),
    "matrix": _spread @ _spread.T + np.eye(D),
}


@pytest.mark.parametrize("n_scored", [1, D - 1, D, 4 * D])
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("intercept_variance", [0.0, 2.5])
@pytest.mark.parametrize("with_mean", [False, True])
def test_bayesian_ridge_is_the_posterior_mean_in_its_primal_form(
    n_scored: int, covariance: str, intercept_variance: float, with_mean: bool
) -> None:
    vectors, targets, mean = _problem(n_scored)
    noise = 0.3
    spread = COVARIANCES[covariance]
    dense = spread * np.eye(D) if covariance == "number" else np.diag(spread) if covariance == "diagonal" else spread
    prior = np.append(mean if with_mean else np.zeros(D), 0.0)
    precision = np.zeros((D + 1, D + 1))
    precision[:D, :D] = np.linalg.inv(dense)
    precision[D, D] = 1 / intercept_variance if intercept_variance else 1e15
    features = np.hstack([vectors, np.ones((n_scored, 1))])
    expected = np.linalg.solve(
        precision + features.T @ features / noise, precision @ prior + features.T @ targets / noise
    )
    solver = BayesianRidge(noise, spread, intercept_variance)
    fit = solver.solve(vectors, targets, mean if with_mean else None)
    np.testing.assert_allclose(np.append(fit.vector, fit.intercept), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("sizes", [(1, 2), (3, 3 + D, 4 * D), tuple(range(1, 4 * D))], ids=str)
def test_going_on_from_what_was_believed_is_as_good_as_from_scratch(covariance: str, sizes: tuple[int, ...]) -> None:
    vectors, targets, mean = _problem(sizes[-1])
    solver, whitening = BayesianRidge(0.3, COVARIANCES[covariance], 2.5), None
    for n in sizes:
        grown = solver.posterior(vectors[:n], targets[:n], mean, whitening=whitening)
        if whitening is not None:
            np.testing.assert_array_equal(grown.whitening[: len(whitening), : len(whitening)], whitening)
        whitening = grown.whitening
    whole = solver.posterior(vectors, targets, mean)
    np.testing.assert_allclose(grown.query.vector, whole.query.vector, rtol=1e-9, atol=1e-9)
    assert (grown.query.intercept, grown.surprise) == pytest.approx((whole.query.intercept, whole.surprise))
    others = np.random.default_rng(2).normal(size=(30, D))
    np.testing.assert_allclose(grown.variances(others), whole.variances(others), rtol=1e-9)


def test_items_that_hardly_differ_are_begun_again_where_going_on_fails() -> None:
    """Equal vectors a thousand times as long as the noise: what the parts lose to rounding the whole has."""
    vectors = np.repeat(1e3 * np.random.default_rng(0).normal(size=(2, D)), 20, axis=0)
    solver, targets = BayesianRidge(noise=1e-9), np.repeat([1.0, 2.0], 20)
    whitening = None
    for n in range(1, len(vectors) + 1):
        grown = solver.posterior(vectors[:n], targets[:n], whitening=whitening)
        whitening = grown.whitening
    np.testing.assert_allclose(vectors @ grown.query.vector, targets, rtol=1e-3)


@pytest.mark.parametrize("n_scored", [1, D - 1, D, D + 1, 4 * D])
def test_without_noise_bayesian_ridge_is_min_norm_is_the_pseudo_inverse(n_scored: int) -> None:
    vectors, targets, mean = _problem(n_scored)
    least = MinNorm().solve(vectors, targets, mean)
    np.testing.assert_allclose(least.vector, np.linalg.pinv(vectors) @ targets, atol=1e-10)
    assert least.intercept == 0
    ridge = BayesianRidge(noise=1e-7).solve(vectors, targets)
    np.testing.assert_allclose(ridge.vector, least.vector, atol=1e-5)
    if n_scored <= D:
        np.testing.assert_allclose(vectors @ least.vector, targets, atol=1e-10)


def test_min_norm_stands_items_that_repeat_and_vectors_of_zero() -> None:
    vectors = np.array([[1.0, 0], [1, 0], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(MinNorm().solve(vectors, np.array([1.0, 3, 5])).vector, [2, 0], atol=1e-12)


def test_with_much_noise_the_prior_mean_stays() -> None:
    vectors, targets, mean = _problem(12)
    np.testing.assert_allclose(BayesianRidge(noise=1e12).solve(vectors, targets, mean).vector, mean, atol=1e-8)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": np.inf},
        {"intercept_variance": np.inf},
        {"noise": 0.0},
        {"noise": -1.0},
        {"noise": np.nan},
        {"intercept_variance": -1.0},
        {"covariance": -1.0},
        {"covariance": np.array([1, -1.0])},
        {"covariance": np.inf},
        {"covariance": np.full((2, 2), np.nan)},
    ],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        BayesianRidge(**settings)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (BayesianRidge(covariance=np.ones(D + 1)), rf"shape \({D + 1},\), but the item vectors have {D}"),
        (BayesianRidge(covariance=np.ones((1, D))), rf"shape \(1, {D}\)"),
        (BayesianRidge(noise=1e-18), "noise=1e-18 is too little to tell 4 scores apart.*give more noise"),
        (BayesianRidge(noise=1e-3, covariance=-np.eye(D)), "negative eigenvalues; give more noise"),
    ],
    ids=["another width", "a row", "equal items", "negative"],
)
def test_what_cannot_be_solved_is_refused(solver: BayesianRidge, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver.posterior(np.ones((4, D)), np.arange(4.0)).variances(np.ones((2, D)))
