"""How much work to give at once to what may be slow or quick: enough that it takes about a second."""

from __future__ import annotations

_SECONDS = 1.0
"""That a piece should take; after less than half of it the next is twice as large, after twice of it half."""

_MOST_TIMES = 64
"""As large as the least a piece may grow to: what was quick need not stay so."""


def next_size(size: int, seconds: float, least: int) -> int:
    """Size of the next piece of work, after one of ``size`` took so many seconds."""
    if seconds < _SECONDS / 2:
        return min(2 * size, _MOST_TIMES * least)
    return max(least, size // 2) if seconds > 2 * _SECONDS else size
