"""GAR against its paper's algorithm 1, written down item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossknn import Index
from crossknn.errors import InputError
from crossknn.search import GAR
from crossknn.search.gar import CorpusGraph


def by_the_paper(first: Any, scores: Any, neighbours: list[list[int]], budget: int, batch: int) -> list[int]:
    """The items in the order GAR scores them: turns of the ranking's best and of the frontier's."""
    pool = sorted(range(len(first)), key=lambda item: -first[item])
    frontier: dict[int, float] = {}
    scored: list[int] = []
    turn = 0
    while len(scored) < budget:
        size = min(batch, budget - len(scored))
        waiting = [item for item in sorted(frontier, key=lambda item: -frontier[item]) if item not in scored]
        ranked = [item for item in pool if item not in scored]
        chosen = ranked[:size] if turn % 2 == 0 else waiting[:size]
        chosen += [item for item in ranked if item not in chosen][: size - len(chosen)]
        scored += chosen
        for item in sorted(chosen, key=lambda item: -scores[item]):
            for neighbour in neighbours[item]:
                frontier[neighbour] = max(frontier.get(neighbour, -np.inf), scores[item])
        turn += 1
    return scored


@pytest.mark.parametrize("k", [1, 3, 100])
def test_items_come_in_the_order_of_the_papers_algorithm(world: Any, k: int) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense)
    unit = world.item_vectors / np.linalg.norm(world.item_vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(len(unit))
    neighbours = [[int(n) for n in np.argsort(-row)[: min(k, len(unit) - 1)]] for row in cosines]
    for n, query in enumerate(world.queries):
        expected = by_the_paper(world.query_vectors[n] @ world.item_vectors.T, world.scores[n], neighbours, 24, 4)
        result = index.search(query, k=24, budget=24, method=GAR(neighbours=k, rounds=6))
        by_round = sorted(result.hits, key=lambda hit: hit.round)
        for r in range(6):
            found = {int(hit.id) for hit in by_round[4 * r : 4 * r + 4]}
            assert found == set(expected[4 * r : 4 * r + 4])


@pytest.mark.integrations
@pytest.mark.parametrize(("k", "budget"), [(3, 24), (16, 40)])
def test_items_are_those_of_its_authors_own_program(world: Any, k: int, budget: int) -> None:
    """All 40 items where there are many neighbours: theirs forgets a part of a frontier that is longer than the budget
    left, and with it in which order equals came in."""
    rival = pytest.importorskip("pyterrier_adaptive", reason="needs the extra 'rivals'")
    pandas = pytest.importorskip("pandas")
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense)
    graph = CorpusGraph(index.item_model.vectors, k)  # type: ignore[union-attr]

    class Neighbours:
        @staticmethod
        def neighbours(item: str) -> list[str]:
            return [str(n) for n in graph.neighbours(np.array([int(item)]))[0]]

    for n, query in enumerate(world.queries):

        def score(batch: Any, exact: Any = world.scores[n]) -> Any:
            return batch.assign(score=[exact[int(item)] for item in batch.docno]).sort_values("score", ascending=False)

        ranked = np.argsort(-(world.query_vectors[n] @ world.item_vectors.T))
        first = pandas.DataFrame(
            {"qid": "1", "query": query, "docno": ranked.astype(str), "score": -np.arange(len(ranked))}
        )
        theirs = rival.GAR(score, Neighbours, num_results=budget, batch_size=4, backfill=False).transform(first)
        ours = index.search(query, k=budget, budget=budget, method=GAR(neighbours=k, rounds=budget // 4))
        for r in range(budget // 4):
            assert {h.id for h in ours.hits if h.round == r + 1} == set(theirs.docno[theirs.iteration == r])


def test_what_it_needs_is_said(world: Any) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    with pytest.raises(InputError, match="no item vectors"):
        index.search(world.queries[0], k=2, budget=8, method="gar")
    for wrong in ({"neighbours": 0}, {"rounds": 0}):
        with pytest.raises(InputError, match="at least 1, got 0"):
            GAR(**wrong)
