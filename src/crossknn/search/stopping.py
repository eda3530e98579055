"""When to stop: how much of the exact top k a search has found already, as far as it can know.

After some rounds :class:`~crossknn.BayesianRidge` believes that an unseen item scores ``N(mu_i, f v_i)``. ``v_i`` is
the posterior variance, and ``f = (v + r^T K^-1 r) / (v + |A| - 2)`` scales it to how far this query's scores surprise
the prior (the variance of a Student process of ``v`` degrees of freedom: Shah et al., *Student-t Processes as
Alternatives to Gaussian Processes*, AISTATS 2014, its tails left Gaussian): ``v = 20`` where the prior was learned from
train queries (:class:`~crossknn.factorization.MFSideInformation`), 0 where its scale means nothing. With the scores
seen ``s_1 >= s_2 >= ...``, some ``n_j = sum_i P(score_i > s_j)`` unseen items are expected above the j-th; the
j-th is in the exact top k if fewer than ``k - j + 1`` are, and taking their number as Poisson

    E[recall@k] = 1/k sum_j P(Poisson(n_j) <= k - j).

The sum over items stops at the 500 with the highest means (10 k where that is more). Scores have no Gaussian tails, and
how far off that is differs from query to query: so the ``n_j`` are multiplied by ``g = (3 + o) / (3 + e)``, where ``e``
of the items scored after the first round were expected to enter the k best, as they were then, and ``o`` did (the
mean of a Gamma distribution after as many Poisson counts; ``e`` and ``o`` in the mean of entering at each rank). Form
and constants were chosen on dev queries.

It is no calibrated number: too low early in a search over vectors that nothing was learned for, too high late. Searches
of queries whose true recall is known make it one (:class:`Calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.item_model import ItemModel
from crossknn.search.rounds import Progress, SearchMethod, Task

_DEGREES_OF_FREEDOM = 20
_AS_EXPECTED = 3.0
"""Items that entered the k best as was expected, before any did: how much is believed of the Gaussian tails."""

_CANNOT = (
    "{}, as it is set, does not know how sure it is over this index, so it can neither stop at a target recall nor "
    "share a budget; use AXN over item vectors, with a BayesianRidge solver and no mixing (the methods axn, bayes and "
    "bayes-ucb)"
)


@dataclass(frozen=True)
class Belief:
    """What a method believes of the items that a query has not seen, and what it believed of those it has.

    Attributes:
        items: (n,) unseen items that may score high.
        means: (n,) their expected CE scores.
        deviations: (n,) standard deviations of these, infinite where nothing can be told yet.
        means_before: (n_scored,) CE scores that were expected of the items scored, given those scored before them.
        deviations_before: (n_scored,) standard deviations of these.
    """

    items: IntArray
    means: FloatArray
    deviations: FloatArray
    means_before: FloatArray
    deviations_before: FloatArray


@runtime_checkable
class Believer(SearchMethod, Protocol):
    """A search method that knows how sure it is."""

    def beliefs(self, task: Task, progress: Progress, n: int) -> Iterator[Belief]:
        """For each query, what is believed of the ``n`` unseen items (at most) that are expected to score highest.

        Only where :meth:`has_variance`, and after a round at least. Costs no CE call.
        """
        ...

    def has_variance(self, items: ItemModel | None) -> bool:
        """Whether, with its settings, it has beliefs over an index with these item vectors (None: with none)."""
        ...


@dataclass(frozen=True)
class Calibration:
    """What recall was reached where a search expected some, ``sigmoid(scale logit(expected) + shift)``.

    Attributes:
        scale: at least 0; below 1 where the search is too sure of what it says, whichever way.
        shift: above 0 where it expects too little. With 1 and 0 what is expected is taken as it is.
        form: of the expectation that was calibrated; one of another form says nothing of today's.
    """

    scale: float
    shift: float
    form: int = 2

    @classmethod
    def fitted(cls, expected: FloatArray, reached: FloatArray, k: int) -> Calibration:
        """The likeliest of some searches, if what they expect was right more or less to begin with (Platt,
        *Probabilistic Outputs for Support Vector Machines*, 1999, with a prior).

        Queries differ more than rounds and hits of a query do, and there may be thirty: a curve that follows them, such
        as isotonic regression, tells of these thirty. Here a query weighs as ``sqrt(k)`` independent hits, and the
        prior is ``scale ~ N(1, 0.3^2)``, ``shift ~ N(0, 1)``; all of it was chosen on dev queries.

        Args:
            expected: (n_queries, n_rounds) recall expected after each round.
            reached: (n_queries, n_rounds) recall reached then. It can only rise, so the highest expectation so far
                stands for it.
            k: of which recall.
        """
        x, y = _logit(np.maximum.accumulate(expected, axis=1)).ravel(), reached.ravel()
        weight = math.sqrt(k) / expected.shape[1]
        design, prior, precision = np.stack([x, np.ones(len(x))]), np.array([1.0, 0.0]), np.array([1 / 0.3**2, 1.0])

        def loss(at: FloatArray) -> float:
            z = at @ design
            return float(weight * (np.logaddexp(0, z) - y * z).sum() + (precision * (at - prior) ** 2).sum() / 2)

        at = prior
        for _ in range(_NEWTON_STEPS):
            told = _sigmoid(at @ design)
            gradient = weight * design @ (told - y) + precision * (at - prior)
            curvature = weight * (design * told * (1 - told)) @ design.T + np.diag(precision)
            step = np.linalg.solve(curvature, gradient)
            while loss(at - step) > loss(at):
                step = step / 2
            at = at - step
        return cls(max(0.0, float(at[0])), float(at[1]))

    def __call__(self, expected: FloatArray) -> FloatArray:
        """The recall to expect, of the same shape."""
        return _sigmoid(self.scale * _logit(expected) + self.shift)


@dataclass(frozen=True)
class RecallTarget:
    """Stop a query once its expected recall reaches a target (see :class:`~crossknn.search.rounds.Stop`).

    Attributes:
        method: what is searching.
        recall: the target, above 0 and below 1; None stops no query, and only tells what to expect.
        k: of which recall.
        calibration: what the expectation is worth with this method and k; None takes it as it is.
    """

    method: SearchMethod
    recall: float | None
    k: int
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.recall is not None and not (isinstance(self.recall, int | float) and 0 < self.recall < 1):
            raise InputError(f"target_recall must lie between 0 and 1, got {self.recall!r}")
        if self.k < 1:
            raise InputError(f"k must be at least 1, got {self.k}")

    def check(self, task: Task) -> None:
        """See :class:`~crossknn.search.rounds.Stop`.

        Raises:
            InputError: the method does not know how sure it is.
        """
        if not can_tell(self.method, task.item_model):
            raise InputError(_CANNOT.format(type(self.method).__name__))

    def expected_recall(self, task: Task, progress: Progress) -> FloatArray:
        """(n_queries,) as :func:`expected_recall`; calibrated, the highest so far, within what the scores can hold."""
        expected = expected_recall(self.method, task, progress, self.k)
        if self.calibration is None:
            return expected
        told = self.calibration(expected)
        if progress.expected_recall is not None:
            told = np.maximum(told, progress.expected_recall)
        n_scored, wanted = progress.scores.shape[1], self._reachable(progress, self.k)
        exhausted = ~progress.unseen.any(axis=1)
        held: FloatArray = np.where(exhausted, 1.0, np.minimum(told, n_scored / np.maximum(wanted, 1)))
        return held

    def enough(self, progress: Progress) -> BoolArray:
        """(n_queries,) whose target is met after :func:`fewest_calls` (fewer where fewer items are allowed)."""
        assert progress.expected_recall is not None
        if self.recall is None:
            return np.zeros(len(progress.scores), dtype=bool)
        enough: BoolArray = progress.expected_recall >= self.recall
        enough &= progress.scores.shape[1] >= self._reachable(progress, fewest_calls(self.k))
        return enough

    def _reachable(self, progress: Progress, n: int) -> IntArray:
        reachable: IntArray = np.minimum(n, progress.scores.shape[1] + progress.unseen.sum(axis=1))
        return reachable


def fewest_calls(k: int) -> int:
    """CE calls of a query before which no target stops it: its k hits, and 25.

    After fewer scores it is a learned prior that decides, and queries on which the cross-encoder differs from what was
    learned have not shown it. Chosen on dev queries of ICD-10-CM and HPO (100 each), over late interaction and states:
    to a target of .95 the top item was found for 92, 92, 99 and 98 of 100 where 98 to 99 were expected, after 12 to 16
    calls; so it is for 98 to 99, after 28 or 29, and for k of 10 (44 and 46 calls for 40 and 43 on ICD-10-CM) recall
    is 98.4 and 98.2 for 96.7 and 95.8. Doubting a prior in proportion to ``c / |A|`` did as much, but told less than
    was found.
    """
    return max(k, 25)


def can_tell(method: SearchMethod, items: ItemModel | None) -> TypeGuard[Believer]:
    """Whether a method knows how sure it is over an index with these item vectors."""
    return isinstance(method, Believer) and method.has_variance(items)


def expected_recall(method: SearchMethod, task: Task, progress: Progress, k: int) -> FloatArray:
    """The share of each query's exact top k (among allowed items) that is expected to be among the items scored.

    Args:
        method: what is searching; it must know how sure it is (:class:`~crossknn.AXN` with
            :class:`~crossknn.BayesianRidge`).
        task: the queries.
        progress: what was scored so far.
        k: at least 1.

    Returns:
        (n_queries,) in 0..1.

    Raises:
        InputError: the method has no variance.

    Cost: no CE call.
    """
    if not can_tell(method, task.item_model):
        raise InputError(_CANNOT.format(type(method).__name__))
    if not progress.rounds:
        return np.zeros(len(task.queries))
    beliefs = method.beliefs(task, progress, n_candidates(k))
    return np.array([found_share(belief, progress.rows(np.array([n])), k) for n, belief in enumerate(beliefs)])


def n_candidates(k: int) -> int:
    """Unseen items that are looked at for the recall of the top k: lower ones hardly ever score among them."""
    return max(500, 10 * k)


def found_share(belief: Belief, progress: Progress, k: int) -> float:
    """One query's expected recall, in 0..1, from what is believed of its unseen items."""
    seen = progress.scores[0]
    reachable = min(k, len(seen) + int(progress.unseen.sum()))
    best = -np.sort(-seen)[:reachable]
    ranks = _ranks_of(len(best))
    above = _tail((best[ranks, None] - belief.means) / belief.deviations).sum(axis=1)
    above *= _more_than_expected(belief, progress, k)
    kept = _poisson_cdf(reachable - 1 - ranks, above)
    return float(np.interp(np.arange(len(best)), ranks, kept).sum() / reachable)


def _more_than_expected(belief: Belief, progress: Progress, k: int) -> float:
    """``g`` of this module's text, of one query."""
    (scores,), rounds = progress.scores, progress.round_of_column()
    entered, expected = 0.0, 0.0
    best = scores[:0]
    for number in range(1, len(progress.rounds) + 1):
        now = rounds == number
        if number > 1:
            edges = best[_ranks_of(len(best)), None]
            means, deviations = belief.means_before[now], belief.deviations_before[now]
            entered += float((scores[now] > edges).sum(axis=1).mean())
            expected += float(_tail((edges - means) / deviations).sum(axis=1).mean())
        best = -np.sort(-np.concatenate([best, scores[now]]))[:k]
    return (_AS_EXPECTED + entered) / (_AS_EXPECTED + expected)


def _ranks_of(n: int) -> IntArray:
    """All of n, or a hundred of them."""
    return np.unique(np.linspace(0, n - 1, _RANKS).round().astype(np.int64))


def spread(surprise: FloatArray | float, n_scored: IntArray | int, *, learned_prior: bool) -> FloatArray:
    """``f`` of this module's text; infinite where too little was scored."""
    freedom = _DEGREES_OF_FREEDOM if learned_prior else 0
    known = np.asarray(freedom + np.asarray(n_scored) - 2, dtype=np.float64)
    factor: FloatArray = np.where(known > 0, (freedom + np.asarray(surprise)) / np.where(known > 0, known, 1), np.inf)
    return factor


_NEWTON_STEPS = 30

_RANKS = 100
"""Hits of which it is worked out whether they stay among the k best; between them, of larger k, a line is drawn."""


def _logit(shares: FloatArray) -> FloatArray:
    """Of shares in 0..1, the outermost taken for 0.001 and 0.999."""
    inner = np.clip(shares, 1e-3, 1 - 1e-3)
    logit: FloatArray = np.log(inner / (1 - inner))
    return logit


def _sigmoid(z: FloatArray) -> FloatArray:
    sigmoid: FloatArray = 1 / (1 + np.exp(-z))
    return sigmoid


def _tail(z: FloatArray) -> FloatArray:
    """P(standard normal > z), to 1e-7 (Abramowitz and Stegun, 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    series = 0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    upper = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * t * series
    tail: FloatArray = np.where(z >= 0, upper, 1 - upper)
    return tail


def _poisson_cdf(at_most: IntArray, rates: FloatArray) -> FloatArray:
    """(n,) P(Poisson(rates[n]) <= at_most[n])."""
    counts = np.arange(at_most.max(initial=0) + 1)
    factorials = np.array([math.lgamma(c + 1) for c in counts])
    safe = np.maximum(rates, 1e-300)[:, None]
    terms = np.exp(counts * np.log(safe) - safe - factorials)
    sums: FloatArray = np.where(counts <= at_most[:, None], terms, 0).sum(axis=1)
    return np.minimum(sums, 1.0)
