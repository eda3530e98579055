"""AXN, adaptive retrieval (paper, section 2.2, algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.item_model import ItemModel
from crossknn.search.regression import BayesianRidge, FittedQuery, Posterior, QuerySolver
from crossknn.search.rerank import propose_by_first_stage, propose_by_item_vectors
from crossknn.search.rounds import Progress, Proposal, Task
from crossknn.search.stopping import Belief, spread
from crossknn.vectors import MovingQuery, best_of_each, top_k


@dataclass(frozen=True)
class AXN:
    """Score a few items, refit the query's vector to what was seen, let it fetch the next ones.

    Round 1 takes the first stage's best, those of the item vectors themselves, or random items. Each later round solves
    ``V_A u = a`` for the items ``A`` scored so far (eq. 4), mixes in the dual encoder's query vector (eq. 7), and
    scores the unseen items that ``u`` likes best (eq. 5).

    The paper's own is ``AXN(rounds=5, solver=MinNorm())``. The default fits with noise, an intercept and the dual
    encoder's query vector as prior mean instead: least squares reproduces every score seen and swings wildly between
    them, and logits of -10 are out of reach of unit vectors without an intercept. The noise was chosen on dev
    queries with an early cross-encoder (``benchmarks/choices.py`` compares others).

    Attributes:
        rounds: ``R``. The paper takes 5 to 10; recall hardly grows beyond.
        first_round: where the first items come from: ``Y`` of the paper's AXN_{X,Y}, ``X`` being the item vectors. By
            "item vectors" is AXN_{X,X}. Random ones are the same for every query.
        mixing: ``lambda`` of eq. 7: 0 is the refitted vector alone, 1 the dual encoder's alone.
        solver: how the vector is fitted.
        ucb: standard deviations that are added to what an item is expected to score when the next ones are chosen
            (upper confidence bound: GP-UCB, Srinivas et al., ICML 2010, but with a constant beta, and of the score
            itself, so noise is in the deviation), among the 100 unseen items of the highest expected scores, or four
            times as many as a round takes. 0, the paper's way, goes by these alone. Beyond 512 scores of a query each
            round is fitted twice.
        seed: of random first items.
    """

    rounds: int = 10
    mixing: float = 0.0
    solver: QuerySolver = field(default_factory=lambda: BayesianRidge(noise=0.1, intercept_variance=10.0))
    first_round: Literal["first stage", "item vectors", "random"] = "first stage"
    seed: int = 0
    ucb: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds}")
        if not 0 <= self.mixing <= 1:
            raise InputError(f"mixing must lie between 0 and 1, got {self.mixing}")
        if self.first_round not in ("first stage", "item vectors", "random"):
            raise InputError(f"first_round must be 'first stage', 'item vectors' or 'random', got {self.first_round!r}")
        if not (np.isfinite(self.ucb) and self.ucb >= 0):
            raise InputError(f"ucb is a finite number of standard deviations, 0 or more, got {self.ucb}")
        if self.ucb and not self._knows_variance():
            raise InputError(
                "ucb needs standard deviations: a BayesianRidge solver, and no mixing; set ucb=0 (the method bayes)"
            )

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """See :class:`~crossknn.search.rounds.SearchMethod`.

        Raises:
            InputError: the index has no item vectors, or ``mixing`` is asked for without query vectors.
        """
        items = task.item_model
        if self.rounds == 1 or (not progress.rounds and items is not None and not self._lacks_vector(task)):
            return self._first(task, progress, size)
        if items is None:
            raise InputError("this index has no item vectors: give train queries or a dense first stage, or use rerank")
        if self._lacks_vector(task):
            raise InputError("mixing needs the query's vector from a dense first stage; set mixing=0")
        liking, solve_seconds = self._liking(task, items, progress)
        if self.ucb:
            some = self._best(task, liking, progress, max(_FEWEST_COMPARED, _TIMES_COMPARED * size))
            beliefs = (self._posterior(task, items, progress, row, of) for row, of in enumerate(liking))
            best = [self._highest_bounds(items, of, *ones, size) for of, ones in zip(beliefs, some, strict=True)]
        else:
            best = self._best(task, liking, progress, size)
        predicted = [s.astype(np.float64) + of.fit.intercept for of, (_, s) in zip(liking, best, strict=True)]
        chosen = np.array([indices for indices, _ in best])
        return Proposal(chosen, items.normalisation.invert(np.array(predicted)), solve_seconds)

    def has_variance(self, items: ItemModel | None) -> bool:
        """See :class:`~crossknn.search.stopping.Believer`: item vectors, a BayesianRidge solver and no mixing."""
        return items is not None and self._knows_variance()

    def _knows_variance(self) -> bool:
        return isinstance(self.solver, BayesianRidge) and not self.mixing > 0

    def beliefs(self, task: Task, progress: Progress, n: int) -> Iterator[Belief]:
        """See :class:`~crossknn.search.stopping.Believer`."""
        items = task.item_model
        assert items is not None  # has_variance
        liking, _ = self._liking(task, items, progress)
        for row, (best, scores) in enumerate(self._best(task, liking, progress, n)):
            posterior = self._posterior(task, items, progress, row, liking[row])
            means = scores.astype(np.float64) + posterior.query.intercept
            surprise = np.append(0.0, np.cumsum(posterior.whitened**2))
            *before, now = spread(surprise, np.arange(len(surprise)), learned_prior=items.noise is not None)
            scale, own = items.normalisation.scale, posterior.deviations_before
            variances = (posterior.variances(items.vectors[best]) * now, own**2 * before)
            deviations = [np.sqrt(np.maximum(some, 1e-12)) / scale for some in variances]
            means_before = progress.scores[row] - posterior.whitened * own / scale
            yield Belief(best, items.normalisation.invert(means), deviations[0], means_before, deviations[1])

    def _posterior(self, task: Task, items: ItemModel, progress: Progress, row: int, liking: _Liking) -> Posterior:
        assert isinstance(self.solver, BayesianRidge)
        return liking.posterior or self.solver.posterior(*self._seen(task, items, progress, row))

    def _highest_bounds(
        self, items: ItemModel, belief: Posterior, candidates: IntArray, scores: FloatArray, size: int
    ) -> tuple[IntArray, FloatArray]:
        """Of a query's best unseen items, those of the highest upper confidence bounds, and their scores."""
        deviations = np.sqrt(belief.variances(items.vectors[candidates]))
        chosen = np.argsort(-(scores + self.ucb * deviations), kind="stable")[:size]
        return candidates[chosen], scores[chosen]

    def _liking(self, task: Task, items: ItemModel, progress: Progress) -> tuple[list[_Liking], float]:
        """What the queries like, and the seconds of fitting them; remembered, so that nothing is done twice."""
        n_queries, n_scored = progress.indices.shape
        memory = progress.memory
        known = [old for old in memory if isinstance(old, _Liking) and old.is_of(self, n_scored)]
        if len(known) == n_queries:
            return known, 0.0
        start = time.perf_counter()
        memory.extend([None] * (n_queries - len(memory)))
        liking = []
        for row in range(n_queries):
            memory[row] = of_query = self._fit(task, items, progress, row)
            liking.append(of_query)
        return liking, time.perf_counter() - start

    def _best(
        self, task: Task, liking: Sequence[_Liking], progress: Progress, n: int
    ) -> list[tuple[IntArray, FloatArray]]:
        """For each query the n unseen items that it likes best, and what it makes of them but for its constant."""
        fitted = np.array([of_query.fit.vector for of_query in liking])
        if self.mixing > 0 and task.query_vectors is not None:
            fitted = (1 - self.mixing) * fitted + self.mixing * task.query_vectors
        return best_of_each([of_query.moving for of_query in liking], fitted, n, progress.unseen)

    def _fit(self, task: Task, items: ItemModel, progress: Progress, row: int) -> _Liking:
        """A query's vector refitted to its scores so far, going on from what is remembered of it."""
        seen, n_scored = self._seen(task, items, progress, row), progress.indices.shape[1]
        known = progress.memory[row]
        if not isinstance(known, _Liking) or known.method is not self:
            beside = items.beside(task.first_stage_scores[row])
            known = _Liking(self, 0, FittedQuery(np.empty(0), 0.0), MovingQuery(items.vectors, items.lengths, beside))
        if not isinstance(self.solver, BayesianRidge):
            return replace(known, n_scored=n_scored, fit=self.solver.solve(*seen))
        before = None if known.posterior is None else known.posterior.whitening
        posterior = self.solver.posterior(*seen, whitening=before)
        kept = posterior if n_scored <= _MOST_REMEMBERED else None
        return replace(known, n_scored=n_scored, fit=posterior.query, posterior=kept)

    def _seen(
        self, task: Task, items: ItemModel, progress: Progress, row: int
    ) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """What a solver takes: a query's item vectors and their scores so far, and its prior mean."""
        seen = progress.indices[row]
        beside = items.beside(task.first_stage_scores[row, seen], seen)
        targets = items.normalisation.apply(progress.scores[row]) - beside
        return items.vectors[seen], targets, None if task.query_vectors is None else task.query_vectors[row]

    def _first(self, task: Task, progress: Progress, size: int) -> Proposal:
        if self.first_round == "first stage":
            return propose_by_first_stage(task, progress, size)
        if self.first_round == "item vectors":
            return propose_by_item_vectors(task, progress, size)
        liking: FloatArray = np.random.default_rng(self.seed).random(progress.unseen.shape[1:])
        return Proposal(np.array([top_k(liking, size, unseen) for unseen in progress.unseen]))

    def _lacks_vector(self, task: Task) -> bool:
        return self.mixing > 0 and task.query_vectors is None


_FEWEST_COMPARED, _TIMES_COMPARED = 100, 4
"""Items whose upper confidence bounds are compared: so many times those that a round takes, 100 at least. With 300 for
100, in rounds of 5 and 10, dev queries of two sets had the same recall to .02 of a point."""

_MOST_REMEMBERED = 512
"""Scores of a query of which what is believed is kept to go on from (3 MB for each query of a batch); beyond, each
round fits from scratch."""


@dataclass(frozen=True, eq=False)
class _Liking:
    """What a method makes of one query after some scores; ``moving`` is the same from round to round."""

    method: AXN
    n_scored: int
    fit: FittedQuery
    moving: MovingQuery
    posterior: Posterior | None = None

    def is_of(self, method: AXN, n_scored: int) -> bool:
        """Whether it says what this method makes of the query now."""
        return self.method is method and self.n_scored == n_scored
