"""The index: it ties the rooms together and holds no mathematics of its own."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from crossknn import storage
from crossknn.arrays import BoolArray, FloatArray
from crossknn.checks import (
    check_count,
    checked_filter,
    checked_notes,
    checked_positions,
    checked_queries,
    checked_removal,
    named_items,
)
from crossknn.errors import IndexFileError, InputError
from crossknn.factorization import Factorization, ItemModel
from crossknn.files import sole_writer
from crossknn.first_stage import FirstStage
from crossknn.index_contents import arguments_of, check_built_with, contents_of, prepared_for_build, prepared_of
from crossknn.learning import BuildOptions, Learned, chosen, fitted, learn
from crossknn.metadata import Conditions, Metadata, checked_metadata, fields_by_id
from crossknn.open_search import OpenSearch, results_of
from crossknn.prepared import PreparedItems
from crossknn.results import SearchResult
from crossknn.scorers import Scorer
from crossknn.scorers.base import checked_scores
from crossknn.scores import ScoreMatrix
from crossknn.scores.ledger import ProgressCallback
from crossknn.search import (
    RecallTarget,
    Rounds,
    SearchMethod,
    Task,
    method_named,
    run,
    run_sharing,
    untuned_method,
)
from crossknn.search.stopping import can_tell
from crossknn.tuning import Tuning, tune

_QUERIES_AT_ONCE = 64


class Index:
    """Items, what was learned about them, and the scorer and first stage that search them.

    Make one with :meth:`build` or :meth:`load`.

    Attributes:
        prepared: the items, made ready for scorer and first stage.
        learned: what was learned from train queries; None without any.
        item_model: item vectors for the search: those learned, or the first stage's; None where it has none.
        metadata: the items' fields, in the items' order; what a ``filter`` asks of.
        notes: whatever should be kept with the index; the command remembers there which models it named.
        tuning: how it is searched where the caller does not say; None before :meth:`tune`.
    """

    def __init__(
        self,
        prepared: PreparedItems,
        *,
        metadata: Mapping[str, Mapping[str, Any]] | Metadata | None = None,
        learned: Learned | None = None,
        notes: Mapping[str, str] | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.prepared, self.learned = prepared, learned
        self.metadata = metadata if isinstance(metadata, Metadata) else checked_metadata(metadata, prepared.ids)
        self.notes = checked_notes(notes)
        self.tuning = tuning
        vectors = prepared.vectors
        untaught = None if vectors is None else ItemModel.from_vectors(vectors)
        self.item_model = untaught if learned is None else learned.item_model

    def __len__(self) -> int:
        return len(self.prepared)

    @property
    def item_ids(self) -> list[str]:
        """The items' own keys."""
        return self.prepared.ids

    @property
    def items(self) -> list[str]:
        """Their texts, in the same order."""
        return self.prepared.texts

    @property
    def scorer(self) -> Scorer:
        """The cross-encoder."""
        return self.prepared.scorer

    @property
    def first_stage(self) -> FirstStage:
        """The cheap retrieval that searches begin with."""
        return self.prepared.first_stage

    @property
    def first_stage_vectors(self) -> FloatArray | None:
        """(n_items, d) the items' vectors by the first stage; None if it has none."""
        return self.prepared.vectors

    @property
    def train_queries(self) -> list[str]:
        """The queries the index learned from."""
        return [] if self.learned is None else self.learned.queries

    @property
    def train_scores(self) -> ScoreMatrix | None:
        """(n_train_queries, n_items) their observed scores; None without train queries."""
        return None if self.learned is None else self.learned.scores

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
        for what, given, example in (
            ("scorer", scorer, "a function is one in FunctionScorer(function, name=...)"),
            ("first stage", first_stage, "BM25() is one, or Dense(encoder)"),
        ):
            if isinstance(given, type) or not (hasattr(given, "prepare") and hasattr(given, "fingerprint")):
                raise InputError(f"{given!r} is no {what}: {example}")
        named = named_items(items)
        train = list(dict.fromkeys(checked_queries(queries)))
        fields, kept_notes = checked_metadata(metadata, named), checked_notes(notes)
        folder = None if out is None else Path(out)
        if folder is not None:
            storage.check_place(folder)
        with nullcontext() if folder is None else sole_writer(folder):
            collecting = None if folder is None else folder / storage.COLLECTING
            bound = prepared_for_build(first_stage, list(named.values()), collecting, keep=bool(train))
            index = cls(PreparedItems(named, scorer, first_stage, bound), metadata=fields, notes=kept_notes)
            if train:
                index = index._with(learn(index.prepared, train, options, collecting, progress))
            if folder is not None:
                storage.save(folder, contents_of(index))
                if train:  # without, scores that were collected are another build's
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
        return self._with(learn(self.prepared, train, options or BuildOptions(), None, progress))

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
        prepared, learned = self.prepared.over(first_stage), None
        if self.learned is not None:
            queries, scores = self.learned.queries, self.learned.scores
            method = chosen(factorization, scores.pairs, prepared)
            model = fitted(prepared, queries, scores, method, prepared.embed_queries(queries))
            learned = Learned(queries, scores, model)
        return Index(prepared, metadata=self._fields(), learned=learned)

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
        now = {} if items is None else items
        if not isinstance(now, Mapping):
            raise InputError(f"items must map ids to texts, got {type(items).__name__}")
        position = {item_id: n for n, item_id in enumerate(self.item_ids)}
        gone = checked_removal(remove, position, now)
        named = named_items({i: self.items[n] for i, n in position.items() if i not in gone} | dict(now))
        changed = {i: row for i, row in self._fields().items() if i not in gone} | dict(fields_by_id(metadata))
        fields = checked_metadata(changed, named)
        rows = np.array(
            [position[i] if i in position and self.items[position[i]] == text else -1 for i, text in named.items()]
        )
        learned = self.learned
        if learned is not None and (rows < 0).any():
            learned.item_model.check_places()
        prepared = self.prepared.updated(named, rows)
        if learned is not None:
            model = learned.item_model.updated(rows, prepared.vectors)
            learned = Learned(learned.queries, learned.scores.updated(rows), model)
        return Index(prepared, metadata=fields, learned=learned, notes=self.notes, tuning=self.tuning)

    def _with(self, learned: Learned) -> Index:
        return Index(self.prepared, metadata=self._fields(), learned=learned, notes=self.notes)

    def _fields(self) -> dict[str, Mapping[str, Any]]:
        """The items' metadata by id."""
        return dict(zip(self.item_ids, self.metadata, strict=True))

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
            return cls(prepared_of(contents, scorer, first_stage), **arguments_of(contents))
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
            budget: CE calls, at least k; None is :meth:`default_budget`: 100 or the tuned number, 500 with a target.
            target_recall: stop before the budget is spent, once the hits are expected to hold this share (above 0,
                below 1) of the exact top k, after 25 calls at the earliest; needs a method that knows how sure it is,
                as ``axn`` and ``bayes-ucb``. How far that can be trusted: ``docs/results/stopping.md``.
            max_ms: once there are k hits, stop before a round that, as long for a call as the last one, would end later
                than this many milliseconds after the search began.
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

        Cost: ``min(budget, allowed items)`` CE calls for each query, or in the mean where they share; fewer where a
        target or a time stops a search.
        """
        texts = checked_queries(queries)
        check_count("k", k)
        budget = self.default_budget(k, target_recall) if budget is None else budget
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
            results += results_of(self, task, known, k)
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
        check_count("k", k)
        budget = self.default_budget(k, target_recall) if budget is None else budget
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

    def score(self, queries: Sequence[str], query_indices: ArrayLike, item_indices: ArrayLike) -> FloatArray:
        """The cross-encoder's raw logits of some pairs, checked: (n_pairs,) finite float64.

        Args:
            queries: query texts.
            query_indices: (n_pairs,) positions in ``queries``.
            item_indices: (n_pairs,) positions in the index's items.

        Raises:
            InputError: a position that is none, or not as many of both.
            ScorerError: the scorer failed, or returned something else than one finite number per pair.

        Cost: ``n_pairs`` CE calls.
        """
        rows = checked_positions("query_indices", query_indices, len(queries))
        items = checked_positions("item_indices", item_indices, len(self), len(rows))
        return checked_scores(self.prepared.bound_scorer, queries, rows, items)

    def _checked_search(self, k: int, budget: int, filter: ArrayLike | Conditions | None) -> BoolArray | None:
        check_count("k", k)
        check_count("budget", budget)
        if budget < k:
            raise InputError(f"budget is {budget}, but k={k} hits need at least as many cross-encoder calls: raise it")
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
            at_least=k,
        )

    def _method(self, asked: SearchMethod | str | None, *, tells: bool) -> SearchMethod:
        """The method asked for, or else the default, or the untuned one where it has to tell how sure it is."""
        if isinstance(asked, str):
            return method_named(asked)
        if asked is not None:
            if isinstance(asked, type) or not (hasattr(asked, "propose") and hasattr(asked, "rounds")):
                raise InputError(
                    f"{asked!r} is no search method; give a name such as 'axn', or an object such as AXN()"
                )
            return asked
        default = self.default_method()
        return untuned_method(self.item_model) if tells and not can_tell(default, self.item_model) else default

    def _target(self, method: SearchMethod, recall: float | None, k: int) -> RecallTarget:
        """A target for a method and k, calibrated if the index was tuned for them."""
        tuning = self.tuning
        fits = tuning is not None and tuning.k == k and method == method_named(tuning.method)
        return RecallTarget(method, recall, k, tuning.calibration if tuning is not None and fits else None)

    def default_method(self) -> SearchMethod:
        """The tuned one. Untuned: ``bayes-ucb`` over a learned prior, AXN over other item vectors, else reranking."""
        return untuned_method(self.item_model) if self.tuning is None else method_named(self.tuning.method)

    def default_budget(self, k: int = 1, target_recall: float | None = None) -> int:
        """CE calls of a search that names no budget: the tuned number, or 100; with a target 500 may be spent, and
        ``k`` hits need as many calls."""
        tuned = 100 if self.tuning is None else self.tuning.budget
        return max(k, tuned, 500 if target_recall is not None else 0)

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
        return self.prepared.task(queries, self.item_model, self.prepared.embed_queries(queries), allowed)
