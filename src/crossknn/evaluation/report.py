"""What an evaluation found, as data; the terminal, JSON, Markdown, HTML and the figures are views of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from crossknn.errors import MissingExtraError
from crossknn.evaluation import figures, page, tables
from crossknn.evaluation.measures import Interval
from crossknn.evaluation.origins import Origins
from crossknn.evaluation.panels import Name, panels
from crossknn.evaluation.replay import Offline
from crossknn.files import write_aside

MOST_METHODS = 7
"""More lines than these cannot be told apart."""

_FILES = ("report.html", "report.md", "report.json")
_PICTURES: tuple[Name, ...] = ("recall", "rounds", "offline")


@dataclass(frozen=True)
class Seconds:
    """Time per query beside the CE calls.

    Attributes:
        first_stage: embedding the query, and the cheap scores of all items.
        fit: fitting the query's vector, over all rounds.
        retrieve: approximate scores of all items and the best of them, over all rounds.
    """

    first_stage: float
    fit: float
    retrieve: float

    @property
    def total(self) -> float:
        """All three."""
        return self.first_stage + self.fit + self.retrieve


@dataclass(frozen=True)
class Cell:
    """One method at one budget.

    Attributes:
        method: its name.
        budget: CE calls per query ``m``.
        recall: k to Top-k-Recall@m, for k up to m.
        gain: k to the paired difference to the baseline.
        origins: where the exact top k stood in the first stage, and what was found of it, for the largest k up to 10
            that was measured; None where no k fits the budget.
        task: measure of the task (``accuracy``, ``nDCG@10``, ...) to its value; empty without labels or judgements.
        task_below_exact: the same, to what brute force has more, paired query by query.
        seconds: time per query beside the CE calls.
        offline_calls: CE calls that its index was learned from, and one for each item that was read.
        rounds: in which the budget was spent.
    """

    method: str
    budget: int
    recall: dict[int, Interval]
    gain: dict[int, Interval]
    origins: Origins | None
    task: dict[str, Interval]
    seconds: Seconds
    offline_calls: int = 0
    task_below_exact: dict[str, Interval] = field(default_factory=dict)
    rounds: int = 1


@dataclass(frozen=True)
class Pair:
    """Two methods at one budget.

    Attributes:
        method, other: their names.
        budget: CE calls per query ``m``.
        gain: k to the paired difference of Top-k-Recall@m, ``method`` less ``other``.
        error_reduction: k to the share of the other's error (1 - recall) that ``method`` does not make; None where the
            other makes none.
    """

    method: str
    other: str
    budget: int
    gain: dict[int, Interval]
    error_reduction: dict[int, Interval | None]


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        baseline: the method that gains are differences to.
        n_queries: queries measured on.
        n_items: items searched.
        exact_task: the task's measures of brute force; empty without labels or judgements.
        calls_per_second: of the scorer while it made the ground truth; None if that came from disk.
        cells: one for each method and budget.
        context: index, scorer, seed and whatever else tells runs apart.
        offline: method to what its index cost, where that was measured.
        pairs: methods compared with each other, besides each with the baseline.
    """

    baseline: str
    n_queries: int
    n_items: int
    exact_task: dict[str, Interval]
    calls_per_second: float | None
    cells: Sequence[Cell]
    context: dict[str, Any]
    offline: dict[str, Offline] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()

    @property
    def methods(self) -> list[str]:
        """Names in the order given; the baseline is first."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def ks(self) -> list[int]:
        """Each k that some budget was large enough for."""
        return sorted({k for cell in self.cells for k in cell.recall})

    @property
    def focus(self) -> list[Cell]:
        """The cells that sentences speak of: those of the largest budget that is less than all items."""
        budgets = {cell.budget for cell in self.cells if cell.recall}
        chosen = max({budget for budget in budgets if budget < self.n_items} or budgets)
        return [cell for cell in self.cells if cell.budget == chosen]

    def with_fewer_methods(self) -> Report:
        """With as many methods as lines can be told apart in a figure: the baseline, and those that find most."""
        if len(self.methods) <= MOST_METHODS:
            return self
        k = max(k for cell in self.focus for k in cell.recall)
        by_recall = sorted(self.focus, key=lambda cell: -cell.recall[k].mean)
        best = [cell.method for cell in by_recall if cell.method != self.baseline][: MOST_METHODS - 1]
        return replace(self, cells=[cell for cell in self.cells if cell.method in {self.baseline, *best}])

    def calls(self, cell: Cell) -> int:
        """CE calls per query: the budget, or one for each item if there are fewer."""
        return min(cell.budget, self.n_items)

    def call_seconds(self, cell: Cell) -> float | None:
        """Time per query of the CE calls, at the rate of the ground truth; None where that is unknown."""
        return None if self.calls_per_second is None else self.calls(cell) / self.calls_per_second

    def offline_seconds(self, method: str) -> float | None:
        """Indexing time of a method, its CE calls at the rate of the ground truth; None where that is unknown."""
        cost, scoring = self.offline[method], self.scoring_seconds(method)
        beside = cost.embed_seconds + cost.train_seconds + cost.reembed_seconds
        return None if scoring is None else beside + scoring

    def scoring_seconds(self, method: str) -> float | None:
        """Of the indexing time that of scored pairs; reading items is timed as embedding."""
        scored = self.offline[method].calls - self.offline[method].items_read
        if not scored:
            return 0.0
        return None if self.calls_per_second is None else scored / self.calls_per_second

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self)

    def write(self, folder: Path) -> list[Path]:
        """Everything: report.html, report.md, report.json, recall.png, and where there is something to show, rounds.png
        (methods that differ in their rounds) and offline.png (indexes that were learned).

        Without matplotlib (extra ``plot``) there are no pictures, and the others are written without figures.

        Args:
            folder: is there already.

        Returns:
            The files written, the page first.

        Raises:
            WriteError: the disk is full or read-only.
        """
        web, text, data = (folder / name for name in _FILES)
        self.write_json(data)  # first: no failure of a figure may lose it
        pictures: dict[str, str] = {}
        for figure in _PICTURES:
            if not panels(self, figure):
                continue
            try:
                self.plot(folder / f"{figure}.png", figure)
            except MissingExtraError:
                break
            pictures[figure] = f"{figure}.png"
        self.write_html(web)
        self.write_markdown(text, pictures)
        return [web, text, data, *(folder / name for name in pictures.values())]

    def write_json(self, path: Path) -> None:
        """Everything, for machines."""
        write_aside(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    def write_html(self, path: Path) -> None:
        """One page with figures and all numbers, that needs nothing else; without matplotlib, without figures."""
        write_aside(path, page.html(self).encode())

    def write_markdown(self, path: Path, pictures: Mapping[str, str] | None = None) -> None:
        """The same in Markdown.

        Args:
            path: of the file.
            pictures: figure (as in :meth:`plot`) to the picture's place, relative to the file.
        """
        write_aside(path, page.markdown(self, pictures or {}).encode())

    def plot(self, path: Path, figure: Name = "recall") -> None:
        """One figure, in the format that the file's name ends with (extra ``plot``).

        Args:
            path: of the picture.
            figure: ``recall`` against CE calls, ``gain`` over the baseline, ``origins`` of what was found, ``time`` per
                query, ``rounds`` (recall and time by rounds), or ``offline`` (recall against what the index cost).

        Raises:
            MissingExtraError: matplotlib is not installed.
            InputError: there is nothing to draw, such as the gain of a single method.
        """
        write_aside(path, figures.picture(self, figure, path.suffix.lstrip(".") or "png"))

    def table(self, width: int | None = None) -> Table:
        """Recall, gain and cost, for the terminal.

        Args:
            width: columns of the terminal; intervals are left out where they do not fit.
        """
        return tables.terminal_table(self, width)
