"""What an evaluation found, as data; the terminal, JSON and the plot are views of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from crossknn.errors import import_extra
from crossknn.evaluation.measures import Interval


@dataclass(frozen=True)
class Cell:
    """One method at one budget.

    Attributes:
        method: its name.
        budget: CE calls per query ``m``.
        recall: k to Top-k-Recall@m, for k up to m.
        gain: k to the paired difference to the baseline.
        accuracy: share of queries whose best item is right; None without labels.
        overhead_seconds: per query, all but the CE calls.
    """

    method: str
    budget: int
    recall: dict[int, Interval]
    gain: dict[int, Interval]
    accuracy: Interval | None
    overhead_seconds: float


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        baseline: the method that gains are differences to.
        n_queries: queries measured on.
        n_items: items searched.
        exact_accuracy: task accuracy of brute force; None without labels.
        calls_per_second: of the scorer while it made the ground truth; None if that came from disk.
        cells: one for each method and budget.
        context: index, scorer, seed and whatever else tells runs apart.
    """

    baseline: str
    n_queries: int
    n_items: int
    exact_accuracy: Interval | None
    calls_per_second: float | None
    cells: Sequence[Cell]
    context: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self)

    def write_json(self, path: Path) -> None:
        """Everything, for machines."""
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """Recall, gain and cost, for the terminal."""
        ks = sorted({k for cell in self.cells for k in cell.recall})
        table = Table(
            title=f"Recall of the exact top k over {self.n_items:,} items, {self.n_queries} queries; gain over "
            f"{self.baseline} with 95% interval",
            title_justify="left",
        )
        table.add_column("method", no_wrap=True)
        table.add_column("calls", justify="right", no_wrap=True)
        for k in ks:
            table.add_column(f"Top-{k}", justify="right", no_wrap=True)
            table.add_column("gain", justify="right")
        if self.exact_accuracy:
            table.add_column("accuracy", justify="right", no_wrap=True)
        table.add_column("time/query", justify="right")
        for cell in self.cells:
            row = [cell.method, str(min(cell.budget, self.n_items))]
            for k in ks:
                row += [_percent(cell.recall.get(k)), _gain(cell, k, self.baseline)]
            if self.exact_accuracy:
                row.append(_percent(cell.accuracy))
            table.add_row(*row, self._time(cell), end_section=cell is self._last_of_budget(cell.budget))
        if self.exact_accuracy:
            blanks = [""] * (2 * len(ks))
            table.add_row("exact (all items)", f"{self.n_items:,}", *blanks, _percent(self.exact_accuracy), "")
        return table

    def plot(self, path: Path) -> None:
        """Recall against CE calls, one panel for each k, with 95% intervals (extra ``plot``).

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        import_extra("matplotlib", "plot").use("Agg")
        pyplot = import_extra("matplotlib.pyplot", "plot")
        ks = sorted({k for cell in self.cells for k in cell.recall})
        figure, panels = pyplot.subplots(1, len(ks), figsize=(4.2 * len(ks), 3.6), squeeze=False, sharey=True)
        for panel, k in zip(panels[0], ks, strict=True):
            for method, marker in zip(dict.fromkeys(cell.method for cell in self.cells), "osD^vP*", strict=False):
                cells = [c for c in self.cells if c.method == method and k in c.recall]
                recall = [c.recall[k] for c in cells]
                errors = [[r.mean - r.low for r in recall], [r.high - r.mean for r in recall]]
                x = [c.budget for c in cells]
                panel.errorbar(x, [r.mean for r in recall], yerr=errors, marker=marker, capsize=3, label=method)
            panel.set(title=f"Top-{k}-Recall", xlabel="cross-encoder calls per query", xscale="log", ylim=(0, 1.03))
            budgets = sorted({c.budget for c in self.cells if k in c.recall})
            panel.set_xticks(budgets, [str(b) for b in budgets])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        panels[0][0].set_ylabel(f"recall of the exact top k\n({self.n_queries} queries, {self.n_items:,} items)")
        panels[0][0].legend(loc="lower right")
        figure.tight_layout()
        figure.savefig(path, dpi=150)
        pyplot.close(figure)

    def _time(self, cell: Cell) -> str:
        """Time of the CE calls at the rate seen, and the rest; the rest alone where no rate was seen."""
        if self.calls_per_second is None:
            return f"calls + {1000 * cell.overhead_seconds:.0f} ms"
        calls = min(cell.budget, self.n_items)
        return f"{1000 * calls / self.calls_per_second:.0f} + {1000 * cell.overhead_seconds:.0f} ms"

    def _last_of_budget(self, budget: int) -> Cell:
        return [cell for cell in self.cells if cell.budget == budget][-1]


def _percent(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.mean:.1f}%"


def _gain(cell: Cell, k: int, baseline: str) -> str:
    if k not in cell.gain or cell.method == baseline:
        return ""
    gain = cell.gain[k]
    return f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
