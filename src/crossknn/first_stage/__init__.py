"""First stages: cheap scores of every item. A new kind is one file here that follows ``base.FirstStage``."""

from crossknn.first_stage.base import BoundFirstStage, FirstStage, VectorFirstStage
from crossknn.first_stage.beside import WithVectors
from crossknn.first_stage.bm25 import BM25
from crossknn.first_stage.dense import Dense, Encoder, GivenVectors, SentenceTransformersEncoder
from crossknn.first_stage.hybrid import Hybrid
from crossknn.first_stage.late import LateInteraction, TokenEncoder
from crossknn.first_stage.onnx import OnnxEncoder
from crossknn.first_stage.random import RandomFirstStage
from crossknn.first_stage.states import ShowsStates, WithStates, calls_to_prepare
from crossknn.first_stage.tfidf import TfIdf

__all__ = [
    "BM25",
    "BoundFirstStage",
    "Dense",
    "Encoder",
    "FirstStage",
    "GivenVectors",
    "Hybrid",
    "LateInteraction",
    "OnnxEncoder",
    "RandomFirstStage",
    "SentenceTransformersEncoder",
    "ShowsStates",
    "TfIdf",
    "TokenEncoder",
    "VectorFirstStage",
    "WithStates",
    "WithVectors",
    "calls_to_prepare",
]
