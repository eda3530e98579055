"""Search methods by the names that the command and reports use."""

from __future__ import annotations

from collections.abc import Mapping

from crossknn.search.axn import AXN
from crossknn.search.cur import adacur, anncur
from crossknn.search.regression import BayesianRidge, MinNorm
from crossknn.search.rerank import Rerank
from crossknn.search.rounds import SearchMethod
from crossknn.search.tour import TouR

METHODS: Mapping[str, SearchMethod] = {
    "rerank": Rerank(),
    "axn-paper": AXN(rounds=5, solver=MinNorm()),
    "axn": AXN(),
    "bayes": AXN(rounds=20, solver=BayesianRidge(noise=1.0), first_round="item vectors"),
    "anncur": anncur(),
    "adacur": adacur(),
    "tour-ce": TouR("ce"),
    "tour-mse": TouR("mse"),
}
"""``bayes`` is meant for an index with :class:`~crossknn.factorization.MFSideInformation`, ``anncur`` and ``adacur``
for one with CUR; ``axn-paper`` has the paper's solver."""
