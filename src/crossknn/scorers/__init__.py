"""Scorers: cross-encoders, and what stands in for one. A new kind is one file here that follows ``base.Scorer``."""

from crossknn.scorers.base import BoundScorer, Fingerprint, Scorer
from crossknn.scorers.cached import CachedScorer, CacheEntry, cache_entries, clear_cache
from crossknn.scorers.function import FunctionScorer
from crossknn.scorers.onnx import OnnxScorer
from crossknn.scorers.replay import ReplayScorer
from crossknn.scorers.sentence_transformers import SentenceTransformersScorer

__all__ = [
    "BoundScorer",
    "CacheEntry",
    "CachedScorer",
    "Fingerprint",
    "FunctionScorer",
    "OnnxScorer",
    "ReplayScorer",
    "Scorer",
    "SentenceTransformersScorer",
    "cache_entries",
    "clear_cache",
]
