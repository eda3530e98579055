"""Kinds of rerank services: where each is asked, with what, and where the scores stand in its answer."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from crossknn.errors import InputError, ScorerError

_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")


@dataclass(frozen=True)
class Served:
    """What a service says of itself.

    Attributes:
        model: everything it tells about the model: name, revision, precision, maximum length.
        batch_limit: most texts it takes in one request; None if it does not say.
    """

    model: str
    batch_limit: int | None = None


@dataclass(frozen=True)
class RerankAPI(ABC):
    """A kind of service. A subclass says what is sent (``body``) and under which keys the scores come back.

    Attributes:
        url: of the service, without the path of the method; also the address of a proxy or of a compatible service.
        api_key: sent as a Bearer token; shown nowhere.
        raw: whether scores are raw logits. Otherwise they are probabilities, and taken back to logits.
        path: of the method, behind the URL.

    Raises:
        InputError: the URL is none, or holds a password; the key has characters that no header may have.
    """

    url: str
    api_key: str | None = field(default=None, repr=False, kw_only=True)
    raw: bool = field(default=True, kw_only=True)
    path: str = field(default="/rerank", kw_only=True)

    name: ClassVar[str]
    rows_key: ClassVar[str | None] = "results"
    score_key: ClassVar[str] = "relevance_score"
    info_path: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            raise InputError(
                "url must be like https://host:port or https://host/prefix, without password, query or fragment "
                "(a key goes into api_key)"
            )
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError("api_key is empty, or has blanks, line breaks or non-ASCII characters")

    @property
    def service(self) -> str:
        """The URL without a slash at its end."""
        return self.url.rstrip("/")

    @property
    def endpoint(self) -> str:
        """Where scores are asked for."""
        return self.service + self.path

    @abstractmethod
    def body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """What is sent to score texts for one query."""

    @abstractmethod
    def served(self, info: Any) -> Served:
        """What is known of the model, from the answer at ``info_path`` if there is such a path."""

    def read(self, answer: Any, n_texts: int) -> list[float]:
        """Scores out of an answer, in the order of the texts that were sent; services sort them by score.

        Raises:
            ScorerError: not every text has exactly one score that is a finite number.
        """
        rows = answer
        if self.rows_key is not None:
            rows = answer.get(self.rows_key) if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            expected = f'a list under "{self.rows_key}"' if self.rows_key else "a list"
            raise self._unlike(f"answered {_outline(answer)}, not {expected} as {self.name} answers")
        if len(rows) != n_texts:
            raise self._unlike(f"answered {len(rows)} scores for {n_texts} texts")
        scores: dict[int, float] = {}
        for row in rows:
            index, score = row.get("index"), row.get(self.score_key)
            if type(index) is not int or not 0 <= index < n_texts:
                raise self._unlike(f"answered the index {shortened(index)}, not one of 0 to {n_texts - 1}")
            if index in scores:
                raise self._unlike(f"answered the index {index} twice")
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise self._unlike(f'answered {shortened(score)} as "{self.score_key}", which is no finite number')
            scores[index] = float(score)
        return [scores[index] for index in range(n_texts)]

    def _unlike(self, what: str) -> ScorerError:
        return ScorerError(f"{self.endpoint} {what}; check which API the service speaks")


@dataclass(frozen=True)
class TEI(RerankAPI):
    """Text Embeddings Inference of Hugging Face: raw logits; model and batch limit are read from ``/info``.

    Attributes:
        truncate: whether the service cuts pairs to its maximum length; otherwise it refuses long ones.
    """

    truncate: bool = field(default=True, kw_only=True)

    name: ClassVar[str] = "tei"
    rows_key: ClassVar[str | None] = None
    score_key: ClassVar[str] = "score"
    info_path: ClassVar[str | None] = "/info"

    def body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """``raw_scores`` asks for logits without the sigmoid."""
        return {"query": query, "texts": list(texts), "raw_scores": self.raw, "truncate": self.truncate}

    def served(self, info: Any) -> Served:
        """Model, revision, precision, maximum length and ``max_client_batch_size`` of ``/info``."""
        try:
            revision = info.get("model_sha") or "no-revision"
            precision, length = info["model_dtype"], int(info["max_input_length"])
            model = f"{info['model_id']}:{revision}:{precision}:max_length={length}"
            return Served(model, max(1, int(info["max_client_batch_size"])))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ScorerError(
                f"{self.service}{self.info_path} answered {_outline(info)}, which does not describe a model as TEI "
                "does; check the URL and which API the service speaks"
            ) from None


@dataclass(frozen=True)
class VLLM(RerankAPI):
    """vLLM 0.11.1 or newer, with a cross-encoder: ``/rerank``, raw logits.

    Attributes:
        model: the name under which it is served.
        truncate: whether the service cuts pairs to its maximum length; otherwise it refuses long ones.
    """

    model: str = field(kw_only=True)
    truncate: bool = field(default=True, kw_only=True)

    name: ClassVar[str] = "vllm"

    def body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """``use_activation`` false asks for logits without the sigmoid (older versions ignore it, or its old name)."""
        return {"query": query, "documents": list(texts), **self._common()}

    def served(self, info: Any) -> Served:
        """The name given."""
        return Served(self.model)

    def _common(self) -> dict[str, Any]:
        truncation = {"truncate_prompt_tokens": -1} if self.truncate else {}
        return {"model": self.model, "use_activation": not self.raw, **truncation}


@dataclass(frozen=True)
class VLLMScore(VLLM):
    """The same scores from vLLM's ``/score``."""

    path: str = field(default="/score", kw_only=True)

    rows_key: ClassVar[str | None] = "data"
    score_key: ClassVar[str] = "score"

    def body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """One text against many."""
        return {"text_1": query, "text_2": list(texts), **self._common()}


@dataclass(frozen=True, kw_only=True)
class Cohere(RerankAPI):
    """Cohere's API, version 2, and services like it: probabilities, taken back to logits.

    Cohere bills one search for up to 100 documents: a ``batch_size`` below that costs more.

    Attributes:
        model: its name, such as "rerank-v3.5".
    """

    url: str = "https://api.cohere.com"
    model: str
    raw: bool = False
    path: str = "/v2/rerank"

    name: ClassVar[str] = "cohere"

    def body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """All texts are to come back: ``top_n`` is their number."""
        return {"model": self.model, "query": query, "documents": list(texts), "top_n": len(texts)}

    def served(self, info: Any) -> Served:
        """The name given."""
        return Served(self.model)


@dataclass(frozen=True, kw_only=True)
class Jina(Cohere):
    """Jina's API and services like it (llama.cpp, Infinity, Xinference, LocalAI): probabilities, taken back to logits.

    Some of these answer with raw logits, llama.cpp for one: pass ``raw=True``. The score of a pair must not depend on
    the other texts of its request, which rules out listwise models such as jina-reranker-v3.
    """

    url: str = "https://api.jina.ai"
    path: str = "/v1/rerank"

    name: ClassVar[str] = "jina"

    def body(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """As Cohere's; the texts are not to be sent back."""
        return {**super().body(query, texts), "return_documents": False}


def _outline(answer: object) -> str:
    """An answer without its content, which is for the service's log and may hold secrets."""
    if isinstance(answer, dict):
        return f"an object with {shortened(', '.join(map(str, answer)) or 'nothing in it')}"
    return f"a {type(answer).__name__}"


def shortened(value: object) -> str:
    """A value as an error message can hold it."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:200] + "..."
