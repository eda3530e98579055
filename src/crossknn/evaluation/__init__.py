"""How good a search is, against the cross-encoder's own exact top k."""

from crossknn.evaluation.benchmark import BenchmarkData, BenchmarkOptions, benchmark
from crossknn.evaluation.evaluate import EvaluationOptions, default_methods, evaluate
from crossknn.evaluation.ground_truth import exact_scores
from crossknn.evaluation.measures import paired_interval, top_k_recall
from crossknn.evaluation.origins import Origins, RankBucket
from crossknn.evaluation.replay import Offline, System
from crossknn.evaluation.report import Cell, Report, Seconds

__all__ = [
    "BenchmarkData",
    "BenchmarkOptions",
    "Cell",
    "EvaluationOptions",
    "Offline",
    "Origins",
    "RankBucket",
    "Report",
    "Seconds",
    "System",
    "benchmark",
    "default_methods",
    "evaluate",
    "exact_scores",
    "paired_interval",
    "top_k_recall",
]
