"""The index: it ties the rooms together and holds no mathematics of its own."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from crossknn import storage
from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.checks import check_count, checked_filter, checked_queries, checked_removal, named_items
from crossknn.errors import BudgetError, IndexFileError, InputError
from crossknn.factorization import Factorization, ItemModel, default_factorization
from crossknn.files import sole_writer
from crossknn.first_stage import FirstStage, VectorFirstStage
from crossknn.first_stage.base import BoundFirstStage, Kept, PairFirstStage, kept_of, updated
from crossknn.first_stage.beside import BoundWithVectors
from crossknn.index_contents import arguments_of, check_built_with, contents_of, keep_prepared, prepared_before
from crossknn.metadata import Conditions, checked_metadata
from crossknn.results import Hit, ScoredItem, SearchResult
from crossknn.scorers import Scorer
from crossknn.scorers.base import checked_scores, prepared
from crossknn.scores import Pairs, PerQuery, Plan, ScoreMatrix, collect_scores
from crossknn.scores.ledger import ProgressCallback
from crossknn.search import (
    AXN,
    METHODS,
    Progress,
    RecallTarget,
    Rerank,
    Rounds,
    SearchMethod,
    Task,
    method_named,
    run,
    run_sharing,
)
from crossknn.search.refinement import next_pairs
from crossknn.search.stopping import can_tell
from crossknn.tuning import Tuning, tune

_QUERIES_AT_ONCE = 64
_SECOND_PASS = 50
_PLANNED_AT_ONCE = 2**22
"""First-stage scores in memory while pairs are planned (16 MB), though no fewer than eight queries'."""


@dataclass(frozen=True)
class BuildOptions:
    """How an index is learned from train queries.

    Attributes:
        plan: which (train query, item) pairs are scored.
        factorization: how item vectors are made of the scores; None is
            :func:`~crossknn.factorization.default_factorization`.
        refine: pairs per train query that are scored in a second pass: those of which its search would expect most,
            with item vectors learned from the first (:mod:`crossknn.search.refinement`). None is 50 where the plan is
            the one that is here by default, so that a train query costs 100 calls, and 0 (no second pass) beside
            another.
        max_calls: cap on CE calls; both passes give up the last train queries to keep it.
        shard_size: fewest pairs scored between two writes to disk; a crash loses these, or up to 64 times as many of a
            scorer that takes less than half a second for them.
        seed: of the plan's random part.
    """

    plan: Plan = field(default_factory=PerQuery)
    factorization: Factorization | None = None
    refine: int | None = None
    max_calls: int | None = None
    shard_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_calls is not None and self.max_calls < 1:
            raise BudgetError(f"max_calls must be at least 1, got {self.max_calls}; to score nothing, give no queries")
        for name, least in (("max_calls", 1), ("refine", 0), ("shard_size", 1), ("seed", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")

    @property
    def second_pass(self) -> int:
        """Pairs per train query of the second pass."""
        if self.refine is not None:
            return self.refine
        return _SECOND_PASS if self.plan == PerQuery() else 0

    def price(self, n_queries: int, n_items: int) -> int:
        """CE calls that building would spend on pairs; :class:`~crossknn.WithStates` reads the items beside."""
        calls = self.plan.n_calls(n_queries, n_items) if n_queries else 0
        calls = min(calls + self.second_pass * n_queries, n_queries * n_items)
        return calls if self.max_calls is None else min(calls, self.max_calls)

    def first_pass_price(self, n_queries: int, n_items: int) -> int:
        """Those of them that the plan spends: under a cap, its share for as many train queries as both passes pay."""
        calls = self.plan.n_calls(n_queries, n_items) if n_queries else 0
        if not calls or self.max_calls is None:
            return calls
        each = calls / n_queries
        kept = math.ceil(self.max_calls / (each + self.second_pass))
        return min(calls, self.max_calls, round(kept * each))


class Index:
    """Items, what was learned about them, and the scorer and first stage that search them.

    Make one with :meth:`build` or :meth:`load`.

    Attributes:
        item_ids: the items' own keys.
        items: their texts, in the same order.
        metadata: their fields, in the same order; what a ``filter`` asks of.
        first_stage: the cheap retrieval that searches begin with.
        item_model: item vectors for the search; None with a first stage that has none and no train queries.
        train_queries: the queries the index learned from.
        train_scores: their observed scores; None without train queries.
        notes: whatever should be kept with the index; the command remembers there which models it named.
        tuning: how it is searched where the caller does not say; None before :meth:`tune`.
    """

    def __init__(
        self,
        items: Mapping[str, str],
        scorer: Scorer,
        first_stage: FirstStage,
        *,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        first_stage_kept: Kept | None = None,
        bound_first_stage: BoundFirstStage | None = None,
        item_model: ItemModel | None = None,
        train_queries: Sequence[str] = (),
        train_scores: ScoreMatrix | None = None,
        notes: Mapping[str, str] | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.item_ids = list(items)
        self.items = list(items.values())
        self.metadata = checked_metadata(metadata, self.item_ids)
        self.train_queries = list(train_queries)
        self.train_scores = train_scores
        self.notes = dict(notes or {})
        self.tuning = tuning
        self._scorer = scorer
        self.first_stage = first_stage
        if bound_first_stage is None:
            bound_first_stage = first_stage.prepare(self.items, first_stage_kept)
        self._bound_first_stage = bound_first_stage
        vectors = self.first_stage_vectors
        self.item_model = ItemModel.from_vectors(vectors) if item_model is None and vectors is not None else item_model
        self._bound_scorer = prepared(scorer, self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def scorer(self) -> Scorer:
        """The cross-encoder."""
        return self._scorer

    @property
    def first_stage_vectors(self) -> FloatArray | None:
        """(n_items, d) the items' vectors by the first stage; None if it has none."""
        first_stage = self._bound_first_stage
        return first_stage.item_vectors if isinstance(first_stage, VectorFirstStage) else None

    @property
    def first_stage_kept(self) -> Kept:
        """What the first stage prepared of the items, and :meth:`save` keeps."""
        return kept_of(self._bound_first_stage)

    # -- build, save, load -------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        items: Mapping[str, str] | Sequence[str],
        *,
        scorer: Scorer,
        first_stage: FirstStage,
        queries: Sequence[str] = (),
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        out: str | Path | None = None,
        options: BuildOptions | None = None,
        notes: Mapping[str, str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Index:
        """Embed the items, score a sparse sample of (train query, item) pairs, factorize, and save.

        Args:
            items: id to text, or texts alone (their ids are then "0", "1", ...).
            scorer: the cross-encoder.
            first_stage: cheap retrieval. A dense one also gives the vectors that learning starts from.
            queries: train queries, no labels needed. Without any, nothing is scored, and the first stage's
                vectors serve.
            metadata: id to fields that searches may filter by (:mod:`crossknn.metadata`): texts, numbers, booleans or
                lists of these. Items may lack it.
            out: folder of the index. What the first stage prepares is kept in it until the index is written, and so
                are scores while they are collected: run again after a crash, and only what is missing is done.
                Without ``out`` nothing is written.
            options: plan, factorization, cap on CE calls.
            notes: kept with the index.
            progress: told of the CE calls done.

        Raises:
            InputError: items, queries or metadata that cannot be used, or ``out`` is something else than an index.
            BudgetError: the cap leaves no call.
            ScorerError: the scorer failed; with ``out``, finished scores stay.
            WriteError: the disk is full or read-only, or another build is writing to ``out``; finished scores stay.

        Cost: ``options.price(len(queries), len(items))`` CE calls, less those that an earlier run has finished, and a
        pass for each item under :class:`~crossknn.WithStates`, unless an earlier run has read them all.
        """
        options = options or BuildOptions()
        named = named_items(items)
        train = list(dict.fromkeys(checked_queries(queries)))
        folder = None if out is None else Path(out)
        if folder is not None:
            storage.check_place(folder)
        with nullcontext() if folder is None else sole_writer(folder):
            collecting = None if folder is None else folder / storage.COLLECTING
            bound = _bound(first_stage, list(named.values()), collecting, keep=bool(train))
            index = cls(named, scorer, first_stage, metadata=metadata, bound_first_stage=bound, notes=notes)
            if train:
                index._learn(train, options, collecting, progress)
            if folder is not None:
                storage.save(folder, contents_of(index))
                storage.remove_ledger(folder)
        return index

    def learn(
        self,
        queries: Sequence[str],
        options: BuildOptions | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Index:
        """Another index over the same items that learns from train queries; this one stays as it is.

        What was prepared (item vectors, tokenised items) is shared, so several ways to learn can be compared.

        Args:
            queries: train queries.
            options: plan, factorization, cap on CE calls.
            progress: told of the CE calls done.

        Raises:
            InputError: no query, or queries that cannot be used.
            BudgetError: the cap leaves no call.
            ScorerError: the scorer failed. Finished scores stay only where the scorer is a
                :class:`~crossknn.CachedScorer`.

        Cost: as :meth:`build`.
        """
        train = list(dict.fromkeys(checked_queries(queries)))
        if not train:
            raise InputError("there are no train queries to learn from")
        learned = copy.copy(self)
        learned.tuning = None
        learned._learn(train, options or BuildOptions(), None, progress)
        return learned

    def with_first_stage(self, first_stage: FirstStage, factorization: Factorization | None = None) -> Index:
        """Another index over the same items whose vectors are learned from the same scores, over another first stage.

        Say, over the dual encoder that was fine-tuned on them (:class:`~crossknn.factorization.Distillation`). This
        index stays as it is; its notes and its tuning, which may tell of the old first stage, are not taken over.

        Args:
            first_stage: takes the place of this one's.
            factorization: None is what :meth:`build` would choose. Unused where the index has no scores.

        Raises:
            InputError: the factorization cannot learn from these scores, or needs vectors.

        Cost: no CE call; items and train queries are embedded.
        """
        other = copy.copy(self)
        other.tuning, other.first_stage, other.notes = None, first_stage, {}
        other._bound_first_stage = bound = first_stage.prepare(self.items)
        own = other.first_stage_vectors
        other.item_model = None if own is None else ItemModel.from_vectors(own)
        if self.train_scores is not None:
            query_vectors = bound.embed_queries(self.train_queries) if isinstance(bound, VectorFirstStage) else None
            scored = Pairs(self.train_scores.query_indices, self.train_scores.item_indices)
            chosen = _chosen(factorization, scored, len(self), has_vectors=own is not None)
            other._fit(chosen, query_vectors)
        return other

    def updated(
        self,
        items: Mapping[str, str] | None = None,
        *,
        remove: Collection[str] = (),
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Index:
        """Another index in which items were added, changed or removed; this one stays as it is.

        Items that are new, or have another text than before, are placed by their texts alone, where the item model says
        that others like them belong (:meth:`~crossknn.factorization.ItemModel.place`). All others keep what was
        prepared and learned of them, in the order they have; new ones stand behind them. Notes and tuning are kept.
        :meth:`save` writes it, over the old one too. How much is lost by that against an index that has scored the new
        items as well: ``docs/results/choices.md``; where a good part of the items is new, build again.

        Args:
            items: id to text of items to add, or to change.
            remove: ids of items to take out, with their scores.
            metadata: id to fields, in place of what these items had; others keep theirs.

        Raises:
            InputError: an id to be removed is not there, or is among ``items``; nothing is left; texts or metadata that
                cannot be used; or item vectors that were learned from scores alone, so that new items have no place.

        Cost: no CE call; the first stage embeds the new items, and under :class:`~crossknn.WithStates` the
        cross-encoder reads them, a pass for each.
        """
        if isinstance(items, str) or not isinstance(items or {}, Mapping):
            raise InputError(f"items must map ids to texts, got {type(items).__name__}")
        position = {item_id: n for n, item_id in enumerate(self.item_ids)}
        gone, now = checked_removal(remove, position, items or {}), dict(items or {})
        named = named_items({i: text for i, text in zip(self.item_ids, self.items, strict=True) if i not in gone} | now)
        rows = np.array(
            [position[i] if i in position and self.items[position[i]] == text else -1 for i, text in named.items()]
        )
        fields = {i: self.metadata[n] for i, n in position.items() if i not in gone} | dict(metadata or {})
        bound = updated(self.first_stage, self._bound_first_stage, list(named.values()), rows)
        vectors = bound.item_vectors if isinstance(bound, VectorFirstStage) else None
        scores = self.train_scores
        return Index(
            named,
            self.scorer,
            self.first_stage,
            metadata=fields,
            bound_first_stage=bound,
            item_model=None if self.item_model is None else self.item_model.updated(rows, vectors),
            train_queries=self.train_queries,
            train_scores=None if scores is None else scores.updated(rows),
            notes=self.notes,
            tuning=self.tuning,
        )

    def _learn(
        self, queries: list[str], options: BuildOptions, folder: Path | None, progress: ProgressCallback | None
    ) -> None:
        first_stage = self._bound_first_stage
        vectors = first_stage.embed_queries(queries) if isinstance(first_stage, VectorFirstStage) else None
        rows = max(8, _PLANNED_AT_ONCE // len(self))
        parts = (slice(start, start + rows) for start in range(0, len(queries), rows))
        blocks = (self._first_stage_scores(queries[p], None if vectors is None else vectors[p]) for p in parts)
        pairs = options.plan.pairs(blocks, (len(queries), len(self)), np.random.default_rng(options.seed))
        if options.max_calls is not None:
            pairs = pairs.capped(options.first_pass_price(len(queries), len(self)))
        factorization = _chosen(options.factorization, pairs, len(self), has_vectors=vectors is not None)
        self.train_queries = queries
        with tempfile.TemporaryDirectory() as scratch:
            ledger = folder or Path(scratch) / storage.COLLECTING
            self._score_and_fit(pairs, options, factorization, vectors, ledger, progress)
            if options.second_pass:
                self._refine(options, factorization, vectors, ledger / storage.REFINED, progress)

    def _score_and_fit(
        self,
        pairs: Pairs,
        options: BuildOptions,
        factorization: Factorization,
        query_vectors: FloatArray | None,
        ledger: Path,
        progress: ProgressCallback | None,
        known: ScoreMatrix | None = None,
    ) -> None:
        """Item vectors from some pairs' scores, beside those that are known already."""
        queries = self.train_queries
        values = collect_scores(
            pairs, queries, self.items, self._scorer, ledger, shard_size=options.shard_size, progress=progress
        )
        rows, columns = pairs.query_indices, pairs.item_indices
        if known is not None:
            rows = np.concatenate([known.query_indices, rows])
            columns, values = np.concatenate([known.item_indices, columns]), np.concatenate([known.values, values])
        self.train_scores = ScoreMatrix.from_pairs(rows, columns, values, (len(queries), len(self)))
        self._fit(factorization, query_vectors)

    def _fit(self, factorization: Factorization, query_vectors: FloatArray | None) -> None:
        """Item vectors from the train scores."""
        scores, bound = self.train_scores, self._bound_first_stage
        assert scores is not None
        first = bound.first if isinstance(bound, BoundWithVectors) else None
        told = None
        if isinstance(first, PairFirstStage):
            told = np.empty(len(scores.values))
            for query, cells in scores.by_query():
                told[cells] = first.scores_of(self.train_queries[query], scores.item_indices[cells])
        self.item_model = factorization.fit(scores, self.first_stage_vectors, query_vectors, told)

    def _refine(
        self,
        options: BuildOptions,
        factorization: Factorization,
        query_vectors: FloatArray | None,
        ledger: Path,
        progress: ProgressCallback | None,
    ) -> None:
        """The second pass: that of which the train queries' own searches would expect most next."""
        queries, known = self.train_queries, self.train_scores
        assert known is not None

        def task_of(query: int) -> Task:
            row = slice(query, query + 1)
            return self._task(queries[row], None if query_vectors is None else query_vectors[row])

        pairs = next_pairs(self.default_method(), task_of, known, options.second_pass)
        if options.max_calls is not None:
            pairs = pairs.capped(options.max_calls - len(known.values))
        before, told = len(known.values), progress

        def both_passes(done: int, total: int) -> None:
            assert told is not None
            told(before + done, before + total)

        self._score_and_fit(pairs, options, factorization, query_vectors, ledger, told and both_passes, known)

    def save(self, out: str | Path, *, locked: bool = False) -> None:
        """Write the index to a folder, replacing an index that is there; a crash leaves the old one whole.

        Args:
            out: the folder.
            locked: whether the caller holds the folder's lock (:func:`crossknn.files.sole_writer`) already.

        Raises:
            InputError: the folder holds something else.
            WriteError: the disk is full or read-only, or another process is writing there; an old index stays.
        """
        folder = Path(out)
        storage.check_place(folder)
        with nullcontext() if locked else sole_writer(folder):
            storage.save(folder, contents_of(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        scorer: Scorer,
        first_stage: FirstStage,
        verify: bool = True,
        in_memory: bool = False,
    ) -> Index:
        """Open a saved index.

        Args:
            path: its folder.
            scorer: the one it was built with (same fingerprint).
            first_stage: the one it was built with.
            verify: compare every file's checksum.
            in_memory: read item vectors rather than map them: processes share no memory then, and a file that is cut
                short later does no harm.

        Raises:
            IndexFileError: no index, a damaged or newer one, or one built with another scorer or first stage.
        """
        folder = Path(path)
        contents = storage.load(folder, verify=verify, in_memory=in_memory)
        check_built_with(folder, contents, scorer, first_stage)
        try:
            return cls(scorer=scorer, first_stage=first_stage, **arguments_of(contents))
        except (KeyError, TypeError, InputError) as error:
            raise IndexFileError(f"{folder} does not fit together ({error}); build the index again") from error

    # -- search ------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        budget: int | None = None,
        target_recall: float | None = None,
        max_ms: float | None = None,
        method: SearchMethod | str | None = None,
        filter: ArrayLike | Conditions | None = None,
    ) -> SearchResult:
        """The items that the cross-encoder scores highest, as far as a budget of CE calls finds them.

        Args:
            query: the query's text.
            k: how many hits; fewer if fewer items are allowed.
            budget: CE calls, at least k; None is the tuned one, or 100.
            target_recall: stop before the budget is spent, once the hits are expected to hold this share (above 0,
                below 1) of the exact top k; needs a method that knows how sure it is, as ``axn`` and ``bayes``. How
                far that can be trusted: ``docs/results/stopping.md``.
            max_ms: stop before a round that would, taking as long as the last one, end later than this many
                milliseconds after the search began. The first round is always run.
            method: how the budget is spent, or its name such as ``"axn-r5"``; None is :meth:`default_method`, or the
                untuned one for a target that it cannot tell of.
            filter: which items may be scored and returned: conditions on their metadata, as ``{"chapter": "Injuries"}``
                (:mod:`crossknn.metadata` has the forms), or (n_items,) booleans.

        Raises:
            InputError: an empty query, a k or budget below 1, a k above the budget, a filter of another length or on
                what no item has, a target outside 0..1 or with a method that cannot tell.
            ScorerError: the scorer failed.

        Cost: ``min(budget, allowed items)`` CE calls; fewer where a target or a time stops the search.
        """
        return self.search_batch(
            [query],
            k=k,
            budget=budget,
            target_recall=target_recall,
            max_ms=max_ms,
            method=method,
            filter=filter,
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        budget: int | None = None,
        target_recall: float | None = None,
        max_ms: float | None = None,
        method: SearchMethod | str | None = None,
        filter: ArrayLike | Conditions | None = None,
        share_budget: bool = False,
    ) -> list[SearchResult]:
        """:meth:`search` for many queries: the same results, but a round's CE calls share batches.

        ``max_ms`` holds for every 64 queries, which are searched together. With ``share_budget`` these share their
        calls too: ``budget`` is what they have in the mean, and those of which most is expected to be missing have
        more, five times as much at most (:func:`~crossknn.search.run_sharing`). Where there are ten calls or more for
        each hit, more is found with as many. It takes a method that knows how sure it is, and no ``max_ms``.

        Cost: ``min(budget, allowed items)`` CE calls for each query; fewer where a target or a time stops its search.
        """
        texts = checked_queries(queries)
        budget = self.default_budget() if budget is None else budget
        allowed = self._checked_search(k, budget, filter)
        if share_budget and max_ms is not None:
            raise InputError("queries that share a budget wait for one another, so max_ms cannot be kept; leave it out")
        results: list[SearchResult] = []
        for start in range(0, len(texts), _QUERIES_AT_ONCE):
            began = time.perf_counter()
            task = self.task(texts[start : start + _QUERIES_AT_ONCE], allowed)
            if share_budget:
                chosen = self._method(method, tells=True)
                known = run_sharing(chosen, task, budget, self._target(chosen, target_recall, k))
            else:
                rounds = self._rounds(task, k, budget, target_recall, max_ms, method, began)
                run(rounds, task)
                known = rounds.progress()
            results += self._results(task, known, k)
        return results

    def open_search(
        self,
        query: str,
        *,
        k: int = 10,
        budget: int | None = None,
        target_recall: float | None = None,
        max_ms: float | None = None,
        method: SearchMethod | str | None = None,
        filter: ArrayLike | Conditions | None = None,
    ) -> OpenSearch:
        """:meth:`search` a round at a time: ask which items to score, tell their scores, look at the hits so far.

        For whoever shows a search while it runs, or scores the pairs of many searches together.

        Args and errors: as :meth:`search`. Opening costs no CE call.

        >>> search = index.open_search("water on the brain", budget=100)  # doctest: +SKIP
        >>> while not search.done:  # doctest: +SKIP
        ...     items = search.ask()
        ...     search.tell(index.score([search.query], np.zeros(len(items), int), items))
        ...     print(search.result())
        """
        (text,) = checked_queries([query])
        budget = self.default_budget() if budget is None else budget
        allowed = self._checked_search(k, budget, filter)
        began = time.perf_counter()
        task = self.task([text], allowed)
        rounds = self._rounds(task, k, budget, target_recall, max_ms, method, began)
        return OpenSearch(self, task, rounds, k)

    def rank(
        self, query: str, top_k: int = 10, *, return_documents: bool = False, **settings: Any
    ) -> list[dict[str, Any]]:
        """:meth:`search` in the shape of sentence-transformers' ``CrossEncoder.rank``, over all items of the index.

        Args:
            query: the query's text.
            top_k: how many.
            return_documents: whether ``text`` is there.
            settings: ``budget``, ``method``, ``target_recall`` and so on, as :meth:`search` takes them.

        Returns:
            Dictionaries, best first, of ``corpus_id`` (the item's position in the index), ``score`` (raw logit) and
            ``text``.

        Errors and cost: as :meth:`search`.
        """
        found = self.search(query, k=top_k, **settings)
        wanted = {hit.id for hit in found}
        positions = {item_id: n for n, item_id in enumerate(self.item_ids) if item_id in wanted}
        ranked: list[dict[str, Any]] = []
        for hit in found:
            ranked.append({"corpus_id": positions[hit.id], "score": hit.score})
            if return_documents:
                ranked[-1]["text"] = hit.text
        return ranked

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        """The cross-encoder's raw logits of some pairs, checked: (n_pairs,) finite float64.

        Args:
            queries: query texts.
            query_indices: (n_pairs,) positions in ``queries``.
            item_indices: (n_pairs,) positions in the index's items.

        Raises:
            ScorerError: the scorer failed, or returned something else than one finite number per pair.

        Cost: ``n_pairs`` CE calls.
        """
        return checked_scores(self._bound_scorer, queries, query_indices, item_indices)

    def _checked_search(self, k: int, budget: int, filter: ArrayLike | Conditions | None) -> BoolArray | None:
        check_count("k", k)
        check_count("budget", budget)
        if budget < k:
            raise InputError(f"budget is {budget}, but k={k} hits need at least as many cross-encoder calls")
        return self.metadata.mask(filter) if isinstance(filter, Mapping) else checked_filter(filter, len(self))

    def _rounds(
        self,
        task: Task,
        k: int,
        budget: int,
        target_recall: float | None,
        max_ms: float | None,
        method: SearchMethod | str | None,
        began: float,
    ) -> Rounds:
        chosen = self._method(method, tells=target_recall is not None)
        if max_ms is not None and not max_ms > 0:
            raise InputError(f"max_ms must be above 0 milliseconds, got {max_ms}")
        return Rounds(
            chosen,
            task,
            budget,
            stop=None if target_recall is None else self._target(chosen, target_recall, k),
            max_seconds=np.inf if max_ms is None else max_ms / 1000 - (time.perf_counter() - began),
        )

    def _method(self, asked: SearchMethod | str | None, *, tells: bool) -> SearchMethod:
        """The method asked for, or else the default, or the untuned one where it has to tell how sure it is."""
        if asked is not None:
            return method_named(asked) if isinstance(asked, str) else asked
        default = self.default_method()
        return self._untuned_method() if tells and not can_tell(default, self.item_model) else default

    def _target(self, method: SearchMethod, recall: float | None, k: int) -> RecallTarget:
        """A target for a method and k, calibrated if the index was tuned for them."""
        tuning = self.tuning
        fits = tuning is not None and tuning.k == k and method == method_named(tuning.method)
        return RecallTarget(method, recall, k, tuning.calibration if tuning is not None and fits else None)

    def default_method(self) -> SearchMethod:
        """The tuned one. Untuned: ``bayes`` over a learned prior, AXN over other item vectors, else reranking."""
        return self._untuned_method() if self.tuning is None else method_named(self.tuning.method)

    def _untuned_method(self) -> SearchMethod:
        if self.item_model is None:
            return Rerank()
        return AXN() if self.item_model.noise is None else METHODS["bayes"]

    def default_budget(self) -> int:
        """The tuned one, or 100."""
        return 100 if self.tuning is None else self.tuning.budget

    def tune(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        budget: int = 100,
        target_recall: float | None = None,
        methods: Sequence[str] | None = None,
        exact_queries: int = 0,
        progress: ProgressCallback | None = None,
    ) -> Tuning:
        """Find out how this index is searched best, and search it so from now on (see :mod:`crossknn.tuning`).

        :meth:`save` keeps the choice with the index.

        Args:
            queries: queries like those to come, no labels needed; 30 or more are best. Those that the index has learned
                from are left out, since on these what was learned looks better than it is.
            k: hits that searches will ask for.
            budget: CE calls per query; with a target the most that may be spent.
            target_recall: None finds the best recall for the budget; a number in 0..1 the cheapest way to it.
            methods: names to compare; None takes those of :func:`crossknn.tuning.candidates`.
            exact_queries: of so many queries all items are scored, which corrects what is expected of a search to a
                target by what all trials missed; 0 takes the best that any trial found for the exact top k.
            progress: told of trials and exact queries done and in all.

        Raises:
            InputError: too few queries that the index has not learned from, a budget below k, or no method reaches the
                target.
            ScorerError: the scorer failed.

        Cost: each pair that any trial looks at, once: some 5 to 10 budgets per query, and all items for each of the
        exact queries; said by ``Tuning.calls``.
        """
        check_count("k", k)
        learned = set(self.train_queries)
        fresh = [query for query in dict.fromkeys(checked_queries(queries)) if query not in learned]
        self.tuning = tune(
            self.task(fresh),
            k=k,
            budget=budget,
            target_recall=target_recall,
            methods=methods,
            exact_queries=exact_queries,
            progress=progress,
        )
        return self.tuning

    def task(self, queries: Sequence[str], allowed: BoolArray | None = None) -> Task:
        """What a search method gets to see of some queries. Costs no CE call."""
        first_stage = self._bound_first_stage
        vectors = first_stage.embed_queries(queries) if isinstance(first_stage, VectorFirstStage) else None
        return self._task(queries, vectors, allowed)

    def _task(self, queries: Sequence[str], vectors: FloatArray | None, allowed: BoolArray | None = None) -> Task:
        items = self.item_model
        return Task(
            queries=queries,
            scorer=self._bound_scorer,
            first_stage_scores=self._first_stage_scores(queries, vectors, allowed),
            item_model=items,
            query_vectors=None if items is None else items.query_vectors(vectors),
            allowed=allowed,
        )

    def _first_stage_scores(
        self, queries: Sequence[str], vectors: FloatArray | None, allowed: BoolArray | None = None
    ) -> FloatArray:
        first_stage = self._bound_first_stage
        if isinstance(first_stage, VectorFirstStage) and vectors is not None:
            return first_stage.scores_given(queries, vectors, allowed)
        return first_stage.scores(queries)

    def _results(self, task: Task, progress: Sequence[Progress], k: int) -> list[SearchResult]:
        results = []
        for row, (query, known) in enumerate(zip(task.queries, progress, strict=True)):
            (indices,), (scores,), rounds = known.indices, known.scores, known.round_of_column()
            best = np.lexsort((indices, -scores))[:k]
            ranks = _ranks(task.first_stage_scores[row], indices[best], task.allowed)
            hits = tuple(
                Hit(self.item_ids[i], float(s), int(r), int(rank), self.items[i], dict(self.metadata[i]))
                for i, s, r, rank in zip(indices[best], scores[best], rounds[best], ranks, strict=True)
            )
            expected = None if known.expected_recall is None else float(known.expected_recall[0])
            results.append(SearchResult(query, hits, len(indices), tuple(known.rounds), expected))
        return results


class OpenSearch:
    """One query's search under way; made by :meth:`Index.open_search`.

    Attributes:
        query: its text.
    """

    def __init__(self, index: Index, task: Task, rounds: Rounds, k: int) -> None:
        self.query = task.queries[0]
        self._index, self._task, self._rounds, self._k = index, task, rounds, k

    @property
    def done(self) -> bool:
        """Whether nothing is left to score: the budget, the items or the time are spent, or the target is met."""
        return self._rounds.done

    def ask(self) -> IntArray:
        """(size,) positions of the items to be scored next, best first; the same until told their scores.

        Raises:
            InputError: the search is done, or its method cannot search this index.
        """
        return self._rounds.ask()[1]

    def tell(self, scores: FloatArray) -> None:
        """The items' CE scores, (size,) finite raw logits in the order asked for.

        Raises:
            InputError: nothing was asked for, another number of scores was, or a score is not finite.
        """
        self._rounds.tell(scores)

    def result(self) -> SearchResult:
        """The best of what was scored so far."""
        return self._index._results(self._task, self._rounds.progress(), self._k)[0]

    def scored(self) -> list[ScoredItem]:
        """Every item scored so far, in the order they were."""
        (known,) = self._rounds.progress()
        columns = zip(known.indices[0], known.scores[0], known.predicted[0], known.round_of_column(), strict=True)
        return [
            ScoredItem(self._index.item_ids[i], float(s), None if np.isnan(p) else float(p), int(r))
            for i, s, p, r in columns
        ]


def _chosen(factorization: Factorization | None, pairs: Pairs, n_items: int, *, has_vectors: bool) -> Factorization:
    """The one asked for or the default, if it can learn from these pairs."""
    n_queries = len(np.unique(pairs.query_indices))
    chosen = factorization or default_factorization(n_queries, n_items, has_vectors=has_vectors)
    chosen.check(pairs, n_items, has_vectors=has_vectors)
    return chosen


def _bound(first_stage: FirstStage, items: Sequence[str], collecting: Path | None, *, keep: bool) -> BoundFirstStage:
    """A first stage made ready, as far as can be from what an unfinished build kept; what took work is kept anew."""
    if collecting is None:
        return first_stage.prepare(items)
    folder = collecting / storage.PREPARED
    kept = prepared_before(folder, first_stage, items)
    bound = first_stage.prepare(items, kept)
    if keep and kept is None and kept_of(bound):
        keep_prepared(folder, first_stage, items, kept_of(bound))
    return bound


def _ranks(scores: FloatArray, indices: IntArray, allowed: BoolArray | None) -> list[int]:
    """Ranks from 1 of some items by first-stage score; equal scores by position."""
    candidates = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    values = scores[candidates]
    return [
        1 + int(np.sum(values > scores[i])) + int(np.sum((values == scores[i]) & (candidates < i))) for i in indices
    ]
