"""What the figures of a report consist of: panels, each drawn by itself and told in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from crossknn.errors import InputError
from crossknn.evaluation.measures import Interval
from crossknn.evaluation.numbers import duration
from crossknn.evaluation.origins import RankBucket
from crossknn.evaluation.tables import bucket_name

if TYPE_CHECKING:
    from crossknn.evaluation.report import Cell, Report

Name = Literal["recall", "gain", "origins", "time", "offline"]

_MARKERS = "osD^vPX"
_NAME_LENGTH = 20
_MOST_FAMILIES = 6
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


def panels(report: Report, figure: Name) -> list[Panel]:
    """What a figure consists of; empty where the report has nothing to draw."""
    made: dict[Name, Callable[[Report], list[Panel]]] = {
        "recall": _recall_panels,
        "gain": _gain_panels,
        "origins": _origins_panels,
        "time": _time_panels,
        "offline": _offline_panels,
    }
    if figure not in made:
        raise InputError(f"there is no figure {figure!r}; there are {', '.join(made)}")
    return made[figure](report if figure == "offline" else report.with_fewer_methods())


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
            axes.set_ylabel(f"points more than {_short(report.baseline)}")
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
        apart = 1.02 ** (place - (len(lines) - 1) / 2)  # so that intervals do not hide one another
        axes.errorbar(
            [calls * apart for calls, _ in points],
            means,
            yerr=errors,
            color=theme.method(number),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2,
        )
    axes.grid(axis="y")
    axes.set(xscale="log", xlabel="cross-encoder calls per query")
    budgets = sorted({report.calls(cell) for cell in report.cells if cell.recall})
    axes.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
    axes.set_xticks(_apart(budgets), [f"{calls:,}" for calls in _apart(budgets)])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ends = {method: points[-1][1].mean for method, points in lines.items()}
    for (method, _), height in zip(ends.items(), _spread(list(ends.values()), low, high), strict=True):
        color = theme.method(report.methods.index(method))
        axes.annotate(
            _short(method), (1.02, height), xycoords=axes.get_yaxis_transform(), color=color, va="center", fontsize=8.5
        )


def _apart(budgets: Sequence[_Number]) -> list[_Number]:
    """Those of the sorted numbers whose labels do not run into each other on a logarithmic axis."""
    kept = [budgets[-1]]
    for budget in reversed(budgets[:-1]):
        if np.log(kept[-1] / budget) > 0.14 * np.log(budgets[-1] / budgets[0]):
            kept.append(budget)
    return kept[::-1]


def _spread(heights: Sequence[float], low: float, high: float) -> list[float]:
    """Heights of labels near those of their lines, in the same order, so far apart that they can be read."""
    order = np.argsort(heights, kind="stable")
    gap = min(0.075, 1 / len(heights)) * (high - low)
    steps = gap * np.arange(len(heights))
    flat = np.asarray(heights)[order] - steps
    pushed_up, pushed_down = np.maximum.accumulate(flat), np.minimum.accumulate(flat[::-1])[::-1]
    placed = np.empty(len(heights))
    placed[order] = np.clip((pushed_up + pushed_down) / 2, low, high - steps[-1]) + steps
    return [float(height) for height in placed]


def _in_words(lines: _Lines) -> str:
    return " ".join(
        f"{method}: " + ", ".join(f"{value.mean:.1f} at {calls:,} calls" for calls, value in points) + "."
        for method, points in lines.items()
    )


# -- lines against what the index cost ---------------------------------------------------------------------------


def _offline_panels(report: Report) -> list[Panel]:
    if not any(cost.calls for cost in report.offline.values()):
        return []
    known = all(report.offline_seconds(method) is not None for method in report.offline)
    shown = _best_families(report)
    return [
        _offline_panel(report, k, against, shown)
        for k in sorted({k for cell in report.focus for k in cell.recall})
        for against in (("calls", "seconds") if known else ("calls",))
    ]


def _headline_budget(report: Report, k: int) -> int:
    """Calls at which recall of the top k is told: ten for each, a hundred at least, or as many as were measured."""
    focus = report.focus[0].budget
    return min((cell.budget for cell in report.cells if max(10 * k, 100) <= cell.budget <= focus), default=focus)


def _best_families(report: Report) -> list[str]:
    """As many families that learn as lines can be told apart: of each way of learning the one that finds most.

    Those measured at several prices come first, since they are what the figure is for; then those that find most.
    """
    k = max(k for cell in report.focus for k in cell.recall)
    found: dict[str, float] = {}
    prices: dict[str, set[int]] = {}
    for cell in report.focus:
        cost = report.offline.get(cell.method)
        if cost is not None and cost.calls:
            family = cost.family or cell.method
            found[family] = max(cell.recall[k].mean, found.get(family, 0.0))
            prices.setdefault(family, set()).add(cost.calls)
    order = sorted(found, key=lambda family: (len(prices[family]) < 2, -found[family]))
    best = {family.partition(":")[2] or family: family for family in reversed(order)}
    return sorted(best.values(), key=order.index)[:_MOST_FAMILIES]


def _offline_panel(report: Report, k: int, against: str, families: Sequence[str]) -> Panel:
    """Families that learn as lines; of those that do not, the baseline and the best as a level to be above."""
    budget = _headline_budget(report, k)
    levels: dict[str, float] = {}
    lines: dict[str, list[tuple[float, float]]] = {family: [] for family in families}
    for cell in report.cells:
        if cell.budget != budget or (cost := report.offline.get(cell.method)) is None:
            continue
        value = 100 * cell.recall[k].mean
        if cost.calls:
            x = cost.calls / report.n_items if against == "calls" else report.offline_seconds(cell.method) or 0.0
            lines.get(cost.family or cell.method, []).append((x, value))
        else:
            levels[cell.method] = value
    best = max(levels, key=lambda method: levels[method], default=None)
    shown = {method: value for method, value in levels.items() if method in (report.baseline, best)}
    unit = "offline calls per item" if against == "calls" else "seconds of indexing"
    values = [*shown.values(), *(y for points in lines.values() for _, y in points)]
    lowest = max(0.0, 5 * (min(values) // 5) - 5)  # systems near each other must be told apart

    def draw(axes: Any, theme: Theme) -> None:
        axes.set(title=f"Top-{k}-Recall at {budget:,} calls", ylim=(lowest, 102), xscale="log", xlabel=unit)
        ends = []
        for number, (method, value) in enumerate(shown.items()):
            axes.axhline(value, color=theme.muted, linewidth=1.2, linestyle=(0, (4, 2 + 2 * number)))
            ends.append((method, value, theme.muted))
        for number, (family, points) in enumerate(lines.items(), start=1):
            xs, ys = zip(*sorted(points), strict=True)
            color = theme.method(number)
            axes.plot(xs, ys, color=color, marker=_MARKERS[number % len(_MARKERS)], markersize=4.5, linewidth=1.6)
            ends.append((family, ys[-1], color))
        axes.grid(axis="y")
        axes.margins(x=0.08)
        axes.minorticks_off()
        ticks = _apart(sorted({x for points in lines.values() for x, _ in points}))
        axes.set_xticks(ticks, [f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in ticks])
        for (name, _, color), height in zip(ends, _spread([value for _, value, _ in ends], lowest, 102), strict=True):
            place = axes.get_yaxis_transform()
            axes.annotate(_short(name), (1.02, height), xycoords=place, color=color, va="center", fontsize=8.5)

    said = [f"{method}: {value:.1f} with no offline call." for method, value in shown.items()]
    said += [
        f"{family}: " + ", ".join(f"{y:.1f} at {x:,.1f}" for x, y in sorted(points)) + "."
        for family, points in lines.items()
    ]
    return Panel(f"Top-{k}-Recall at {budget:,} calls per query, in percent, by {unit}. {' '.join(said)}", draw)


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
        axes.set_yticks(ticks, [_short(method) for _ in buckets for method in found], fontsize=8.5)
        _plain_bars(axes, theme, report, [method for _ in buckets for method in found])
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


def _time_panels(report: Report) -> list[Panel]:
    calls = report.call_seconds(report.focus[0])
    beside = {c.method: [c.seconds.first_stage, c.seconds.fit, c.seconds.retrieve] for c in report.focus}
    parts = ["first stage", "fit", "retrieve"]

    def panel(title: str, shown: Mapping[str, Sequence[float]], names: Sequence[str]) -> Panel:
        def draw(axes: Any, theme: Theme) -> None:
            axes.set_title(title)
            _draw_times(axes, theme, report, shown, names)

        said = " ".join(
            f"{method}: " + ", ".join(f"{name} {duration(s)}" for name, s in zip(names, seconds, strict=True)) + "."
            for method, seconds in shown.items()
        )
        return Panel(f"Time per query, {title.lower()}. {said}", draw, 1.35 + 0.24 * len(shown))

    if calls is None:
        return [panel("Without the cross-encoder", beside, parts)]
    everything = {method: [*seconds, calls] for method, seconds in beside.items()}
    return [
        panel("Whole query", everything, [*parts, "cross-encoder"]),
        panel("Without the cross-encoder", beside, parts),
    ]


def _draw_times(
    axes: Any, theme: Theme, report: Report, shown: Mapping[str, Sequence[float]], names: Sequence[str]
) -> None:
    longest = max(sum(seconds) for seconds in shown.values())
    for part, name in enumerate(names):
        before = [sum(seconds[:part]) for seconds in shown.values()]
        lengths = [seconds[part] for seconds in shown.values()]
        axes.barh(range(len(shown)), lengths, left=before, height=0.62, color=theme.parts[part], label=name)
    for y, seconds in enumerate(shown.values()):
        axes.text(sum(seconds) + 0.02 * longest, y, duration(sum(seconds)), va="center", fontsize=8.5)
    axes.set_yticks(range(len(shown)), [_short(method) for method in shown])
    _plain_bars(axes, theme, report, list(shown))
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 1.25 * longest))
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=2, frameon=False, fontsize=8, handlelength=1)


def _plain_bars(axes: Any, theme: Theme, report: Report, methods: Sequence[str]) -> None:
    """No scale, since every bar says its value; methods named in their colours."""
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_color(theme.method(report.methods.index(method)))
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines["bottom"].set_visible(False)


def _short(name: str) -> str:
    """A user's name in one short line, in which matplotlib sees no formula."""
    line = " ".join(name.split())
    cut = line if len(line) <= _NAME_LENGTH else f"{line[: _NAME_LENGTH - 1]}…"
    return cut.replace("$", r"\$")
