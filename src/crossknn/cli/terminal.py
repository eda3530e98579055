"""What the command shows: progress on standard error, answers on standard output, errors in one line."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from crossknn.errors import CrossKNNError, CrossKNNWarning
from crossknn.evaluation import Report
from crossknn.results import SearchResult
from crossknn.scores.ledger import ProgressCallback
from crossknn.tuning import Tuning

P = ParamSpec("P")
R = TypeVar("R")

out = Console()
notes = Console(stderr=True)


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors made on purpose, and the system's, into one line on standard error and an exit code.

    1: the command could not do it. 2: wrong usage, 130: interrupted (both typer's own).
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings():
            warnings.simplefilter("always", CrossKNNWarning)
            warnings.showwarning = _show_warning
            try:
                return command(*args, **kwargs)
            except BrokenPipeError:
                sys.stderr.close()
                raise typer.Exit(1) from None
            except (CrossKNNError, OSError, MemoryError) as error:
                notes.print(
                    f"[red]error:[/red] {escape(_one_line(str(error)) or type(error).__name__)}", soft_wrap=True
                )
                raise typer.Exit(1) from None

    return run


def deliver(report: Report, folder: Path, *, as_json: bool) -> None:
    """Write a report, print its table or JSON, and say where its files lie."""
    files = report.write(folder)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        out.print(report.table(out.width))
    notes.print("report: " + ", ".join(map(str, files)), highlight=False, markup=False, soft_wrap=True)
    if not any(file.suffix == ".png" for file in files):
        notes.print("for figures: pip install 'crossknn[plot]'", highlight=False, markup=False)


@contextmanager
def progress_bar(label: str) -> Iterator[ProgressCallback]:
    """A bar with calls done, rate and time left; nothing where standard error is no terminal."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        finished_before: list[int] = []

        def update(done: int, total: int) -> None:
            finished_before.append(done) if not finished_before else None
            bar.update(task, completed=done, total=total, finished_before=finished_before[0])

        yield update


def result_table(result: SearchResult) -> Table:
    """Hits with the round that found each and its first-stage rank."""
    cost = f"{result.calls} calls"
    if result.expected_recall is not None:
        cost += f", {result.expected_recall:.0%} of the exact top expected"
    table = Table(
        title=f"{escape(_one_line(result.query)[:300])}  [dim]({cost})[/dim]",
        title_justify="left",
        box=None,
    )
    for name in ("score", "round", "first-stage rank"):
        table.add_column(name, justify="right")
    table.add_column("id")
    table.add_column("item", overflow="fold")
    for hit in result:
        beyond = hit.first_stage_rank > result.calls
        rank = f"[bold green]{hit.first_stage_rank:,}[/bold green]" if beyond else f"{hit.first_stage_rank:,}"
        table.add_row(
            f"{hit.score:.2f}", str(hit.round), rank, escape(_one_line(hit.id)), escape(_one_line(hit.text)[:300])
        )
    return table


def tuning_table(tuning: Tuning) -> Table:
    """What was compared, and which of it was chosen."""
    table = Table(box=None)
    table.add_column("method")
    table.add_column("calls", justify="right")
    table.add_column(f"recall of the top {tuning.k}", justify="right")
    for trial in tuning.trials:
        chosen = (trial.method, trial.budget) == (tuning.method, tuning.budget)
        table.add_row(
            trial.method, str(trial.budget), f"{100 * trial.recall:.1f}", style="bold green" if chosen else None
        )
    return table


def _one_line(text: str) -> str:
    """Without line breaks, or control characters that a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class _Rate(ProgressColumn):
    """Calls per second in this run."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        done = task.completed - task.fields.get("finished_before", 0)
        return Text(f"{done / elapsed:,.0f} calls/s" if elapsed > 0 and done > 0 else "")


def _show_warning(message: Warning | str, *args: object, **kwargs: object) -> None:
    notes.print(f"[yellow]warning:[/yellow] {escape(str(message))}", soft_wrap=True)
