"""What a report says in plain sentences; every figure in them is computed from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossknn.evaluation.cost_panels import families_by_rounds
from crossknn.evaluation.measures import Interval
from crossknn.evaluation.numbers import duration, percent
from crossknn.evaluation.origins import Origins

if TYPE_CHECKING:
    from crossknn.evaluation.panels import Name
    from crossknn.evaluation.report import Cell, Report


@dataclass(frozen=True)
class Section:
    """One figure: its title, what it says, and how it is drawn."""

    figure: Name
    title: str
    reading: str
    legend: str


def headline(report: Report) -> str:
    """What was compared on what."""
    fewer = report.with_fewer_methods().methods
    left_out = (
        ""
        if len(fewer) == len(report.methods)
        else f" Figures and sentences show {report.baseline} and the {len(fewer) - 1} methods that find most; the "
        f"tables show all {len(report.methods)}."
    )
    return (
        f"{report.n_queries:,} queries over {report.n_items:,} items, compared with the cross-encoder's own ranking of "
        f"all items.{left_out}"
    )


def sections(report: Report) -> list[Section]:
    """The figures in order; a single method has no gain."""
    whole, report = report, report.with_fewer_methods()
    return [
        Section(
            "recall",
            "How much of the exact top k is found",
            _recall(report),
            "Top-k-Recall against cross-encoder calls per query; bars are 95% intervals.",
        ),
        *([_gain_section(report)] if len(report.methods) > 1 else []),
        Section(
            "origins",
            "Where the hits come from",
            _origins(report),
            f"The cross-encoder's top {_k(report)} by first-stage rank, with {_calls(report)} calls per query. Full "
            "colour: found; pale: missed.",
        ),
        Section(
            "time",
            "Time per query",
            _time(report),
            f"With {_calls(report)} calls per query. First stage: embedding the query and cheap scores of all items. "
            f"Fit: the query's vector. Retrieve: choosing the items to score.{_caution(report)}",
        ),
        *([_rounds_section(whole)] if families_by_rounds(whole) else []),
        *([_offline_section(whole)] if any(cost.calls for cost in whole.offline.values()) else []),
    ]


def task(report: Report) -> str | None:
    """How good the answers are for the task, for every method and for brute force; None without labels."""
    said = []
    for name, exact in report.exact_task.items():
        best = _listed((f"with {c.method}", percent(c.task[name].mean)) for c in report.with_fewer_methods().focus)
        what = "the best item is the labelled one for this share of queries" if name == "accuracy" else f"{name} is"
        said.append(
            f"With {_calls(report)} calls per query, {what}: {best}. Where the cross-encoder scores all items (exact), "
            f"it is {percent(exact.mean)}."
        )
    return " ".join(said) or None


def how_measured(report: Report) -> str:
    """Two sentences on the method."""
    pairs = f"{report.n_queries * report.n_items:,}"
    rate = (
        "times are those measured beside the calls"
        if report.calls_per_second is None
        else "times are those measured beside the calls, plus calls at "
        f"{_rate(report)} per second, the rate of {_rate_of(report)}"
    )
    return (
        f"The cross-encoder scored all {pairs} pairs of a query and an item, and Top-k-Recall is the share of its "
        "exact top k that is among the items a method scored (what ties with the k-th counts). Methods ran on these "
        f"stored scores: {rate}; intervals are 95% bootstrap intervals over queries, gains are paired query by query."
    )


def facts(report: Report) -> list[tuple[str, str]]:
    """What tells this evaluation from others, by name."""
    named: list[tuple[str, str]] = [("items", f"{report.n_items:,}"), ("queries", f"{report.n_queries:,}")]
    for key, value in report.context.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            named += [(f"{name}: {part}", str(of_part)) for part, of_part in value.items()]
        else:
            named.append((name, f"{value:,}" if isinstance(value, int) else str(value)))
    rate = "not measured: the ground truth came from disk" if report.calls_per_second is None else _rate(report)
    return [*named, ("calls per second", rate)]


def _recall(report: Report) -> str:
    k = _k(report)
    best, *others = sorted(report.focus, key=lambda cell: -cell.recall[k].mean)
    rest = "".join(f", {cell.method} {percent(cell.recall[k].mean)}" for cell in others)
    return (
        f"With {_calls(report)} calls per query, {best.method} finds {percent(best.recall[k].mean)} of the "
        f"cross-encoder's top {k}{rest}."
    )


def _gain_section(report: Report) -> Section:
    k = _k(report)
    cells = [cell for cell in report.focus if cell.method != report.baseline]
    first, *others = sorted(cells, key=lambda cell: -cell.gain[k].mean)
    rest = "".join(f"; {cell.method} {_difference(cell.gain[k])}" for cell in others)
    return Section(
        "gain",
        f"Gain over {report.baseline}",
        f"With {_calls(report)} calls per query, {first.method} finds {_difference(first.gain[k])} of the top {k} "
        f"compared with {report.baseline}{rest}.",
        f"Difference in Top-k-Recall to {report.baseline} at the same number of calls, in percentage points; bars are "
        "95% intervals, and where they cross zero the difference may be chance.",
    )


def _offline_section(report: Report) -> Section:
    k = _k(report)
    cells = [cell for cell in report.focus if cell.method in report.offline]
    free = [cell for cell in cells if not report.offline[cell.method].calls]
    paid = [cell for cell in cells if report.offline[cell.method].calls]
    best = max(paid, key=lambda cell: cell.recall[k].mean)
    without = max(free, key=lambda cell: cell.recall[k].mean, default=None)
    seconds = report.offline_seconds(best.method)
    rest = "" if without is None else f"; without any, {without.method} finds {percent(without.recall[k].mean)}"
    return Section(
        "offline",
        "What the index cost",
        f"With {_calls(report)} calls per query, {best.method} finds {percent(best.recall[k].mean)} of the top {k} "
        f"after {report.offline[best.method].calls:,} calls offline"
        f"{'' if seconds is None else f' ({duration(seconds)} of indexing)'}{rest}.",
        "Recall against what was paid before the first query: embedding, cross-encoder calls at the rate of the ground "
        "truth, training. Level lines are methods that learn nothing.",
    )


def _rounds_section(report: Report) -> Section:
    k = _k(report)
    said = []
    for name, cells in families_by_rounds(report).items():
        found = [(cell.rounds, cell.recall[k].mean, cell.seconds.total) for cell in cells]
        parts = [f"{percent(recall)} in {rounds} ({duration(seconds)})" for rounds, recall, seconds in found]
        said.append(f"{name} finds {', '.join(parts)}")
    return Section(
        "rounds",
        "How many rounds",
        f"With {_calls(report)} calls per query, of the top {k}, and with how much time beside the calls: "
        f"{'; '.join(said)}.",
        "Methods that differ in their rounds alone: what they find, and a query's time beside the calls.",
    )


def _difference(gain: Interval) -> str:
    low, high = f"{100 * gain.low:+.1f}", f"{100 * gain.high:+.1f}"
    chance = ", so it may be chance" if gain.low <= 0 <= gain.high else ""
    return f"{100 * abs(gain.mean):.1f} points {'fewer' if gain.mean < 0 else 'more'} ({low} to {high}{chance})"


def _origins(report: Report) -> str:
    k, budget = _k(report), report.focus[0].budget
    if budget >= report.n_items:
        return f"With {_calls(report)} calls per query all items are scored, so nothing can be missed."
    beyond = {cell.method: _known(cell).beyond(budget) for cell in report.focus}
    total = beyond[report.baseline].total
    if total == 0:
        return (
            f"All of the cross-encoder's top {k} stand within first-stage rank {budget:,}: reranking with "
            f"{budget:,} calls sees them all."
        )
    best, *others = sorted(beyond, key=lambda method: -beyond[method].found)
    found = {method: percent(part.found / part.total) if part.total else "0%" for method, part in beyond.items()}
    rest = "".join(f", {method} {found[method]}" for method in others)
    return (
        f"{percent(total)} of the cross-encoder's top {k} stand beyond first-stage rank {budget:,}, where reranking "
        f"with {budget:,} calls never looks; {best} finds {found[best]} of those{rest}."
    )


def _time(report: Report) -> str:
    calls = report.call_seconds(report.focus[0])
    listed = _listed((f"with {c.method}", duration(c.seconds.total + (calls or 0))) for c in report.focus)
    if calls is None:
        return (
            f"Beside its cross-encoder calls a query takes {listed}. The scores came from disk, so the speed of the "
            "cross-encoder was not measured here."
        )
    return (
        f"With {_calls(report)} calls a query takes {listed}; {duration(calls)} of that are the cross-encoder's, at "
        f"{_rate(report)} calls per second."
    )


def _caution(report: Report) -> str:
    if report.calls_per_second is None:
        return ""
    return (
        f" The cross-encoder's rate is that of {_rate_of(report)}, in large batches: rounds of few calls can be slower."
    )


def _known(cell: Cell) -> Origins:
    assert cell.origins is not None  # the focus has a k that fits
    return cell.origins


def _k(report: Report) -> int:
    return _known(report.focus[0]).k


def _calls(report: Report) -> str:
    return f"{report.calls(report.focus[0]):,}"


def _rate(report: Report) -> str:
    return f"{report.calls_per_second or 0:,.0f}"


def _rate_of(report: Report) -> str:
    return str(report.context.get("rate_of", "the ground truth"))


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{value} {name}" for name, value in pairs)
