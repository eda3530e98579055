"""What clients send and get."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, JsonValue

from crossknn.arrays import FloatArray
from crossknn.results import SearchResult


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1)]
"""A whole number of at least 1."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class IdFilter(_Request):
    """Which items may be scored and returned."""

    only: list[str] | None = Field(None, description="ids that are allowed; all where it is left out")
    without: list[str] = Field(default_factory=list, description="ids that are not")


class SearchRequest(_Request):
    """One query, or a list of them."""

    query: str | list[str]
    k: Count = Field(10, description="hits")
    budget: Count | None = Field(
        None, description="cross-encoder calls per query; the tuned number or 100, to a target 500"
    )
    target_recall: FiniteFloat | None = Field(None, gt=0, lt=1, description="stop once this recall is expected")
    max_ms: FiniteFloat | None = Field(None, gt=0, description="stop rather than search longer")
    method: str | None = Field(None, max_length=60, description="such as axn, rerank, axn-r5; the index's own")
    ids: IdFilter | None = None
    filter: dict[str, JsonValue] | None = Field(
        None,
        description="on the items' metadata: a value, a list of values, or an object with gt, gte, lt, lte, not",
        examples=[{"chapter": "Injuries", "year": {"gte": 2000}}],
    )
    trace: bool = Field(False, description="what each round cost")


class StreamRequest(SearchRequest):
    """One query, its rounds told as they finish."""

    query: str


class HitModel(BaseModel):
    """One item found."""

    id: str
    text: str
    score: float
    round: int
    first_stage_rank: int
    metadata: dict[str, Any]


class ResultModel(BaseModel):
    """What a query found."""

    query: str
    hits: list[HitModel]
    calls: int
    expected_recall: float | None = None
    trace: list[dict[str, float]] | None = None


class SearchResponse(BaseModel):
    """One result for each query, in their order."""

    results: list[ResultModel]


class ItemAnswer(BaseModel):
    """An item."""

    id: str
    text: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class FieldModel(BaseModel):
    """A field of the items' metadata."""

    name: str
    distinct: int = Field(description="how many values it has")
    values: list[Any] = Field(description="the most frequent of them, up to 50")


class Document(BaseModel):
    """A text to rerank, as older clients of Cohere and Jina send it."""

    text: str


class CohereRequest(BaseModel):
    """Cohere's rerank request, version 2; fields of theirs that mean nothing here are taken and ignored."""

    query: str
    documents: list[str | Document] = Field(min_length=1)
    texts: None = Field(None, description="TEI's name for documents; a request has one of them")
    top_n: Count | None = None
    return_documents: bool = False

    @property
    def to_rerank(self) -> list[str]:
        """The texts."""
        return [d if isinstance(d, str) else d.text for d in self.documents]

    def answer(self, scores: FloatArray) -> dict[str, Any]:
        """Cohere's, of raw logits (n_documents,)."""
        kept, documents = _best_first(scores)[: self.top_n], self.to_rerank
        texts = {n: {"document": {"text": documents[n]}} for n in kept} if self.return_documents else {}
        return {
            "results": [{"index": n, "relevance_score": _sigmoid(scores[n])} | texts.get(n, {}) for n in kept],
            "meta": {"api_version": {"version": "2"}},
        }


class TEIRequest(BaseModel):
    """Text Embeddings Inference's rerank request."""

    query: str
    texts: list[str] = Field(min_length=1)
    documents: None = Field(None, description="Cohere's name for texts; a request has one of them")
    raw_scores: bool = False
    return_text: bool = False

    @property
    def to_rerank(self) -> list[str]:
        """The texts."""
        return self.texts

    def answer(self, scores: FloatArray) -> list[dict[str, Any]]:
        """TEI's, of raw logits (n_texts,)."""
        order = _best_first(scores)
        texts = {n: {"text": self.texts[n]} for n in order} if self.return_text else {}
        shown = scores.tolist() if self.raw_scores else [_sigmoid(s) for s in scores]
        return [{"index": n, "score": shown[n]} | texts.get(n, {}) for n in order]


class InfoModel(BaseModel):
    """What is served."""

    model_config = ConfigDict(protected_namespaces=())

    version: str
    items: int
    scorer: str
    first_stage: str
    methods: list[str]
    default_method: str
    default_budget: int
    default_rounds: int = Field(description="rounds of the default method")
    limits: dict[str, float]
    examples: list[str]
    fields: list[FieldModel] = Field(description="what `filter` may ask of")
    model_id: str = Field(description="from here on as TEI's /info, for its clients")
    model_sha: str | None = None
    model_dtype: str = "as model_id says"
    max_input_length: int = Field(description="characters of a text")
    max_client_batch_size: int


class StateModel(BaseModel):
    """Whether it lives."""

    status: Literal["ok"] = "ok"


def plain(result: SearchResult, *, trace: bool) -> dict[str, Any]:
    """What a query found, as JSON has it."""
    found = result.to_dict()
    if not trace:
        del found["trace"]
    return found


def _best_first(scores: FloatArray) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
