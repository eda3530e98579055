"""The figures of a report, drawn panel by panel: light and dark SVG for the page, any format for a file.

A figure is a row of panels. The page wraps them to its width; a picture file holds them side by side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossknn.errors import InputError, import_extra
from crossknn.evaluation.drawing import Panel, Theme
from crossknn.evaluation.panels import Name, panels

if TYPE_CHECKING:
    from crossknn.evaluation.report import Report

_WIDTH = 4.1  # inches
_IN_A_ROW = 3

LIGHT = Theme(
    ink="#1f2328",
    muted="#59636e",
    grid="#e4e8ec",
    paper="#ffffff",
    methods=("#666f7a", "#c14a00", "#0068ad", "#00805c", "#4d1450", "#937700", "#c22f86"),
    parts=("#22303f", "#51657f", "#8598b1", "#bcc8d6"),
)
DARK = Theme(
    ink="#e6edf3",
    muted="#9da7b3",
    grid="#2b323b",
    paper="#14181d",
    methods=("#a7b0bb", "#ff9a4d", "#5cb3f5", "#3ecf9a", "#f9d3f4", "#d4bd4a", "#ee74b8"),
    parts=("#eef2f6", "#aab7c7", "#75869a", "#47556a"),
)


def svg(panel: Panel, theme: Theme) -> bytes:
    """One panel by itself, without a background.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return _drawn([panel], theme, "svg", transparent=True)


def picture(report: Report, figure: Name, format: str) -> bytes:
    """All panels of a figure, on white: side by side, or two in a row where there are many.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: there is nothing to draw.
    """
    found = panels(report, figure)
    if not found:
        raise InputError(f"there is nothing to draw for {figure!r}: the report has no methods for it")
    return _drawn(found, LIGHT, format, transparent=False)


def _drawn(shown: Sequence[Panel], theme: Theme, format: str, *, transparent: bool) -> bytes:
    matplotlib = import_extra("matplotlib", "plot")
    figures = import_extra("matplotlib.figure", "plot")
    settings = {
        "font.size": 9,
        "axes.titlesize": 10,
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.muted,
        "axes.facecolor": "none",
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.grid,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "svg.hashsalt": "crossknn",
    }
    with matplotlib.rc_context(settings):
        columns = len(shown) if len(shown) <= _IN_A_ROW else 2
        rows = -(-len(shown) // columns)
        size = (_WIDTH * columns, rows * max(panel.height for panel in shown))
        figure = figures.Figure(figsize=size, layout="constrained", facecolor=theme.paper)
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, axes in zip(shown, places, strict=False):
            panel.draw(axes, theme)
        for axes in places[len(shown) :]:
            axes.remove()
        file = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else None
        figure.savefig(file, format=format, dpi=200, transparent=transparent, metadata=metadata)
    return file.getvalue()
