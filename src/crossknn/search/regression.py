"""Fitting a query's vector to the scores seen so far: the online half of the method (paper, section 2.2, eq. 4).

Every solver answers the same question: given the vectors ``V_A`` of the items scored so far and their scores ``a``,
which query vector ``u`` (and constant ``c``) has ``V_A u + c`` close to ``a``? They differ in what they believe before
they see a score, and all take a prior mean, which is where knowledge about the query comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError


@dataclass(frozen=True)
class FittedQuery:
    """A query's vector (d,) and its constant: item ``i`` is predicted to score ``vector @ V[i] + intercept``."""

    vector: FloatArray
    intercept: float


class QuerySolver(Protocol):
    """Fits one query's vector."""

    def solve(self, vectors: FloatArray, targets: FloatArray, prior_mean: FloatArray | None = None) -> FittedQuery:
        """Fit to the items scored so far.

        Args:
            vectors: (n_scored, d) item vectors ``V_A``.
            targets: (n_scored,) their scores ``a``.
            prior_mean: (d,) query vector expected before any score was seen; None is zero.
        """
        ...


@dataclass(frozen=True)
class MinNorm:
    """Least squares of least norm, eq. 4: ``u = V_A^+ a``, by singular values and not by the normal equations.

    With fewer scores than dimensions it reproduces every score seen; ``prior_mean`` is not used (the paper mixes a
    query vector in afterwards, eq. 7).

    >>> MinNorm().solve(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([3.0, 4.0])).vector.round(6).tolist()
    [3.0, 2.0]
    """

    def solve(self, vectors: FloatArray, targets: FloatArray, prior_mean: FloatArray | None = None) -> FittedQuery:
        """See :class:`QuerySolver`."""
        matrix = np.asarray(vectors, dtype=np.float64)
        return FittedQuery(np.linalg.lstsq(matrix, targets, rcond=None)[0], 0.0)


@dataclass(frozen=True)
class BayesianRidge:
    """Posterior mean of Bayesian linear regression, solved in the dual: an |A| x |A| system, whatever d is.

    ``a = V_A u + c + noise`` with ``u ~ N(m, S)``, ``c ~ N(0, t)``, noise ``N(0, s)``; then
    ``u = m + S V_A^T K^-1 (a - V_A m)`` and ``c = t 1^T K^-1 (a - V_A m)``, ``K = V_A S V_A^T + t 1 1^T + s I``.
    With ``m = 0``, ``S = I``, ``t = 0`` and ``s -> 0`` it is :class:`MinNorm`.

    Attributes:
        noise: variance ``s`` of a score around the linear model, above 0.
        covariance: ``S``; a number (isotropic), or a (d,) diagonal, or a (d, d) matrix.
        intercept_variance: ``t``; 0 leaves the constant out.
    """

    noise: float = 1e-2
    covariance: float | FloatArray = 1.0
    intercept_variance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.noise < np.inf:
            raise InputError(f"noise must be a finite variance above 0, got {self.noise}")
        if not 0 <= self.intercept_variance < np.inf:
            raise InputError(f"intercept_variance must be finite and not negative, got {self.intercept_variance}")
        negative = np.ndim(self.covariance) < 2 and np.any(np.less(self.covariance, 0))
        if negative or not np.isfinite(self.covariance).all():
            raise InputError("covariance must be finite, and not negative where it is a number or a diagonal")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BayesianRidge)
            and (self.noise, self.intercept_variance) == (other.noise, other.intercept_variance)
            and np.array_equal(self.covariance, other.covariance)
        )

    def __hash__(self) -> int:
        return hash((self.noise, self.intercept_variance))

    def solve(self, vectors: FloatArray, targets: FloatArray, prior_mean: FloatArray | None = None) -> FittedQuery:
        """See :class:`QuerySolver`.

        Raises:
            InputError: ``covariance`` does not fit the vectors, or with so little noise there is no solution.
        """
        return self.posterior(vectors, targets, prior_mean).query

    def posterior(
        self,
        vectors: FloatArray,
        targets: FloatArray,
        prior_mean: FloatArray | None = None,
        *,
        whitening: FloatArray | None = None,
    ) -> Posterior:
        """What is believed of all scores after some were seen.

        Gaussian process regression with a linear kernel (Rasmussen and Williams, *Gaussian Processes for Machine
        Learning*, section 2.2).

        Args:
            vectors, targets, prior_mean: as for :meth:`solve`.
            whitening: (n, n) ``whitening`` of what this solver believed when only the first ``n`` of these vectors, in
                this order, were scored: it is gone on from, and only the rows of ``K`` that are new are computed.

        Raises:
            InputError: as for :meth:`solve`, or ``whitening`` is of more vectors than there are.

        Cost: no CE call; ``O(n_new n_scored (n_scored + d))``, where ``n_new = n_scored`` without ``whitening``.
        """
        matrix = np.asarray(vectors, dtype=np.float64)
        if whitening is not None and len(whitening) > len(matrix):
            raise InputError(f"whitening is of {len(whitening)} vectors, and there are {len(matrix)}")
        mean = np.zeros(matrix.shape[1]) if prior_mean is None else np.asarray(prior_mean, dtype=np.float64)
        lower_inverse = self._whitening(matrix, np.empty((0, 0)) if whitening is None else whitening)
        whitened = lower_inverse @ (targets - matrix @ mean)
        weights = lower_inverse.T @ whitened
        moved = self._times_covariance((weights @ matrix)[None])[0]
        fitted = FittedQuery(mean + moved, float(self.intercept_variance * weights.sum()))
        return Posterior(fitted, self, vectors, lower_inverse, whitened)

    def _whitening(self, matrix: FloatArray, known: FloatArray) -> FloatArray:
        """``L^-1`` of ``K = L L^T`` for (n, d) vectors, from that of the first of them (block Cholesky)."""
        n, total = len(known), len(matrix)
        rows = self._times_covariance(matrix[n:]) @ matrix.T + self.intercept_variance
        across, own = rows[:, :n] @ known.T, rows[:, n:]
        own[np.diag_indices_from(own)] += self.noise
        try:
            new = np.linalg.inv(np.linalg.cholesky(own - across @ across.T))
        except np.linalg.LinAlgError:
            if n:  # rounding, perhaps: with little noise the whole may have what its parts have lost
                return self._whitening(matrix, known[:0, :0])
            raise InputError(
                f"noise={self.noise:g} is too little to tell {total} scores apart, or covariance has negative "
                "eigenvalues; give more noise"
            ) from None
        whitening = np.zeros((total, total))
        whitening[:n, :n], whitening[n:, n:] = known, np.tril(new)
        whitening[n:, :n] = -whitening[n:, n:] @ across @ known
        return whitening

    def prior_variances(self, vectors: FloatArray) -> FloatArray:
        """(n,) variances of the scores of items with these (n, d) vectors before any score was seen, noise included."""
        matrix = np.asarray(vectors, dtype=np.float64)
        own: FloatArray = np.einsum("nd,nd->n", self._times_covariance(matrix), matrix)
        return own + self.intercept_variance + self.noise

    def _times_covariance(self, matrix: FloatArray) -> FloatArray:
        covariance = np.asarray(self.covariance, dtype=np.float64)
        if covariance.ndim and covariance.shape not in ((matrix.shape[1],), (matrix.shape[1],) * 2):
            raise InputError(
                f"covariance has shape {covariance.shape}, but the item vectors have {matrix.shape[1]} dimensions"
            )
        product: FloatArray = matrix @ covariance if covariance.ndim == 2 else matrix * covariance
        return product


@dataclass(frozen=True)
class Posterior:
    """What :class:`BayesianRidge` believes after some scores.

    Attributes:
        query: the mean.
        solver: the prior.
        vectors: (n_scored, d) ``V_A``.
        whitening: (n_scored, n_scored) ``L^-1`` with ``L L^T = K``, lower triangular.
        whitened: (n_scored,) ``L^-1 r`` for the residuals ``r = a - V_A m``: how many standard deviations each score is
            above what was expected of it, given those before it.
    """

    query: FittedQuery
    solver: BayesianRidge
    vectors: FloatArray
    whitening: FloatArray
    whitened: FloatArray

    @property
    def surprise(self) -> float:
        """``r^T K^-1 r``; ``n_scored`` is what the prior expects."""
        return float(self.whitened @ self.whitened)

    @property
    def deviations_before(self) -> FloatArray:
        """(n_scored,) standard deviations of the scores, noise included, each given those before it."""
        deviations: FloatArray = 1 / np.diagonal(self.whitening)
        return deviations

    def variances(self, vectors: FloatArray) -> FloatArray:
        """Variances of the scores of unseen items, noise included: never below the noise, never above the prior's.

        Args:
            vectors: (n, d) item vectors.

        Returns:
            (n,).
        """
        matrix = np.asarray(vectors, dtype=np.float64)
        shared = self.vectors @ self.solver._times_covariance(matrix).T + self.solver.intercept_variance
        explained = np.square(self.whitening @ shared).sum(axis=0)
        left: FloatArray = np.maximum(self.solver.prior_variances(matrix) - explained, self.solver.noise)
        return left
