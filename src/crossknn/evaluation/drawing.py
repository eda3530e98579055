"""What all figures are drawn with: colours, panels, and labels that do not run into each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from crossknn.evaluation.report import Report

MARKERS = "osD^vPX"
_TAIL = 7
_NAME_LENGTH = 24
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Theme:
    """Colours that can be told apart with any colour vision; the first of ``methods`` is the baseline's.

    Attributes:
        ink: text.
        muted: axes and what is said aside.
        grid: lines behind the data.
        paper: behind everything.
        methods: one for each method, in order.
        parts: parts of a query's time, from the first stage to the cross-encoder.
    """

    ink: str
    muted: str
    grid: str
    paper: str
    methods: Sequence[str]
    parts: Sequence[str]

    def method(self, number: int) -> str:
        """A method's colour in every figure; an eighth has the first one's, with another marker."""
        return self.methods[number % len(self.methods)]


@dataclass(frozen=True)
class Panel:
    """A part of a figure: what it shows, in words for those who cannot see it, and how it is drawn."""

    alt: str
    draw: Callable[[Any, Theme], None]
    height: float = 2.7


def name_ends(axes: Any, ends: Sequence[tuple[str, float, str]], low: float, high: float) -> None:
    """Names of lines, (name, height, colour), at the right end of axes that reach from `low` to `high`."""
    heights = spread([height for _, height, _ in ends], low, high)
    place = axes.get_yaxis_transform()
    for name, (_, _, color), height in zip(short([name for name, _, _ in ends]), ends, heights, strict=True):
        axes.annotate(name, (1.02, height), xycoords=place, color=color, va="center", fontsize=8.5)


def apart(budgets: Sequence[_Number]) -> list[_Number]:
    """Those of the sorted numbers whose labels do not run into each other on a logarithmic axis."""
    kept = [budgets[-1]]
    for budget in reversed(budgets[:-1]):
        if np.log(kept[-1] / budget) > 0.17 * np.log(budgets[-1] / budgets[0]):
            kept.append(budget)
    return kept[::-1]


def spread(heights: Sequence[float], low: float, high: float) -> list[float]:
    """Heights of labels near those of their lines, in the same order, so far apart that they can be read."""
    order = np.argsort(heights, kind="stable")
    gap = min(0.075, 1 / len(heights)) * (high - low)
    steps = gap * np.arange(len(heights))
    flat = np.asarray(heights)[order] - steps
    pushed_up, pushed_down = np.maximum.accumulate(flat), np.minimum.accumulate(flat[::-1])[::-1]
    placed = np.empty(len(heights))
    placed[order] = np.clip((pushed_up + pushed_down) / 2, low, high - steps[-1]) + steps
    return [float(height) for height in placed]


def plain_bars(axes: Any, theme: Theme, report: Report, methods: Sequence[str]) -> None:
    """No scale, since every bar says its value; methods named in their colours."""
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_color(theme.method(report.methods.index(method)))
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines["bottom"].set_visible(False)


def short(names: Sequence[str]) -> list[str]:
    """Users' names in one short line each, in which matplotlib sees no formula. The middle of long ones goes, and where
    they can still differ then, they do."""
    lines = [" ".join(name.split()) for name in names]
    tails = sorted(range(1, _NAME_LENGTH - 1), key=lambda tail: abs(tail - _TAIL))
    cuts = ([_cut(line, tail) for line in lines] for tail in tails)
    told_apart = next((cut for cut in cuts if len(set(cut)) == len(set(lines))), [_cut(line, _TAIL) for line in lines])
    return [line.replace("$", r"\$") for line in told_apart]


def _cut(line: str, tail: int) -> str:
    return line if len(line) <= _NAME_LENGTH else f"{line[: _NAME_LENGTH - tail - 1]}…{line[-tail:]}"
