"""Each retriever against the real library (``make test-integrations``): what it gives is what the index finds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.over_http import over_http

from crossknn import Index
from crossknn.client import Client
from crossknn.errors import InputError, MissingExtraError
from crossknn.server import create_app

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
pytestmark = pytest.mark.integrations


@pytest.fixture(scope="module")
def index(world: Any) -> Index:
    fields = {str(n): {"half": n % 2} for n in range(len(world.items))}
    return Index.build(world.items, scorer=world.scorer, first_stage=world.dense, metadata=fields)


@pytest.fixture(scope="module")
def address(index: Index) -> Iterator[str]:
    """The same index behind HTTP."""
    with over_http(create_app(index)) as served:
        yield served


@pytest.fixture(scope="module")
def world(make_world: Any) -> Any:
    return make_world()


SETTINGS: dict[str, Any] = {"budget": 12, "method": "axn-r3", "filter": {"half": 1}}


def test_langchain(index: Index, world: Any) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra 'integrations'")
    from crossknn.integrations.langchain import CrossKNNRetriever

    retriever = CrossKNNRetriever(index=index, k=4, **SETTINGS)
    expected = index.search(world.queries[0], k=4, **SETTINGS)
    for documents in (retriever.invoke(world.queries[0]), asyncio.run(retriever.ainvoke(world.queries[0]))):
        assert [(d.id, d.page_content, d.metadata["score"], d.metadata["round"]) for d in documents] == [
            (hit.id, hit.text, hit.score, hit.round) for hit in expected
        ]
        assert documents[0].metadata["half"] == 1
        assert documents[0].metadata["first_stage_rank"] == expected[0].first_stage_rank
    assert [d.id for d in (retriever | (lambda found: found[:1])).invoke(world.queries[0])] == [expected[0].id]
    with pytest.raises(ValueError, match="expected an Index"):
        CrossKNNRetriever(index="codes.crossknn")


def test_llama_index(index: Index, world: Any) -> None:
    pytest.importorskip("llama_index.core", reason="needs the extra 'integrations'")
    from crossknn.integrations.llama_index import CrossKNNRetriever

    expected = index.search(world.queries[1], k=4, **SETTINGS)
    nodes = CrossKNNRetriever(index, k=4, **SETTINGS).retrieve(world.queries[1])
    assert [(n.node.node_id, n.node.get_content(), n.score, n.metadata["round"]) for n in nodes] == [
        (hit.id, hit.text, hit.score, hit.round) for hit in expected
    ]


def test_haystack(index: Index, world: Any) -> None:
    pytest.importorskip("haystack", reason="needs the extra 'integrations'")
    from haystack import Pipeline

    from crossknn.integrations.haystack import CrossKNNRetriever

    pipeline = Pipeline()
    pipeline.add_component("retriever", CrossKNNRetriever(index, top_k=4, **SETTINGS))
    found = pipeline.run({"retriever": {"query": world.queries[2], "top_k": 3}})["retriever"]
    expected = index.search(world.queries[2], k=3, **SETTINGS)
    assert [(d.id, d.content, d.score, d.meta["round"]) for d in found["documents"]] == [
        (hit.id, hit.text, hit.score, hit.round) for hit in expected
    ]
    assert found["calls"] == 12
    with pytest.raises(InputError, match="crossknn serve"):
        CrossKNNRetriever(index).to_dict()
    served = Pipeline()
    served.add_component("retriever", CrossKNNRetriever("http://localhost:9", top_k=4, budget=20))
    again = Pipeline.loads(served.dumps(), allowed_modules=[CrossKNNRetriever.__module__]).get_component("retriever")
    assert (again.top_k, again.budget, again.method) == (4, 20, None)
    assert isinstance(again._index, Client)


def test_pyterrier(index: Index, world: Any) -> None:
    pytest.importorskip("pyterrier", reason="needs the extra 'integrations'")
    import pandas as pd
    import pyterrier as pt

    from crossknn.integrations.pyterrier import CrossKNNRetriever

    retriever = CrossKNNRetriever(index, k=4, **SETTINGS)
    topics = pd.DataFrame({"qid": ["a", "b"], "query": world.queries[3:5], "source": ["x", "y"]})
    found = retriever(topics)
    expected = index.search_batch(world.queries[3:5], k=4, **SETTINGS)
    assert found["docno"].tolist() == [hit.id for result in expected for hit in result]
    assert found["iteration"].tolist() == [hit.round - 1 for result in expected for hit in result]
    assert found[["qid", "source", "rank"]].values.tolist() == [[q, s, r] for q, s in ("ax", "by") for r in range(4)]
    np.testing.assert_array_equal(found["score"], [hit.score for result in expected for hit in result])
    cut = (retriever % 1)(topics)
    assert cut["docno"].tolist() == [result[0].id for result in expected]
    with pytest.raises(pt.validate.InputValidationError):
        retriever(found)
    empty = retriever(topics[:0])
    assert list(empty.columns) == list(found.columns)
    assert empty.empty
    qrels = pd.DataFrame({"qid": ["a", "b"], "docno": [result[0].id for result in expected], "label": [1, 1]})
    (row,) = pt.Experiment([retriever], topics, qrels, ["P_1"]).to_dict("records")
    assert row["P_1"] == 1


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index.core", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("pyterrier", "pyterrier", "pyterrier"),
    ],
)
def test_what_is_missing_is_named(monkeypatch: Any, module: str, package: str, extra: str) -> None:
    monkeypatch.delitem(sys.modules, f"crossknn.integrations.{module}", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == package.split(".")[0]]:
        monkeypatch.delitem(sys.modules, name)

    class Nothing:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name.split(".")[0] == package.split(".")[0]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Nothing, *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"crossknn\[{extra}\]"):
        __import__(f"crossknn.integrations.{module}")


def test_every_retriever_finds_the_same_through_a_service(index: Index, world: Any, address: str) -> None:
    for module in ("langchain_core", "llama_index.core", "haystack", "pyterrier"):
        pytest.importorskip(module, reason="needs the extra 'integrations'")
    from crossknn.integrations import haystack, langchain, llama_index, pyterrier

    query = world.queries[0]
    expected = [hit.id for hit in index.search(query, k=4, **SETTINGS)]
    documents = langchain.CrossKNNRetriever(index=address, k=4, **SETTINGS).invoke(query)
    assert [document.id for document in documents] == expected
    assert documents[0].metadata["half"] == 1
    nodes = llama_index.CrossKNNRetriever(address, k=4, **SETTINGS).retrieve(query)
    assert [node.node.node_id for node in nodes] == expected
    found = haystack.CrossKNNRetriever(address, top_k=4, **SETTINGS).run(query)
    assert [document.id for document in found["documents"]] == expected
    topics = pyterrier.pd.DataFrame({"qid": [str(n) for n in range(100)], "query": [query] * 100, "text": "x"})
    frame = pyterrier.CrossKNNRetriever(address, k=4, **SETTINGS).transform(topics)  # more than one request may have
    assert frame["docno"].tolist() == expected * 100
    assert list(frame.columns).count("text") == 1
