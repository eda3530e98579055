"""Systems by name: how an index learns, what ranks first, and how the budget is spent, in one short word."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.factorization import (
    CUR,
    Distillation,
    Factorization,
    MFInductive,
    MFSideInformation,
    MFTransductive,
    MFTransductiveAdamW,
)
from crossknn.first_stage import (
    BM25,
    Encoder,
    FirstStage,
    Hybrid,
    LateInteraction,
    RandomFirstStage,
    TfIdf,
    WithStates,
    WithVectors,
)
from crossknn.learning import BuildOptions
from crossknn.scorers import Scorer
from crossknn.scores import AllItems, PerQuery
from crossknn.search import METHODS, SearchMethod, with_settings
from crossknn.search.named import METHOD_PATTERN

_CALLS_PER_QUERY = 100
DISTILLED = "distilled"
VECTORS = "vectors"
HYBRID = "hybrid"
LATE = "late"
STATES = "states"
LATE_STATES = "latestates"


@dataclass(frozen=True)
class Learner:
    """A way of learning offline.

    Attributes:
        factorization: makes item vectors of the scores.
        needs_vectors: starts from a dense first stage's vectors, and cannot do without.
        second_pass: half of the calls go where the train queries' own searches would look next.
        dense_rows: learns from train queries that are scored against all items.
        fine_tuning: how the dual encoder itself learns from the scores first; the factorization starts from what it is
            then (``scale`` fits the scale of scores alone). None leaves it as it is.
    """

    factorization: Callable[[], Factorization]
    needs_vectors: bool = False
    second_pass: bool = False
    dense_rows: bool = False
    fine_tuning: Distillation | None = None


def _scale() -> Factorization:
    return MFTransductive(sweeps=0)


_FINE_TUNING = Distillation(max_length=64)
"""For vectors that a factorization goes on from."""

LEARNERS: Mapping[str, Learner] = {
    "scale": Learner(_scale),
    "mf": Learner(MFTransductive),
    "mf-refined": Learner(MFTransductive, second_pass=True),
    "mf-adamw": Learner(MFTransductiveAdamW, needs_vectors=True),
    "mf-ind": Learner(MFInductive, needs_vectors=True),
    "mf-side": Learner(MFSideInformation, needs_vectors=True),
    "mf-side-refined": Learner(MFSideInformation, needs_vectors=True, second_pass=True),
    "cur": Learner(CUR, dense_rows=True),
    DISTILLED: Learner(_scale, needs_vectors=True, fine_tuning=Distillation(epochs=3, learning_rate=1e-5)),
    "mf-distilled": Learner(MFTransductive, needs_vectors=True, fine_tuning=_FINE_TUNING),
    "mf-side-distilled": Learner(MFSideInformation, needs_vectors=True, second_pass=True, fine_tuning=_FINE_TUNING),
}


def _with_states(encoder: Encoder, vectors: FloatArray | None, scorer: Scorer) -> WithStates:
    return WithStates(Hybrid(encoder, vectors), scorer)


OVER: Mapping[str, Callable[[Encoder, FloatArray | None, Scorer], FirstStage]] = {
    HYBRID: lambda encoder, vectors, scorer: Hybrid(encoder, vectors),
    LATE: lambda encoder, vectors, scorer: WithVectors(LateInteraction(encoder), Hybrid(encoder, vectors)),
    STATES: _with_states,
    LATE_STATES: lambda encoder, vectors, scorer: WithVectors(
        LateInteraction(encoder), _with_states(encoder, vectors, scorer)
    ),
}
"""What an index may be over from the start, made of a dual encoder, its item vectors and the cross-encoder."""

READING = (STATES, LATE_STATES)
"""Those for which the cross-encoder reads every item, which counts as a call for each."""

FIRST_STAGES: Mapping[str, Callable[[], FirstStage]] = {"bm25": BM25, "tfidf": TfIdf, "random": RandomFirstStage}

_NAME = re.compile(
    METHOD_PATTERN + r"(?:/(?P<first>[a-z0-9]+))?"
    r"(?::(?P<learner>[a-z]+(?:-[a-z]+)*)(?:@(?P<calls>\d+(?:\.\d+)?))?(?:x(?P<queries>\d+))?)?"
)
_SHAPE = "METHOD[-rROUNDS][-mMIXING][/FIRST][:LEARNER[@CALLS][xQUERIES]]"


@dataclass(frozen=True)
class SystemName:
    """``METHOD[-rROUNDS][-mMIXING][/FIRST][:LEARNER[@CALLS][xQUERIES]]``, such as ``axn:mf@2`` or ``rerank/bm25``.

    Attributes:
        method: one of :data:`~crossknn.search.METHODS`.
        rounds, mixing: in place of the method's own.
        first: what ranks the first items: a first stage in place of the index's, ``vectors`` for the learned item
            vectors themselves, or ``distilled`` for the dual encoder fine-tuned on as many calls. Or one of
            :data:`OVER`, what the index is over from the start: ``hybrid`` (:class:`~crossknn.Hybrid`), whose vectors
            are then learned from too, ``late``, :class:`~crossknn.LateInteraction` before these, ``states``,
            :class:`~crossknn.WithStates` over them, or ``latestates``, both. None is the index's first stage, but what
            was learned where ``rerank`` has a learner.
        learner: what is learned offline: one of :data:`LEARNERS` (``scale`` learns the normalisation of scores alone,
            appendix A.4 of the paper; ``distilled`` is a fine-tuned dual encoder); None learns nothing.
        calls: CE calls offline for each item, one of them to read it where ``first`` has states; None is the learner's
            own setting (100 for each train query, all items for CUR).
        queries: how many of the train queries are learned from, those that stand for the others best
            (:class:`~crossknn.BuildOptions`); None takes all.
    """

    method: str
    rounds: int | None = None
    first: str | None = None
    learner: str | None = None
    calls: float | None = None
    mixing: float | None = None
    queries: int | None = None

    @classmethod
    def parse(cls, name: str) -> SystemName:
        """From its text.

        Raises:
            InputError: what is wrong, and what there is.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise InputError(f"{name!r} is no system; write {_SHAPE}, such as axn:mf@2 or rerank/bm25")
        method, rounds, mixing, first, learner, calls, queries = found.groups()
        for what, value, known in (
            ("method", method, METHODS),
            ("first stage", first, [*FIRST_STAGES, *OVER, VECTORS, DISTILLED]),
            ("learner", learner, LEARNERS),
        ):
            if value is not None and value not in known:
                raise InputError(f"{name!r}: no {what} {value!r}; there are {', '.join(known)}")
        parsed = cls(
            method,
            None if rounds is None else int(rounds),
            first,
            learner,
            None if calls is None else float(calls),
            None if mixing is None else float(mixing),
            None if queries is None else int(queries),
        )
        if 0 in (parsed.calls, parsed.rounds, parsed.queries):
            raise InputError(f"{name!r}: rounds, calls and queries must be above 0")
        parsed.search_method()
        if learner is not None and LEARNERS[learner].dense_rows and (first == VECTORS or method == "rerank"):
            raise InputError(f"{name!r}: columns of dense rows rank nothing before a query has scores; use adacur:cur")
        if first in OVER and method == "anncur":
            raise InputError(f"{name!r}: anncur has no use for vectors of a first stage; leave out /{first}")
        if first in OVER and learner is not None and LEARNERS[learner].fine_tuning:
            raise InputError(f"{name!r}: a fine-tuned encoder has nothing beside; leave out /{first}")
        if first == DISTILLED and (learner in (None, DISTILLED) or method == "rerank"):
            raise InputError(
                f"{name!r}: the fine-tuned encoder ranks first where other vectors are learned beside it, such as in "
                "axn/distilled:mf@10; by itself it is rerank:distilled@10 or axn/vectors:distilled@10"
            )
        return parsed

    @property
    def family(self) -> str:
        """The name without the calls: systems of one family are one line in a figure against calls."""
        settings = (f"-r{self.rounds}" if self.rounds else "") + ("" if self.mixing is None else f"-m{self.mixing:g}")
        whole = self.method + settings + (f"/{self.first}" if self.first else "")
        learned = f":{self.learner}" + (f" x{self.queries}" if self.queries else "")
        return whole + learned if self.learner else whole

    @property
    def reads_items(self) -> bool:
        """Whether the cross-encoder reads every item, beside the pairs that it scores."""
        return self.first in READING

    @property
    def fine_tunes(self) -> bool:
        """Whether the dual encoder has to learn for it."""
        return self.first == DISTILLED or (self.learner is not None and LEARNERS[self.learner].fine_tuning is not None)

    @property
    def alone(self) -> bool:
        """Whether it has no use for vectors of the first stage, and pays for none."""
        reranks = self.method == "rerank" and self.first in FIRST_STAGES and self.learner is None
        return reranks or self.method == "anncur"

    @property
    def over(self) -> str | None:
        """What its index is over from the start, if not the first stage as it is."""
        return self.first if self.first in OVER else None

    @property
    def label(self) -> str:
        """What is learned: systems of one label share an index, and what it was trained to."""
        return (
            ("" if self.over is None else f"{self.over}-")
            + f"{self.learner}"
            + (f"@{self.calls:g}" if self.calls is not None else "")
            + (f"x{self.queries}" if self.queries else "")
        )

    def search_method(self) -> SearchMethod:
        """How the budget is spent.

        Raises:
            InputError: the method has no rounds, or no first round by vectors.
        """
        learned_first = self.method == "rerank" and self.first is None and self.learner is not None
        by_item_vectors = self.first == VECTORS or learned_first
        method = METHODS[self.method]
        return with_settings(method, self.method, self.rounds, self.mixing, by_item_vectors=by_item_vectors)

    def build_options(self, n_queries: int, n_items: int, seed: int) -> BuildOptions:
        """Plan and factorization for the calls that the name allows; half of a query's items are its nearest.

        Where a learner has a second pass, half of them are for that.

        Args:
            n_queries: train queries that there are; the options are for the first ``queries`` of them.
            n_items: items.
            seed: of the plan's random part.

        Raises:
            InputError: there are fewer train queries than the name says, or the calls do not fit them, or buy no dense
                row.
        """
        if self.learner is None:
            raise InputError(f"{self.family} learns nothing")
        if self.queries is not None:
            if self.queries > n_queries:
                raise InputError(f"{self.family} asks for {self.queries:,} train queries; there are {n_queries:,}")
            n_queries = self.queries
        learner = LEARNERS[self.learner]
        factorization = learner.factorization()
        calls = None if self.calls is None else round((self.calls - self.reads_items) * n_items)
        if self.reads_items and calls is not None and calls < 1:
            raise InputError(f"{self.family}: reading the items is a call for each, and leaves no other; give @2")
        if calls is not None and calls > n_queries * n_items:
            raise InputError(
                f"{self.family}: {calls / n_items:g} calls per item need as many train queries; there are {n_queries:,}"
            )
        if learner.dense_rows:
            rows = n_queries if calls is None else calls // n_items
            if rows == 0:
                raise InputError("cur needs a call per item at least: its smallest index is one dense row")
            return BuildOptions(plan=AllItems(rows), factorization=factorization, seed=seed)
        if calls is None:
            calls = min(_CALLS_PER_QUERY, n_items) * n_queries
        each = -(-calls // n_queries)
        refine = each // 2 if learner.second_pass else 0
        first = each - refine
        plan = PerQuery(top=-(-first // 2), uniform=first // 2)
        return BuildOptions(plan=plan, factorization=factorization, refine=refine, max_calls=calls, seed=seed)
