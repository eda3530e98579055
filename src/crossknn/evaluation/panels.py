"""What the figures of a report consist of: panels, each drawn by itself and told in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crossknn.errors import InputError
from crossknn.evaluation.cost_panels import offline_panels, rounds_panels, time_panels
from crossknn.evaluation.drawing import MARKERS, Panel, Theme, apart, name_ends, plain_bars, short
from crossknn.evaluation.measures import Interval
from crossknn.evaluation.origins import RankBucket
from crossknn.evaluation.tables import bucket_name

if TYPE_CHECKING:
    from crossknn.evaluation.report import Cell, Report

Name = Literal["recall", "gain", "origins", "time", "rounds", "offline"]


def panels(report: Report, figure: Name) -> list[Panel]:
    """What a figure consists of; empty where the report has nothing to draw."""
    made: dict[Name, Callable[[Report], list[Panel]]] = {
        "recall": _recall_panels,
        "gain": _gain_panels,
        "origins": _origins_panels,
        "time": time_panels,
        "rounds": rounds_panels,
        "offline": offline_panels,
    }
    if figure not in made:
        raise InputError(f"there is no figure {figure!r}; there are {', '.join(made)}")
    return made[figure](report if figure in ("rounds", "offline") else report.with_fewer_methods())


# -- lines against CE calls --------------------------------------------------------------------------------------


def _recall_panels(report: Report) -> list[Panel]:
    def panel(k: int) -> Panel:
        lines = _lines(report, report.methods, lambda cell: cell.recall.get(k))

        def draw(axes: Any, theme: Theme) -> None:
            axes.set(title=f"Top-{k}-Recall", ylim=(0, 104), ylabel=f"% of the exact top {k} found")
            _draw_lines(axes, theme, report, lines)

        return Panel(f"Top-{k}-Recall by calls per query, in percent. {_in_words(lines)}", draw)

    return [panel(k) for k in report.ks]


def _gain_panels(report: Report) -> list[Panel]:
    others = [method for method in report.methods if method != report.baseline]
    gains = [gain for cell in report.cells for gain in cell.gain.values()]
    low, high = 100 * min(gain.low for gain in gains), 100 * max(gain.high for gain in gains)
    margin = max(1.0, 0.06 * (high - low))

    def panel(k: int) -> Panel:
        lines = _lines(report, others, lambda cell: cell.gain.get(k))

        def draw(axes: Any, theme: Theme) -> None:
            axes.set(title=f"Top-{k}", ylim=(low - margin, high + margin))
            axes.set_ylabel(f"points more than {short([report.baseline])[0]}")
            axes.axhline(0, color=theme.method(0), linewidth=1.5)
            _draw_lines(axes, theme, report, lines)

        return Panel(f"Gain in Top-{k}-Recall over {report.baseline}, in points. {_in_words(lines)}", draw)

    return [panel(k) for k in report.ks] if others else []


_Lines = Mapping[str, Sequence[tuple[int, Interval]]]
"""Method to (calls, value in percent or points)."""


def _lines(report: Report, methods: Sequence[str], value: Callable[[Cell], Interval | None]) -> _Lines:
    lines: dict[str, list[tuple[int, Interval]]] = {method: [] for method in methods}
    for cell in sorted(report.cells, key=report.calls):
        found = value(cell)
        if found is not None and cell.method in lines:
            scaled = Interval(100 * found.mean, 100 * found.low, 100 * found.high)
            lines[cell.method].append((report.calls(cell), scaled))
    return lines


def _draw_lines(axes: Any, theme: Theme, report: Report, lines: _Lines) -> None:
    """Lines with intervals, and their names at the right end."""
    for place, (method, points) in enumerate(lines.items()):
        number = report.methods.index(method)
        means = np.array([value.mean for _, value in points])
        errors = [[v.mean - v.low for _, v in points], [v.high - v.mean for _, v in points]]
        offset = 1.02 ** (place - (len(lines) - 1) / 2)  # so that intervals do not hide one another
        axes.errorbar(
            [calls * offset for calls, _ in points],
            means,
            yerr=errors,
            color=theme.method(number),
            marker=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2,
        )
    axes.grid(axis="y")
    axes.set(xscale="log", xlabel="cross-encoder calls per query")
    budgets = sorted({report.calls(cell) for cell in report.cells if cell.recall})
    axes.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
    axes.set_xticks(apart(budgets), [f"{calls:,}" for calls in apart(budgets)])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    colors = {method: theme.method(report.methods.index(method)) for method in lines}
    name_ends(axes, [(method, points[-1][1].mean, colors[method]) for method, points in lines.items()], low, high)


def _in_words(lines: _Lines) -> str:
    return " ".join(
        f"{method}: " + ", ".join(f"{value.mean:.1f} at {calls:,} calls" for calls, value in points) + "."
        for method, points in lines.items()
    )


# -- bars --------------------------------------------------------------------------------------------------


def _origins_panels(report: Report) -> list[Panel]:
    found = {cell.method: cell.origins for cell in report.focus if cell.origins is not None}
    buckets, budget = found[report.baseline].buckets, report.focus[0].budget

    def draw(axes: Any, theme: Theme) -> None:
        widest = max(bucket.total for origins in found.values() for bucket in origins.buckets)
        y, ticks = 0.0, []
        for place, bucket in enumerate(buckets):
            if bucket.first_rank == budget + 1:
                axes.axhline(y, color=theme.ink, linestyle=(0, (4, 3)), linewidth=0.9)
                note = f"reranking with {budget:,} calls never sees what is below"
                axes.text(0, y + 0.7, note, va="center", color=theme.muted, style="italic", fontsize=8)
                y += 1.8
            axes.text(0, y, _ranks(report, bucket), va="center", fontweight="bold", fontsize=8.5)
            for method, origins in found.items():
                y += 1
                ticks.append(y)
                _draw_share(axes, theme, report.methods.index(method), y, origins.buckets[place], widest)
            y += 1.5
        axes.set_yticks(ticks, short(list(found)) * len(buckets), fontsize=8.5)
        plain_bars(axes, theme, report, [method for _ in buckets for method in found])
        axes.set(ylim=(y - 0.9, -0.7), xlim=(0, 1.28 * widest))
        axes.spines["left"].set_visible(False)

    said = " ".join(
        f"{_ranks(report, bucket)}: "
        + ", ".join(f"{method} found {_of(origins.buckets[n])}" for method, origins in found.items())
        + "."
        for n, bucket in enumerate(buckets)
    )
    height = 0.5 + 0.17 * (2.5 + len(found)) * len(buckets)
    return [Panel(f"The exact top {found[report.baseline].k} by first-stage rank. {said}", draw, height)]


def _draw_share(axes: Any, theme: Theme, number: int, y: float, bucket: RankBucket, widest: float) -> None:
    """What one method found of a bucket, in front of all that is there."""
    color = theme.method(number)
    axes.barh(y, bucket.total, color=color, alpha=0.28, height=0.72, linewidth=0)
    axes.barh(y, bucket.found, color=color, height=0.72, linewidth=0)
    axes.text(bucket.total + 0.02 * widest, y, _of(bucket), va="center", color=theme.muted, fontsize=8)


def _ranks(report: Report, bucket: RankBucket) -> str:
    return f"first-stage rank {bucket_name(bucket, report.n_items)}"


def _of(bucket: RankBucket) -> str:
    return f"{100 * bucket.found:.0f} of {100 * bucket.total:.0f}%"
