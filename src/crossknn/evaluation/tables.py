"""All numbers of a report, in rows: for the page and Markdown, and narrower for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crossknn.evaluation.measures import Interval
from crossknn.evaluation.numbers import duration, gain_interval, points, recall_interval, share_interval
from crossknn.evaluation.origins import RankBucket

if TYPE_CHECKING:
    from crossknn.evaluation.report import Cell, Report


@dataclass(frozen=True)
class Grid:
    """A table of text; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(report: Report) -> list[Grid]:
    """Recall and the task's measures, gain, pairs, origins, time: one row for each method and budget."""
    made = (_recall_grid, _gain_grid, _pairs_grid, _origins_grid, _time_grid, _offline_grid)
    every = [make(report) for make in made]
    return [grid for grid in every if grid.rows]


def bucket_name(bucket: RankBucket, n_items: int) -> str:
    """First-stage ranks of a bucket."""
    if bucket.last_rank == n_items and bucket.first_rank > 1:
        return f"beyond {bucket.first_rank - 1:,}"
    return f"{bucket.first_rank:,} to {bucket.last_rank:,}"


def _recall_grid(report: Report) -> Grid:
    header = ["method", "calls", *(f"Top-{k}-Recall" for k in report.ks)]
    rows = []
    for cell in report.cells:
        recall = [recall_interval(cell.recall[k]) if k in cell.recall else "" for k in report.ks]
        task = [recall_interval(value) for value in cell.task.values()]
        rows.append([cell.method, f"{report.calls(cell):,}", *recall, *task])
    if not report.exact_task:
        return Grid("Recall of the exact top k, with 95% intervals", header, rows)
    blanks = [""] * len(report.ks)
    exact = [recall_interval(value) for value in report.exact_task.values()]
    rows.append(["exact (all items)", f"{report.n_items:,}", *blanks, *exact])
    title = f"Recall of the exact top k, and {', '.join(report.exact_task)} of the task, with 95% intervals"
    return Grid(title, [*header, *report.exact_task], rows)


def _gain_grid(report: Report) -> Grid:
    return Grid(
        f"Gain in recall over {report.baseline}, in points, with 95% intervals",
        ["method", "calls", *(f"Top-{k}" for k in report.ks)],
        [
            [
                cell.method,
                f"{report.calls(cell):,}",
                *(gain_interval(cell.gain[k]) if k in cell.gain else "" for k in report.ks),
            ]
            for cell in report.cells
            if cell.method != report.baseline
        ],
    )


def _pairs_grid(report: Report) -> Grid:
    rows = []
    for pair in report.pairs:
        gains = [gain_interval(pair.gain[k]) if k in pair.gain else "" for k in report.ks]
        less = [pair.error_reduction.get(k) for k in report.ks]
        shares = ["" if share is None else share_interval(share) for share in less]
        rows.append([pair.method, pair.other, f"{pair.budget:,}", *gains, *shares])
    return Grid(
        "Methods compared with each other: gain in recall in points, and share of the other's error that is not made, "
        "with 95% intervals",
        ["method", "against", "calls", *(f"Top-{k}" for k in report.ks), *(f"less error, Top-{k}" for k in report.ks)],
        rows,
    )


def _origins_grid(report: Report) -> Grid:
    cells = [(cell, cell.origins) for cell in report.cells if cell.origins is not None]
    return Grid(
        "Found of what the exact top k has at each first-stage rank, in percent of k",
        ["method", "calls", "k", *(bucket_name(bucket, report.n_items) for bucket in cells[0][1].buckets)],
        [
            [
                cell.method,
                f"{report.calls(cell):,}",
                str(origins.k),
                *(f"{100 * bucket.found:.1f} of {100 * bucket.total:.1f}" for bucket in origins.buckets),
            ]
            for cell, origins in cells
        ],
    )


def _time_grid(report: Report) -> Grid:
    rows = []
    for cell in report.cells:
        seconds, calls = cell.seconds, report.call_seconds(cell)
        parts = [seconds.first_stage, seconds.fit, seconds.retrieve]
        parts += [] if calls is None else [calls, seconds.total + calls]
        rows.append([cell.method, f"{report.calls(cell):,}", *(duration(part) for part in parts)])
    known = report.calls_per_second is not None
    header = ["method", "calls", "first stage", "fit", "retrieve", *(["cross-encoder", "total"] if known else [])]
    return Grid("Time per query", header, rows)


def _offline_grid(report: Report) -> Grid:
    rows = []
    for method, cost in report.offline.items():
        scoring, total = report.scoring_seconds(method), report.offline_seconds(method)
        parts = [cost.embed_seconds, scoring, cost.train_seconds, cost.reembed_seconds, total]
        shown = ["" if part is None else duration(part) for part in parts]
        rows.append([method, f"{cost.calls:,}", f"{cost.calls / report.n_items:,.1f}", *shown])
    header = ["method", "calls", "per item", "embedding", "scoring", "training", "embedding again", "total"]
    return Grid("What the index cost", header, rows)


def terminal_table(report: Report, width: int | None) -> Table:
    """Recall, gain and cost; where they do not fit, intervals are left out, and then gains."""
    table = _terminal_table(report, gain_interval)
    for narrower in (points, None):
        if width is not None and Console(width=10_000).measure(table).maximum > width:
            table = _terminal_table(report, narrower)
    return table


def _terminal_table(report: Report, gain: Callable[[Interval], str] | None) -> Table:
    said = "" if gain is None else f"; gain over {report.baseline} in points"
    table = Table(
        title=f"Recall of the exact top k over {report.n_items:,} items, {report.n_queries:,} queries{escape(said)}"
        f"{' with 95% interval' if gain is gain_interval else ''}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    for k in report.ks:
        table.add_column(f"Top-{k}", justify="right", no_wrap=True)
        if gain:
            table.add_column("gain", justify="right", no_wrap=True)
    for name in report.exact_task:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("time/query", justify="right", no_wrap=True)
    for cell, following in zip_longest(report.cells, report.cells[1:]):
        last = following is None or following.budget != cell.budget
        table.add_row(*_terminal_row(report, cell, gain), end_section=last)
    if report.exact_task:
        blanks = [""] * (len(report.ks) * (2 if gain else 1))
        exact = [f"{100 * value.mean:.1f}%" for value in report.exact_task.values()]
        table.add_row("exact", f"{report.n_items:,}", *blanks, *exact, "")
    return table


def _terminal_row(report: Report, cell: Cell, gain: Callable[[Interval], str] | None) -> list[str]:
    row = [escape(cell.method), f"{report.calls(cell):,}"]
    for k in report.ks:
        row.append(f"{100 * cell.recall[k].mean:.1f}%" if k in cell.recall else "")
        if gain:
            row.append(gain(cell.gain[k]) if k in cell.gain and cell.method != report.baseline else "")
    calls, beside = report.call_seconds(cell), cell.seconds.total
    task = [f"{100 * value.mean:.1f}%" for value in cell.task.values()]
    return [*row, *task, f"calls + {duration(beside)}" if calls is None else duration(calls + beside)]
