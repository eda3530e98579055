"""k-NN search with cross-encoders: their own top k over all items, within a budget of calls.

A name's room is imported when the name is first used: so the command can answer before numpy and the rest are there.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes a while to import
if TYPE_CHECKING:
    from crossknn.errors import CrossKNNError, CrossKNNWarning
    from crossknn.factorization import CUR, Distillation, MFInductive, MFTransductive
    from crossknn.first_stage import (
        BM25,
        Dense,
        GivenVectors,
        Hybrid,
        LateInteraction,
        OnnxEncoder,
        RandomFirstStage,
        SentenceTransformersEncoder,
        TfIdf,
        WithStates,
        WithVectors,
    )
    from crossknn.index import Index
    from crossknn.learning import BuildOptions
    from crossknn.onnx_model import OnnxOptions
    from crossknn.open_search import OpenSearch
    from crossknn.results import Hit, SearchResult
    from crossknn.scorers import CachedScorer, FunctionScorer, OnnxScorer, ReplayScorer, SentenceTransformersScorer
    from crossknn.scores import AllItems, PerItem, PerQuery
    from crossknn.search import AXN, BayesianRidge, MinNorm, Rerank, Shortlist
    from crossknn.tuning import Tuning

    __version__: str

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
    "Hybrid",
    "Index",
    "LateInteraction",
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
    "WithStates",
    "WithVectors",
    "__version__",
]

_ROOMS = (
    "errors",
    "results",
    "onnx_model",
    "scorers",
    "scores",
    "first_stage",
    "factorization",
    "search",
    "tuning",
    "index",
)

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return import_module("importlib.metadata").version("crossknn")
        rooms = (import_module(f"crossknn.{room}") for room in _ROOMS if name in __all__)
        room = next((room for room in rooms if hasattr(room, name)), None)
        if room is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, getattr(room, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
