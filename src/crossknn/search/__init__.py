"""Searching within a budget of CE calls. A new method is one file here that follows ``rounds.SearchMethod``."""

from crossknn.search.axn import AXN
from crossknn.search.cur import adacur, anncur
from crossknn.search.gar import GAR
from crossknn.search.named import METHODS, method_named, settings_of, untuned_method, with_settings
from crossknn.search.regression import BayesianRidge, FittedQuery, MinNorm, QuerySolver
from crossknn.search.rerank import Rerank
from crossknn.search.rounds import Progress, Proposal, Rounds, SearchMethod, Stop, Task, check_searches, run, run_rounds
from crossknn.search.sharing import run_sharing
from crossknn.search.shortlist import Shortlist
from crossknn.search.stopping import Calibration, RecallTarget, expected_recall
from crossknn.search.tour import TouR

__all__ = [
    "AXN",
    "GAR",
    "METHODS",
    "BayesianRidge",
    "Calibration",
    "FittedQuery",
    "MinNorm",
    "Progress",
    "Proposal",
    "QuerySolver",
    "RecallTarget",
    "Rerank",
    "Rounds",
    "SearchMethod",
    "Shortlist",
    "Stop",
    "Task",
    "TouR",
    "adacur",
    "anncur",
    "check_searches",
    "expected_recall",
    "method_named",
    "run",
    "run_rounds",
    "run_sharing",
    "settings_of",
    "untuned_method",
    "with_settings",
]
