"""Rerank services as scorers, over HTTP. A new kind of service is one class in ``apis``."""

from crossknn.scorers.http.apis import TEI, VLLM, Cohere, Jina, RerankAPI, Served, VLLMScore
from crossknn.scorers.http.client import HTTPOptions
from crossknn.scorers.http.scorer import BoundHTTPScorer, HTTPScorer

__all__ = [
    "TEI",
    "VLLM",
    "BoundHTTPScorer",
    "Cohere",
    "HTTPOptions",
    "HTTPScorer",
    "Jina",
    "RerankAPI",
    "Served",
    "VLLMScore",
]
