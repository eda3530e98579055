"""k-NN search with cross-encoders: their own top k over all items, within a budget of calls."""

from importlib.metadata import version

from crossknn.errors import CrossKNNError, CrossKNNWarning
from crossknn.factorization import CUR, Distillation, MFInductive, MFTransductive
from crossknn.first_stage import (
    BM25,
    Dense,
    GivenVectors,
    OnnxEncoder,
    RandomFirstStage,
    SentenceTransformersEncoder,
    TfIdf,
    WithVectors,
)
from crossknn.index import BuildOptions, Index, OpenSearch
from crossknn.onnx_model import OnnxOptions
from crossknn.results import Hit, SearchResult
from crossknn.scorers import CachedScorer, FunctionScorer, OnnxScorer, ReplayScorer, SentenceTransformersScorer
from crossknn.scores import AllItems, PerItem, PerQuery
from crossknn.search import AXN, BayesianRidge, MinNorm, Rerank, Shortlist
from crossknn.tuning import Tuning

__version__ = version("crossknn")

__all__ = [
    "AXN",
    "BM25",
    "CUR",
    "AllItems",
    "BayesianRidge",
    "BuildOptions",
    "CachedScorer",
    "CrossKNNError",
    "CrossKNNWarning",
    "Dense",
    "Distillation",
    "FunctionScorer",
    "GivenVectors",
    "Hit",
    "Index",
    "MFInductive",
    "MFTransductive",
    "MinNorm",
    "OnnxEncoder",
    "OnnxOptions",
    "OnnxScorer",
    "OpenSearch",
    "PerItem",
    "PerQuery",
    "RandomFirstStage",
    "ReplayScorer",
    "Rerank",
    "SearchResult",
    "SentenceTransformersEncoder",
    "SentenceTransformersScorer",
    "Shortlist",
    "TfIdf",
    "Tuning",
    "WithVectors",
    "__version__",
]
