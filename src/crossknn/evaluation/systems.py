"""Systems by name: how an index learns, what ranks first, and how the budget is spent, in one short word."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crossknn.errors import InputError
from crossknn.factorization import (
    CUR,
    Factorization,
    MFInductive,
    MFSideInformation,
    MFTransductive,
    MFTransductiveAdamW,
)
from crossknn.first_stage import BM25, FirstStage, RandomFirstStage, TfIdf
from crossknn.index import BuildOptions
from crossknn.scores import AllItems, PerQuery
from crossknn.search import METHODS, SearchMethod
from crossknn.search.named import variant

DISTILLED = "distilled"
REFINED = "-refined"
VECTORS = "vectors"

FACTORIZATIONS: Mapping[str, Callable[[], Factorization]] = {
    "scale": lambda: MFTransductive(sweeps=0),
    "mf": MFTransductive,
    "mf-refined": MFTransductive,
    "mf-adamw": MFTransductiveAdamW,
    "mf-ind": MFInductive,
    "mf-side": MFSideInformation,
    "mf-side-refined": MFSideInformation,
    "cur": CUR,
}
NEED_VECTORS = ("mf-adamw", "mf-ind", "mf-side", "mf-side-refined", DISTILLED)
"""Learners that start from a dense first stage's vectors and cannot do without."""

FIRST_STAGES: Mapping[str, Callable[[], FirstStage]] = {"bm25": BM25, "tfidf": TfIdf, "random": RandomFirstStage}

_NAME = re.compile(
    r"(?P<method>[a-z]+(?:-[a-z]+)*)(?:-r(?P<rounds>\d+))?(?:-m(?P<mixing>0?\.\d+|[01]))?(?:/(?P<first>[a-z0-9]+))?"
    r"(?::(?P<learner>[a-z]+(?:-[a-z]+)*)(?:@(?P<calls>\d+(?:\.\d+)?))?)?"
)


@dataclass(frozen=True)
class SystemName:
    """``METHOD[-rROUNDS][-mMIXING][/FIRST][:LEARNER[@CALLS]]``, such as ``axn:mf@2`` or ``rerank/bm25``.

    Attributes:
        method: one of :data:`~crossknn.search.METHODS`.
        rounds, mixing: in place of the method's own.
        first: what ranks the first items: a first stage in place of the index's, or ``vectors`` for the learned item
            vectors themselves; None is the index's first stage, but what was learned where ``rerank`` has a learner.
        learner: what is learned offline: one of :data:`FACTORIZATIONS` (``scale`` learns the normalisation of scores
            alone, appendix A.4 of the paper), or ``distilled`` for a fine-tuned dual encoder;
            None learns nothing.
        calls: CE calls offline for each item; None is the learner's own setting (100 for each train query, all items
            for CUR).
    """

    method: str
    rounds: int | None = None
    first: str | None = None
    learner: str | None = None
    calls: float | None = None
    mixing: float | None = None

    @classmethod
    def parse(cls, name: str) -> SystemName:
        """From its text.

        Raises:
            InputError: what is wrong, and what there is.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise InputError(
                f"{name!r} is no system; write METHOD[-rROUNDS][-mMIXING][/FIRST][:LEARNER[@CALLS]], such as "
                "axn:mf@2 or rerank/bm25"
            )
        method, rounds, mixing, first, learner, calls = found.groups()
        for what, value, known in (
            ("method", method, METHODS),
            ("first stage", first, [*FIRST_STAGES, VECTORS]),
            ("learner", learner, [*FACTORIZATIONS, DISTILLED]),
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
        )
        if parsed.calls == 0 or parsed.rounds == 0:
            raise InputError(f"{name!r}: rounds and calls must be above 0")
        parsed.search_method()
        if learner == "cur" and (first == VECTORS or method == "rerank"):
            raise InputError(f"{name!r}: columns of dense rows rank nothing before a query has scores; use adacur:cur")
        return parsed

    @property
    def family(self) -> str:
        """The name without the calls: systems of one family are one line in a figure against calls."""
        settings = (f"-r{self.rounds}" if self.rounds else "") + ("" if self.mixing is None else f"-m{self.mixing:g}")
        whole = self.method + settings + (f"/{self.first}" if self.first else "")
        return f"{whole}:{self.learner}" if self.learner else whole

    def search_method(self) -> SearchMethod:
        """How the budget is spent.

        Raises:
            InputError: the method has no rounds, or no first round by vectors.
        """
        learned_first = self.method == "rerank" and self.first is None and self.learner is not None
        return variant(self.method, self.rounds, self.mixing, by_item_vectors=self.first == VECTORS or learned_first)

    def build_options(self, n_queries: int, n_items: int, seed: int) -> BuildOptions:
        """Plan and factorization for the calls that the name allows; half of a query's items are its nearest.

        A refined learner spends half of them in a second pass.

        Raises:
            InputError: the calls do not fit the train queries, or buy no dense row.
        """
        if self.learner is None:
            raise InputError(f"{self.family} learns nothing")
        keeps_vectors = MFTransductive(sweeps=0)  # distillation is no factorization: its scores are only collected
        factorization = FACTORIZATIONS[self.learner]() if self.learner in FACTORIZATIONS else keeps_vectors
        calls = None if self.calls is None else round(self.calls * n_items)
        if calls is not None and calls > n_queries * n_items:
            raise InputError(
                f"{self.family}: {self.calls:g} calls per item need as many train queries; there are {n_queries:,}"
            )
        if self.learner == "cur":
            rows = n_queries if calls is None else calls // n_items
            if rows == 0:
                raise InputError("cur needs a call per item at least: its smallest index is one dense row")
            return BuildOptions(plan=AllItems(rows), factorization=factorization, seed=seed)
        if calls is None:
            calls = min(PerQuery().n_calls(n_queries, n_items), n_queries * n_items)
        each = -(-calls // n_queries)
        refine = each // 2 if self.learner.endswith(REFINED) else 0
        first = each - refine
        plan = PerQuery(top=-(-first // 2), uniform=first // 2)
        return BuildOptions(plan=plan, factorization=factorization, refine=refine, max_calls=calls, seed=seed)
