"""The sparse score matrix: which pairs to score, scoring them without losing any, and holding them."""

from crossknn.scores.ledger import collect_scores
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import AllItems, Pairs, PerItem, PerQuery, Plan

__all__ = ["AllItems", "Pairs", "PerItem", "PerQuery", "Plan", "ScoreMatrix", "collect_scores"]
