"""Panels of what things cost: time per query, rounds, and what was paid before the first query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crossknn.evaluation.drawing import MARKERS, Panel, Theme, apart, name_ends, plain_bars, short
from crossknn.evaluation.numbers import duration

if TYPE_CHECKING:
    from crossknn.evaluation.report import Cell, Report

_MOST_FAMILIES = 6


def offline_panels(report: Report) -> list[Panel]:
    """Recall against offline calls, and against indexing time where the cross-encoder's rate is known."""
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
            axes.plot(xs, ys, color=color, marker=MARKERS[number % len(MARKERS)], markersize=4.5, linewidth=1.6)
            ends.append((family, ys[-1], color))
        axes.grid(axis="y")
        axes.margins(x=0.08)
        axes.minorticks_off()
        ticks = apart(sorted({x for points in lines.values() for x, _ in points}))
        axes.set_xticks(ticks, [f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in ticks])
        name_ends(axes, ends, lowest, 102)

    said = [f"{method}: {value:.1f} with no offline call." for method, value in shown.items()]
    said += [
        f"{family}: " + ", ".join(f"{y:.1f} at {x:,.1f}" for x, y in sorted(points)) + "."
        for family, points in lines.items()
    ]
    return Panel(f"Top-{k}-Recall at {budget:,} calls per query, in percent, by {unit}. {' '.join(said)}", draw)


def time_panels(report: Report) -> list[Panel]:
    """A query's time by part, with the cross-encoder's calls where their rate is known, and without."""
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
    axes.set_yticks(range(len(shown)), short(list(shown)))
    plain_bars(axes, theme, report, list(shown))
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 1.25 * longest))
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=2, frameon=False, fontsize=8, handlelength=1)


# -- rounds ------------------------------------------------------------------------------------------------


def families_by_rounds(report: Report) -> dict[str, list[Cell]]:
    """Methods that differ in their rounds alone, three at least: name to cells at the budget spoken of, by rounds.

    Names are those of the command (``axn-r5``). Of many families, those that find most.
    """
    found: dict[str, dict[int, Cell]] = {}
    for cell in report.focus:
        found.setdefault(re.sub(r"-r\d+", "", cell.method), {})[cell.rounds] = cell
    many = {name: [cells[r] for r in sorted(cells)] for name, cells in found.items() if len(cells) > 2}
    k = max(k for cell in report.focus for k in cell.recall)
    order = sorted(many, key=lambda name: -max(cell.recall[k].mean for cell in many[name]))
    return {name: many[name] for name in order[:_MOST_FAMILIES]}


def rounds_panels(report: Report) -> list[Panel]:
    """Recall by rounds, and a query's time by part beside the calls (the paper's figures 5 and 6)."""
    families = families_by_rounds(report)
    ks = sorted({k for cells in families.values() for cell in cells for k in cell.recall})
    return [_rounds_panel(report, k, families) for k in ks] + [
        _times_by_rounds(report, name, cells) for name, cells in families.items()
    ]


def _rounds_panel(report: Report, k: int, families: Mapping[str, Sequence[Cell]]) -> Panel:
    budget = _headline_budget(report, k)
    at = {cell.method: cell for cell in report.cells if cell.budget == budget}
    lines = {
        name: [(cell.rounds, 100 * at[cell.method].recall[k].mean) for cell in cells if cell.method in at]
        for name, cells in families.items()
    }
    values = [y for points in lines.values() for _, y in points]
    lowest, ticks = max(0.0, 5 * (min(values) // 5) - 5), sorted({x for points in lines.values() for x, _ in points})

    def draw(axes: Any, theme: Theme) -> None:
        axes.set(title=f"Top-{k}-Recall at {budget:,} calls", ylim=(lowest, 102), xscale="log", xlabel="rounds")
        ends = []
        for number, (name, points) in enumerate(lines.items()):
            xs, ys = zip(*points, strict=True)
            color = theme.method(number)
            axes.plot(xs, ys, color=color, marker=MARKERS[number % len(MARKERS)], markersize=4.5, linewidth=1.6)
            ends.append((name, ys[-1], color))
        axes.grid(axis="y")
        axes.minorticks_off()
        axes.set_xticks(ticks, [str(x) for x in ticks])
        name_ends(axes, ends, lowest, 102)

    said = " ".join(f"{n}: " + ", ".join(f"{y:.1f} in {x}" for x, y in points) + "." for n, points in lines.items())
    return Panel(f"Top-{k}-Recall at {budget:,} calls per query, in percent, by rounds. {said}", draw)


def _times_by_rounds(report: Report, name: str, cells: Sequence[Cell]) -> Panel:
    seconds = [[cell.seconds.first_stage, cell.seconds.fit, cell.seconds.retrieve] for cell in cells]
    parts, budget = ("first stage", "fit", "retrieve"), report.calls(cells[0])

    def draw(axes: Any, theme: Theme) -> None:
        axes.set(title=f"{short([name])[0]}, beside {budget:,} calls", xlabel="rounds", ylabel="milliseconds per query")
        for part, what in enumerate(parts):
            heights, below = [1000 * s[part] for s in seconds], [1000 * sum(s[:part]) for s in seconds]
            axes.bar(range(len(cells)), heights, bottom=below, width=0.62, color=theme.parts[part], label=what)
        for x, s in enumerate(seconds):
            axes.text(x, 1000 * sum(s), f"{1000 * sum(s):.3g}", ha="center", va="bottom", fontsize=8.5)
        axes.set_xticks(range(len(cells)), [str(cell.rounds) for cell in cells])
        axes.margins(y=0.12)
        axes.legend(loc="upper left", frameon=False, fontsize=8, handlelength=1)

    said = " ".join(
        f"{cell.rounds} rounds: " + ", ".join(f"{what} {duration(t)}" for what, t in zip(parts, s, strict=True)) + "."
        for cell, s in zip(cells, seconds, strict=True)
    )
    return Panel(f"Time per query of {name} beside {budget:,} calls, by rounds. {said}", draw)
