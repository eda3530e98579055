"""Numbers as people read them."""

from __future__ import annotations

from crossknn.evaluation.measures import Interval


def percent(share: float) -> str:
    """Whole percents, but never 0% or 100% for what is only near it."""
    rounded = f"{100 * share:.0f}%"
    near = rounded in ("0%", "100%") and share not in (0, 1)
    return f"{min(max(100 * share, 0.1), 99.9):.1f}%" if near else rounded


def recall_interval(interval: Interval) -> str:
    """A mean in percent, and its interval."""
    return f"{100 * interval.mean:.1f}% ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def points(interval: Interval) -> str:
    """A difference in points."""
    return f"{100 * interval.mean:+.1f}"


def gain_interval(interval: Interval) -> str:
    """A difference in points, and its interval."""
    return f"{points(interval)} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def share_interval(interval: Interval) -> str:
    """A share in whole percents, and its interval."""
    return f"{100 * interval.mean:.0f}% ({100 * interval.low:.0f} to {100 * interval.high:.0f})"


def duration(seconds: float) -> str:
    """Milliseconds, or seconds from 1 up; three digits are enough."""
    if seconds >= 1:
        return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds == 0:
        return "0 ms"
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.{2 if seconds < 0.001 else 1}f} ms"
