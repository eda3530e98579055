"""The index as a user sees it: built, saved, loaded, searched; what it costs and what it answers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import (
    AXN,
    BM25,
    AllItems,
    BayesianRidge,
    BuildOptions,
    CrossKNNWarning,
    Dense,
    FunctionScorer,
    GivenVectors,
    Index,
    MFTransductive,
    MinNorm,
    PerItem,
    PerQuery,
    RandomFirstStage,
    Rerank,
    storage,
)
from crossknn.errors import IndexFileError, InputError, ScorerError
from crossknn.factorization import MFSideInformation
from crossknn.prepared import PreparedItems
from crossknn.scorers import Fingerprint
from crossknn.scores import ScoreMatrix

OPTIONS = BuildOptions(plan=PerQuery(4, 3), factorization=MFTransductive(), shard_size=10)
TRAIN = 8


def _build(world: Any, *, first: str = "dense", train: int = TRAIN, out: Path | None = None, **more: Any) -> Index:
    given = {"scorer": world.scorer, "first_stage": getattr(world, first), "options": OPTIONS} | more
    return Index.build(world.items, queries=world.queries[:train], out=out, **given)


def _answers(results: Any) -> list[Any]:
    return [(r.query, r.hits, r.calls, [cost.calls for cost in r.trace]) for r in results]


@pytest.mark.parametrize("train", [0, TRAIN])
@pytest.mark.parametrize("first", ["dense", "bm25", "late"])
def test_a_loaded_index_gives_the_same_answers(world: Any, tmp_path: Path, first: str, train: int) -> None:
    if first == "late":  # what it scores is then in the mean
        world.scores += 5 * world.late.prepare(world.items).scores(world.queries)
    options = replace(OPTIONS, factorization=MFSideInformation() if first == "late" else OPTIONS.factorization)
    built = _build(world, first=first, train=train, out=tmp_path, options=options)
    expected = _answers(built.search_batch(world.queries, k=5, budget=15))
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=getattr(world, first))
    assert _answers(loaded.search_batch(world.queries, k=5, budget=15)) == expected
    assert loaded.items == world.items
    assert loaded.train_queries == world.queries[:train]
    if loaded.item_model is None:
        assert (first, train) == ("bm25", 0)
    else:
        assert isinstance(loaded.item_model.vectors, np.memmap)
        assert (loaded.item_model.first_stage_weight > 0) == ((first, train) == ("late", TRAIN))
    if train:
        assert built.train_scores is not None
        assert loaded.train_scores is not None
        np.testing.assert_array_equal(loaded.train_scores.values, built.train_scores.values)
    loaded.save(tmp_path)  # over the very files it has mapped
    assert _answers(loaded.search_batch(world.queries, k=5, budget=15)) == expected
    again = Index.load(tmp_path, scorer=world.scorer, first_stage=getattr(world, first))
    assert _answers(again.search_batch(world.queries, k=5, budget=15)) == expected


@pytest.mark.parametrize("plan", [PerQuery(4, 3), PerItem(1, 2)])
@pytest.mark.parametrize("cap", [None, 20])
def test_building_costs_its_price_and_searching_its_budget(world: Any, plan: Any, cap: int | None) -> None:
    options = BuildOptions(plan=plan, max_calls=cap)
    told: list[tuple[int, int]] = []
    index = _build(world, options=options, progress=lambda *at: told.append(at))
    price = options.price(TRAIN, len(world.items))
    assert price == (cap or (7 * TRAIN if plan == PerQuery(4, 3) else 3 * 40))
    assert len(world.calls) == len(set(world.calls)) == price
    assert told[0] == (0, price)
    assert told[-1] == (price, price)
    world.calls.clear()
    result = index.search(world.queries[-1], k=3, budget=17)
    assert result.calls == sum(cost.calls for cost in result.trace) == 17
    assert len(world.calls) == len(set(world.calls)) == 17


@pytest.mark.parametrize("plan", [PerQuery(4, 3), PerItem(2, 1)])
@pytest.mark.parametrize("first", ["dense", "bm25"])
def test_planning_holds_few_first_stage_scores_at_a_time(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, first: str, plan: Any
) -> None:
    world, asked = make_world(n_queries=70), []

    def learned(at_once: int) -> ScoreMatrix:
        monkeypatch.setattr("crossknn.learning._PLANNED_AT_ONCE", at_once)
        built = _build(world, first=first, train=70, options=BuildOptions(plan=plan))
        assert built.train_scores is not None
        return built.train_scores

    whole = learned(70 * 40)
    scores = PreparedItems.first_stage_scores
    monkeypatch.setattr(PreparedItems, "first_stage_scores", lambda *args: asked.append(len(args[1])) or scores(*args))
    in_blocks = learned(11 * 40)
    assert asked == [11] * 6 + [4]
    np.testing.assert_array_equal(in_blocks.query_indices, whole.query_indices)
    np.testing.assert_array_equal(in_blocks.item_indices, whole.item_indices)
    np.testing.assert_array_equal(in_blocks.values, whole.values)


def test_without_train_queries_nothing_is_scored_and_the_dense_vectors_serve(world: Any) -> None:
    index = _build(world, train=0)
    assert not world.calls
    assert OPTIONS.price(0, 40) == 0
    assert index.item_model is not None
    np.testing.assert_array_equal(index.item_model.vectors, world.item_vectors.astype("f4"))
    assert index.default_method() == AXN()
    assert _build(world, train=0, first="bm25").default_method() == Rerank()


@pytest.mark.parametrize(
    "method",
    [Rerank(), AXN(), AXN(7, mixing=0.5, solver=MinNorm()), AXN(3, solver=BayesianRidge(intercept_variance=1.0))],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_budget_of_all_items_is_brute_force(world: Any, method: Any, masked: bool) -> None:
    allowed = np.arange(40) % 3 > 0 if masked else np.ones(40, dtype=bool)
    index = _build(world)
    for row, result in enumerate(index.search_batch(world.queries, k=6, budget=99, method=method, filter=allowed)):
        exact = sorted(np.flatnonzero(allowed), key=lambda i: (-world.scores[row, i], i))[:6]
        assert [hit.id for hit in result] == [str(i) for i in exact]
        assert [hit.score for hit in result] == [world.scores[row, i] for i in exact]
        assert [hit.text for hit in result] == [world.items[i] for i in exact]
        assert result.calls == allowed.sum()


@pytest.mark.parametrize("method", [Rerank(), AXN()], ids=str)
def test_a_batch_answers_as_its_queries_alone(make_world: Any, method: Any) -> None:
    world = make_world(n_queries=70)  # more than are searched at once
    index = _build(world)
    together = index.search_batch(world.queries, k=4, budget=13, method=method)
    alone = [index.search(query, k=4, budget=13, method=method) for query in world.queries]
    assert _answers(together) == _answers(alone)
    assert [result.query for result in together] == world.queries
    twice = index.search_batch([world.queries[3]] * 2, k=4, budget=13, method=method)
    assert _answers(twice) == _answers([alone[3]] * 2)
    assert index.search_batch([]) == []


def test_a_search_by_rounds_finds_what_a_search_finds(world: Any) -> None:
    index = _build(world)
    query = world.queries[-1]
    whole = index.search(query, k=4, budget=17)
    opened = index.open_search(query, k=4, budget=17)
    assert not opened.result().hits
    so_far = []
    while not opened.done:
        items = opened.ask()
        np.testing.assert_array_equal(opened.ask(), items)
        opened.tell(index.score([query], np.zeros(len(items), dtype=int), items))
        so_far.append(opened.result())
    assert _answers([opened.result()]) == _answers([whole])
    best = [result[0].score for result in so_far]
    assert best == sorted(best)
    assert [result.calls for result in so_far] == np.cumsum([cost.calls for cost in whole.trace]).tolist()
    with pytest.raises(InputError, match="done"):
        opened.ask()


REFINED = replace(OPTIONS, refine=5)


def test_a_second_pass_scores_what_the_train_queries_would_look_at_next(world: Any, tmp_path: Path) -> None:
    first = _build(world)
    told: list[tuple[int, int]] = []
    index = _build(world, options=REFINED, out=tmp_path, progress=lambda *at: told.append(at))
    assert first.train_scores is not None
    assert index.train_scores is not None
    assert REFINED.price(TRAIN, 40) == len(index.train_scores.values) == TRAIN * 12
    assert told[-1] == (TRAIN * 12, TRAIN * 12)
    before = set(zip(first.train_scores.query_indices, first.train_scores.item_indices, strict=True))
    cells = set(zip(index.train_scores.query_indices, index.train_scores.item_indices, strict=True))
    assert before < cells
    for row in range(TRAIN):
        seen = sorted(int(i) for q, i in before if q == row)
        model, method = first.item_model, AXN()
        assert model is not None
        targets = model.normalisation.apply(world.scores[row, seen]) - model.biases[seen]
        fit = method.solver.solve(model.vectors[seen], targets, first.task([world.queries[row]]).query_vectors[0])
        liking = model.vectors @ fit.vector + model.biases
        liking[seen] = -np.inf
        assert {int(i) for q, i in cells - before if q == row} == set(np.argsort(-liking)[:5].tolist())
    np.testing.assert_array_equal(
        index.train_scores.values, world.scores[index.train_scores.query_indices, index.train_scores.item_indices]
    )
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)
    assert _answers(loaded.search_batch(world.queries)) == _answers(index.search_batch(world.queries))
    capped = _build(world, options=replace(REFINED, max_calls=70))
    assert capped.train_scores is not None
    assert len(capped.train_scores.values) == 70
    with pytest.raises(InputError, match="refine must be a whole number of at least 0"):
        BuildOptions(refine=-1)


def test_another_first_stage_is_learned_over_from_the_same_scores(world: Any, tmp_path: Path) -> None:
    fields = {str(n): {"odd": n % 2 == 1} for n in range(len(world.items))}
    index = _build(world, metadata=fields, notes={"first_stage": "dense"})
    index.tune(world.queries[TRAIN:], k=2, budget=10)
    before, spent = _answers(index.search_batch(world.queries, k=5, budget=15)), len(world.calls)
    texts, vectors = world.queries + world.items, np.vstack([world.query_vectors, world.item_vectors])
    turned = Dense(GivenVectors(dict(zip(texts, vectors**3, strict=True)), name="other"))
    other = index.with_first_stage(turned, MFTransductive())
    assert len(world.calls) == spent
    assert other.train_scores is index.train_scores
    fresh = Index.build(world.items, scorer=world.scorer, first_stage=turned)
    query_vectors = fresh.task(index.train_queries).query_vectors
    factors = MFTransductive().fit(index.train_scores, fresh.first_stage_vectors, query_vectors)
    np.testing.assert_array_equal(other.item_model.vectors, factors.vectors)
    assert (other.tuning, other.notes) == (None, {})
    assert index.tuning is not None
    assert _answers(index.search_batch(world.queries, k=5, budget=15)) == before
    other.save(tmp_path)
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=turned)
    found = [of.search(world.queries[-1], k=5, budget=15, filter={"odd": True}) for of in (other, loaded)]
    assert found[0].hits == found[1].hits
    assert index.with_first_stage(BM25()).first_stage_vectors is None
    with pytest.raises(InputError, match="dense first stage"):
        index.with_first_stage(BM25(), MFSideInformation())
    untaught = _build(world, train=0).with_first_stage(turned)
    np.testing.assert_array_equal(untaught.item_model.vectors, fresh.item_model.vectors)
    assert _build(world, train=0).with_first_stage(BM25()).item_model is None


@pytest.mark.parametrize("factorization", [MFSideInformation(), MFTransductive(), None], ids=repr)
def test_items_come_change_and_go_and_the_others_keep_what_was_learned(
    world: Any, tmp_path: Path, factorization: Any
) -> None:
    """An index of some of the items, updated to others: no call, and new ones are where their texts say."""
    texts = {str(n): text for n, text in enumerate(world.items)}
    first = {key: texts[key] for key in list(texts)[:30]}
    fields = {key: {"odd": int(key) % 2 == 1} for key in texts}
    options = BuildOptions(PerQuery(6, 6), factorization)
    index = Index.build(
        first,
        scorer=world.scorer,
        first_stage=world.dense,
        queries=world.queries[:TRAIN] if factorization else (),
        metadata={key: fields[key] for key in first},
        options=options,
        notes={"a": "note"},
    )
    spent, before = len(world.calls), _answers(index.search_batch(world.queries, k=5, budget=15))
    came = {key: texts[key] for key in list(texts)[30:]} | {"7": texts["7"], "8": texts["39"]}
    updated = index.updated(came, remove=["3", "4"], metadata={key: fields[key] for key in list(texts)[30:]})
    assert len(world.calls) == spent + 15 * len(world.queries)
    assert updated.item_ids == [key for key in texts if key not in ("3", "4")]
    assert updated.items[6] == texts["39"]  # "8", with another's text
    assert updated.metadata[6] == {"odd": False}
    assert (updated.notes, updated.train_queries) == (index.notes, index.train_queries)
    old = [n for n, key in enumerate(updated.item_ids) if int(key) < 30 and key != "8"]
    were = [index.item_ids.index(updated.item_ids[n]) for n in old]
    model, learned = updated.item_model, index.item_model
    assert model is not None
    assert learned is not None
    np.testing.assert_array_equal(model.vectors[old], learned.vectors[were])
    np.testing.assert_array_equal(model.biases[old], learned.biases[were])
    new = np.setdiff1d(np.arange(len(updated)), old)
    vectors = world.item_vectors[[world.items.index(updated.items[n]) for n in new]].astype("f4")
    np.testing.assert_allclose(model.vectors[new], learned.place(vectors), rtol=1e-6)
    assert not model.biases[new].any()
    if factorization:
        scores = updated.train_scores
        told = [world.score_of(index.train_queries[q], updated.items[i]) for q, i in _cells(scores)]
        np.testing.assert_array_equal(scores.values, told)
        stay = set(index.item_ids) - {"3", "4", "8"}
        assert len(told) == sum(index.item_ids[i] in stay for _, i in _cells(index.train_scores))
    updated.save(tmp_path)
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)
    found = [of.search_batch(world.queries, k=5, budget=38, filter={"odd": True}) for of in (updated, loaded)]
    assert _answers(found[0]) == _answers(found[1])
    exact = world.scores[:, [n for n, key in enumerate(texts) if int(key) % 2 == 1 and key != "3"]]
    assert [r.hits[0].score for r in found[0]] == exact.max(axis=1).tolist()
    assert _answers(index.search_batch(world.queries, k=5, budget=15)) == before
    again = _answers(index.updated().search_batch(world.queries, k=5, budget=15))
    assert again == before


def _cells(scores: Any) -> list[tuple[int, int]]:
    return list(zip(scores.query_indices.tolist(), scores.item_indices.tolist(), strict=True))


def test_an_update_that_cannot_be_made_says_why(world: Any) -> None:
    index = _build(world)
    for (items, gone), message in (
        (({}, ["x"]), "'x' cannot be removed"),
        (({"1": "item cat 0"}, ["1"]), "'1' is to be changed and to be removed"),
        (({}, "12"), "must be a list of them"),
        ((["a text"], []), "items must map ids to texts, got list"),
        (({"y": " "}, []), "item 'y' has no text"),
        (({}, index.item_ids), "no items to index"),
    ):
        with pytest.raises(InputError, match=message):
            index.updated(items, remove=gone)
    with pytest.raises(InputError, match="metadata for the item 'z'"):
        index.updated(metadata={"z": {}})
    placeless = _build(world, first="bm25")
    with pytest.raises(InputError, match="learned from the scores alone"):
        placeless.updated({"new": world.items[0]})
    assert len(placeless.updated(remove=["0"]).search(world.queries[0], budget=20).hits) == 10


@pytest.mark.parametrize("dense", [True, False])
def test_by_default_a_train_query_costs_100_calls_half_of_them_in_a_second_pass(make_world: Any, dense: bool) -> None:
    world = make_world(n_queries=6, n_items=150)
    first = world.dense if dense else BM25()
    index = Index.build(world.items, scorer=world.scorer, first_stage=first, queries=world.queries[:4])
    assert index.train_scores is not None
    assert len(index.train_scores.values) == BuildOptions().price(4, 150) == 400
    assert index.item_model is not None
    assert (index.item_model.noise is not None) is dense  # MF with side information has learned a prior
    assert BuildOptions(plan=PerQuery(30, 20)).price(4, 150) == 200


def test_a_cap_leaves_both_passes_to_fewer_queries(make_world: Any) -> None:
    world = make_world(n_queries=6, n_items=150)
    options = BuildOptions(plan=PerQuery(6, 4), refine=10, max_calls=45)
    index = Index.build(
        world.items, scorer=world.scorer, first_stage=world.dense, queries=world.queries, options=options
    )
    assert index.train_scores is not None
    assert np.bincount(index.train_scores.query_indices).tolist() == [20, 15, 10]


def test_a_cap_is_spent_on_queries_that_stand_for_the_others(make_world: Any) -> None:
    world = make_world(n_queries=30, n_items=60)
    groups = np.arange(30) % 3
    world.query_vectors[:] = np.eye(6)[groups] + 0.01 * world.query_vectors
    options = BuildOptions(PerQuery(6, 4), MFTransductive(), refine=10, max_calls=60)
    index = Index.build(
        world.items, scorer=world.scorer, first_stage=world.dense, queries=world.queries, options=options
    )
    learned = [world.queries.index(query) for query in index.train_queries]
    assert sorted(groups[learned]) == [0, 1, 2]
    assert len(index.train_scores.values) == len(world.calls) == 60
    words = Index.build(world.items, scorer=world.scorer, first_stage=BM25(), queries=world.queries, options=options)
    assert np.unique(words.train_scores.query_indices).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("plan", "cap", "spent"),
    [
        (PerQuery(6, 4), None, 8 * 20),
        (PerQuery(20, 12), None, 8 * 40),
        (PerQuery(20, 12), 90, 90),
        (AllItems(3), None, 3 * 40),
        (PerItem(0, 1), None, None),
    ],
)
def test_a_second_pass_costs_its_price(world: Any, plan: Any, cap: int | None, spent: int | None) -> None:
    """Of queries that have scores, and of items that have none."""
    options = BuildOptions(plan, MFTransductive(), refine=10, max_calls=cap)
    index = _build(world, options=options)
    assert index.train_scores is not None
    price = options.price(TRAIN, len(world.items))
    assert len(index.train_scores.values) == len(set(world.calls)) <= price
    assert spent is None or spent == price == len(world.calls)
    assert price <= TRAIN * 40


def test_a_build_without_queries_leaves_the_scores_of_one_that_did_not_finish(world: Any, tmp_path: Path) -> None:
    def breaks(pairs: Any) -> list[float]:
        if len(world.calls) > 30:
            raise RuntimeError("gone")
        return world._score(pairs)

    broken = FunctionScorer(breaks, name=world.name, batch_size=7)
    with pytest.raises(ScorerError, match="gone"):
        _build(world, scorer=broken, out=tmp_path)
    paid = len(world.calls)
    _build(world, train=0, out=tmp_path)
    _build(world, out=tmp_path)
    assert len(world.calls) < OPTIONS.price(TRAIN, 40) + paid
    assert len(set(world.calls)) == OPTIONS.price(TRAIN, 40)


def test_a_second_pass_goes_on_where_it_stopped(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossknn.pace._SECONDS", 0)  # shards do not grow
    whole = _build(world, options=REFINED)
    paid = len(world.calls)

    def failing(pairs: Any) -> list[float]:
        if len(world.calls) >= paid + TRAIN * 7 + 20:
            raise RuntimeError("unplugged")
        return list(world._score(pairs))

    with pytest.raises(ScorerError, match="unplugged"):
        _build(world, options=REFINED, out=tmp_path, scorer=FunctionScorer(failing, name=world.name, batch_size=10))
    world.calls.clear()
    again = _build(world, options=REFINED, out=tmp_path)
    assert len(world.calls) == TRAIN * 5 - 20
    assert again.train_scores is not None
    assert whole.train_scores is not None
    np.testing.assert_array_equal(again.train_scores.values, whole.train_scores.values)
    assert not (tmp_path / "collecting").exists()


def test_time_runs_from_the_beginning_of_a_search(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _build(world)
    embed = index.task

    def slow(*args: Any) -> Any:
        time.sleep(0.25)
        return embed(*args)

    monkeypatch.setattr(index, "task", slow)
    found = index.search(world.queries[0], k=2, budget=20, max_ms=200)
    assert len(found.trace) == 1  # none begins after the time is up, and one round there always is


@pytest.mark.parametrize("max_ms", [0, -1, float("nan")])
def test_a_time_limit_is_above_zero(world: Any, max_ms: float) -> None:
    with pytest.raises(InputError, match="max_ms must be above 0"):
        _build(world).search(world.queries[0], max_ms=max_ms)


def test_a_target_ends_a_search_early_and_says_what_it_expects(world: Any) -> None:
    index = _build(world)
    results = index.search_batch(world.queries[:6], k=2, budget=40, target_recall=0.3)
    assert all(result.expected_recall is not None and result.expected_recall >= 0.3 for result in results)
    alone = [index.search(query, k=2, budget=40, target_recall=0.3) for query in world.queries[:6]]
    assert _answers(results) == _answers(alone)
    assert index.search(world.queries[0]).expected_recall is None
    with pytest.raises(InputError, match="how sure it is"):
        index.search(world.queries[0], target_recall=0.9, method=Rerank())


def test_queries_that_share_a_budget_spend_as_much_in_all(world: Any) -> None:
    index = _build(world)
    results = index.search_batch(world.queries, k=3, budget=30, share_budget=True)
    spent = [result.calls for result in results]
    assert 30 * len(spent) - 3 <= sum(spent) <= 30 * len(spent)
    assert len(set(spent)) > 1
    assert [result.query for result in results] == world.queries
    assert all(len(result) == 3 and result.expected_recall is not None for result in results)
    with pytest.raises(InputError, match="max_ms cannot be kept"):
        index.search_batch(world.queries, budget=12, max_ms=50, share_budget=True)
    with pytest.raises(InputError, match="how sure it is"):
        index.search_batch(world.queries, method=Rerank(), share_budget=True)


@pytest.mark.parametrize(
    ("scores", "message"), [([1.0], "asked for 2 scores"), ([1.0, np.nan], "NaN"), ([[1.0], [2.0]], "asked for 2")]
)
def test_a_search_by_rounds_takes_only_the_scores_it_asked_for(world: Any, scores: Any, message: str) -> None:
    opened = _build(world, train=0).open_search(world.queries[0], k=1, budget=2, method=Rerank())
    with pytest.raises(InputError, match="did not ask"):
        opened.tell(np.array([1.0, 2.0]))
    opened.ask()
    with pytest.raises(InputError, match=message):
        opened.tell(np.array(scores))
    opened.tell(np.array([1.0, 2.0]))
    assert [hit.score for hit in opened.result()] == [2.0]


def test_a_hit_tells_where_it_came_from(world: Any) -> None:
    allowed = np.arange(40) != 7
    index = _build(world)
    result = index.search(world.queries[0], k=12, budget=12, filter=allowed, method=AXN(3))
    first = world.dense.prepare(world.items).scores([world.queries[0]])[0]
    order = [str(i) for i in sorted(np.flatnonzero(allowed), key=lambda i: (-first[i], i))]
    assert [hit.first_stage_rank for hit in result] == [1 + order.index(hit.id) for hit in result]
    assert {hit.id for hit in result if hit.round == 1} == set(order[:4])
    assert sorted(hit.round for hit in result) == [1] * 4 + [2] * 4 + [3] * 4
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["calls"] == 12
    assert [hit["id"] for hit in plain["hits"]] == [hit.id for hit in result]
    assert result[0] == result.hits[0]
    assert result[:2] == result.hits[:2]
    assert len(result) == 12


def test_conditions_on_metadata_are_a_mask_and_are_kept_with_the_index(world: Any, tmp_path: Path) -> None:
    fields = {str(n): {"half": n % 2, "word": text.split()[1]} for n, text in enumerate(world.items) if n != 4}
    built = Index.build(world.items, scorer=world.scorer, first_stage=world.dense, metadata=fields, out=tmp_path / "x")
    mask = [n != 4 and n % 2 == 0 and text.split()[1] in ("cat", "bird") for n, text in enumerate(world.items)]
    for index in (built, Index.load(tmp_path / "x", scorer=world.scorer, first_stage=world.dense)):
        found = index.search(world.queries[0], k=3, budget=6, filter={"half": 0, "word": ["cat", "bird"]})
        assert found.hits == index.search(world.queries[0], k=3, budget=6, filter=mask).hits
        assert [hit.metadata for hit in found] == [fields[hit.id] for hit in found]
        with pytest.raises(InputError, match="no item has the field 'colour'; the fields are 'half', 'word'"):
            index.search(world.queries[0], filter={"colour": "red"})
    with pytest.raises(InputError, match="the item '99', and no such item"):
        Index.build(world.items, scorer=world.scorer, first_stage=world.dense, metadata={"99": {}})


def test_ties_go_to_the_item_that_stands_first_and_equal_texts_are_items_apart(world: Any) -> None:
    items = {"z": "same", "a": "same", "m": "other", "b": "same"}
    scorer = FunctionScorer(lambda pairs: [1.0] * len(pairs), name="constant")
    index = Index.build(items, scorer=scorer, first_stage=RandomFirstStage(), queries=["q", "r"])
    assert [hit.id for hit in index.search("new", k=3, budget=4)] == ["z", "a", "m"]


def test_late_interaction_looks_at_the_best_that_a_filter_allows(world: Any) -> None:
    query = world.queries[0]
    allowed = np.zeros(40, dtype=bool)
    allowed[np.argsort(world.dense.prepare(world.items).scores([query])[0])[:6]] = True  # below any shortlist of all
    ranks = []
    for shortlist in (6, 40):
        index = Index.build(world.items, scorer=world.scorer, first_stage=world.late_of(shortlist))
        ranks.append({hit.id: hit.first_stage_rank for hit in index.search(query, k=6, budget=6, filter=allowed)})
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("train", [0, 3])
def test_one_item_and_no_allowed_item(make_world: Any, train: int) -> None:
    world = make_world(n_items=1)
    index = _build(world, train=train)
    assert [hit.id for hit in index.search(world.queries[0], k=5, budget=9)] == ["0"]
    none = index.search(world.queries[0], k=5, budget=9, filter=[False])
    assert (list(none), none.calls, none.trace) == ([], 0, ())


def test_an_interrupted_build_goes_on_where_it_stopped(world: Any, tmp_path: Path) -> None:
    def failing(batch: Any) -> list[float]:
        if len(world.calls) >= 30:
            raise RuntimeError("killed")
        return list(world._score(batch))

    with pytest.raises(ScorerError, match="killed"):
        _build(world, out=tmp_path, scorer=FunctionScorer(failing, name=world.name, batch_size=5))
    with pytest.raises(IndexFileError, match="did not finish"):
        Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)
    assert len(world.calls) == 30
    resumed = _build(world, out=tmp_path)
    assert len(world.calls) == len(set(world.calls)) == 7 * TRAIN
    whole = _build(world)
    assert resumed.item_model is not None
    assert whole.item_model is not None
    np.testing.assert_array_equal(resumed.item_model.vectors, whole.item_model.vectors)
    np.testing.assert_array_equal(resumed.item_model.biases, whole.item_model.biases)


def test_an_interrupted_build_prepares_its_items_once(world: Any, tmp_path: Path) -> None:
    embedded: list[str] = []

    class Counted:
        fingerprint = "counted"

        def embed(self, texts: Any) -> Any:
            embedded.extend(set(texts) & set(world.items))
            return world.dense.encoder.embed(texts)

    class Renamed(Counted):
        fingerprint = "renamed"

    def fails(batch: Any) -> list[float]:
        raise RuntimeError("killed")

    def begin(encoder: Any) -> None:
        with pytest.raises(ScorerError, match="killed"):
            _build(world, out=tmp_path, scorer=FunctionScorer(fails, name=world.name), first_stage=Dense(encoder))

    begin(Counted())
    begin(Counted())
    whole = _build(world, out=tmp_path, first_stage=Dense(Counted()))
    assert sorted(embedded) == sorted(world.items)
    np.testing.assert_array_equal(whole.first_stage_vectors, _build(world).first_stage_vectors)
    assert not (tmp_path / "collecting").exists()
    with pytest.raises(IndexFileError, match="no index"):
        Index.load(tmp_path / "collecting" / "prepared", scorer=world.scorer, first_stage=world.dense)
    embedded.clear()
    begin(Counted())
    with pytest.raises(IndexFileError, match="a part of the index"):
        Index.load(tmp_path / "collecting", scorer=world.scorer, first_stage=world.dense)
    with pytest.raises(IndexFileError, match="not the manifest of a crossknn index"):
        Index.load(tmp_path / "collecting" / "prepared", scorer=world.scorer, first_stage=world.dense)
    begin(Renamed())  # by mistake, and what was prepared before stays
    begin(Counted())
    assert len(embedded) == 2 * len(world.items)
    (tmp_path / "collecting" / "ledger.json").unlink()
    begin(Renamed())
    begin(Renamed())
    assert len(embedded) == 3 * len(world.items)
    (vectors,) = tmp_path.glob("collecting/prepared/data-*/*.npy")
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"!")
    _build(world, out=tmp_path, first_stage=Dense(Renamed()))
    assert len(embedded) == 4 * len(world.items)


def test_building_again_with_other_queries_replaces_the_index(world: Any, tmp_path: Path) -> None:
    _build(world, out=tmp_path, train=3)
    _build(world, out=tmp_path, train=5)
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)
    assert loaded.train_queries == world.queries[:5]


def test_learned_vectors_and_biases_find_more_than_the_dense_ones(make_world: Any) -> None:
    world = make_world(n_queries=60, n_items=150)
    recall = []
    for train in (0, 40):
        index = _build(world, train=train, options=BuildOptions(plan=PerQuery(20, 20)))
        results = index.search_batch(world.queries[40:], k=10, budget=30)
        exact = np.argsort(-world.scores[40:], axis=1)[:, :10].astype(str)
        recall.append(
            np.mean([len({h.id for h in r} & set(best)) / 10 for r, best in zip(results, exact, strict=True)])
        )
    assert recall[1] > recall[0]
    assert recall[1] > 0.9


@pytest.mark.parametrize(
    ("changed", "message"),
    [("scorer", "scorer function:world, not with function:other"), ("first_stage", "first stage dense:world, not")],
)
def test_an_index_of_another_scorer_or_first_stage_is_refused(
    world: Any, make_world: Any, tmp_path: Path, changed: str, message: str
) -> None:
    _build(world, out=tmp_path)
    other = make_world(name="other")
    given = {"scorer": world.scorer, "first_stage": world.dense}
    given[changed] = other.scorer if changed == "scorer" else other.bm25
    with pytest.raises(IndexFileError, match=message):
        Index.load(tmp_path, **given)


def test_another_kernel_is_only_warned_of(world: Any, tmp_path: Path) -> None:
    _build(world, out=tmp_path)
    scorer = world.scorer
    scorer.fingerprint = Fingerprint(scorer.fingerprint.model, "abacus")
    with pytest.warns(CrossKNNWarning, match="built on python, and is searched on abacus"):
        index = Index.load(tmp_path, scorer=scorer, first_stage=world.dense)
    assert len(index.search(world.queries[0], k=2, budget=5)) == 2


@pytest.mark.parametrize(
    ("entry", "value"),
    [("scorer", None), ("scorer", {"x": 1}), ("item_model", None), ("item_model", {}), ("tuning", {"trials": []})],
)
def test_a_config_that_does_not_fit_together_is_refused(world: Any, tmp_path: Path, entry: str, value: Any) -> None:
    _build(world, out=tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"][entry] = value
    path.write_text(json.dumps(manifest | {"sha256": storage._digest_manifest(manifest)}))
    with pytest.raises(IndexFileError, match="does not fit together"):
        Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)


def test_a_place_that_is_taken_is_refused_before_a_call_is_spent(world: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="choose another place"):
        _build(world, out=tmp_path)
    assert not world.calls


def test_rank_is_search_in_the_shape_of_a_cross_encoders(world: Any) -> None:
    items = {f"id {n}": text for n, text in enumerate(world.items)}
    index = Index.build(items, scorer=world.scorer, first_stage=world.dense)
    found = index.search(world.queries[0], k=5, budget=20)
    ranked = index.rank(world.queries[0], top_k=5, budget=20, return_documents=True)
    assert ranked == [{"corpus_id": world.items.index(hit.text), "score": hit.score, "text": hit.text} for hit in found]
    assert [set(row) for row in index.rank(world.queries[0], 1)] == [{"corpus_id", "score"}]
