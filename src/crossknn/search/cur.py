"""ANNCUR and adaCUR: AXN over the columns of dense anchor rows (see :mod:`crossknn.factorization.cur`)."""

from __future__ import annotations

from crossknn.search.axn import AXN
from crossknn.search.regression import MinNorm


def anncur(seed: int = 0) -> AXN:
    """ANNCUR (EMNLP 2022): half of the budget goes to random anchor items, half to the best of what they predict.

    The anchor items are the same for every query. The index is one built with :class:`~crossknn.CUR`.
    """
    return AXN(rounds=2, solver=MinNorm(), first_round="random", seed=seed)


def adacur(rounds: int = 10) -> AXN:
    """adaCUR (EMNLP Findings 2023): anchor items grow in rounds, the first of them from the first stage.

    The index is one built with :class:`~crossknn.CUR`.
    """
    return AXN(rounds=rounds, solver=MinNorm())
