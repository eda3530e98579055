"""The report as a page: HTML that needs nothing else, figures inside, light and dark, no script; or Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from crossknn.errors import MissingExtraError
from crossknn.evaluation import figures, readings
from crossknn.evaluation.drawing import Panel
from crossknn.evaluation.panels import panels
from crossknn.evaluation.tables import Grid, grids

if TYPE_CHECKING:
    from crossknn.evaluation.report import Report

_TITLE = "How well the search finds what the cross-encoder would choose"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --line: #d8dee4; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --muted: #9da7b3; --line: #343c46; --paper: #14181d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 48rem; }
.aside, figcaption, caption { color: var(--muted); font-size: .875rem; }
figure { margin: 0; }
.figures, .panels { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; }
.figures { row-gap: 2.5rem; margin: 2.5rem 0; }
.figures section { flex: 1 1 min(100%, calc(var(--panels) * 20rem)); }
.figures h2 { margin-top: 0; }
.panels picture { flex: 1 1 min(100%, 18rem); max-width: 32rem; }
.panels img { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; margin: 1rem 0 1.5rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 400; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1rem; font-size: .875rem; }
dt { color: var(--muted); }
dd { margin: 0; }
"""


def html(report: Report) -> str:
    """The whole page. Without matplotlib it has the tables, and a line that says how to get the figures."""
    try:
        shown = "".join(_section(report, section) for section in readings.sections(report))
    except MissingExtraError as error:
        said = "".join(f"<p>{escape(section.reading)}</p>\n" for section in readings.sections(report))
        shown = f'{said}<p class="aside">No figures: {escape(str(error))}</p>\n'
    task = readings.task(report)
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in readings.facts(report))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>crossknn: evaluation</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_TITLE}</h1>
<p>{escape(readings.headline(report))}</p>
<div class="figures">
{shown}</div>
<h2>All numbers</h2>
{f"<p>{escape(task)}</p>" if task else ""}
{"".join(_table(grid) for grid in grids(report))}<h2>How it was measured</h2>
<p>{escape(readings.how_measured(report))}</p>
<dl>
{facts}</dl>
</body>
</html>
"""


def _section(report: Report, section: readings.Section) -> str:
    shown = panels(report, section.figure)
    pictures = "".join(_picture(panel) for panel in shown)
    return f"""<section style="--panels: {len(shown)}">
<h2>{escape(section.title)}</h2>
<figure>
<p>{escape(section.reading)}</p>
<div class="panels">
{pictures}</div>
<figcaption>{escape(section.legend)}</figcaption>
</figure>
</section>
"""


def _picture(panel: Panel) -> str:
    """Both colour schemes; the browser shows the reader's."""
    light, dark = (_data(figures.svg(panel, theme)) for theme in (figures.LIGHT, figures.DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(panel.alt)}"></picture>\n'
    )


def _data(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _table(grid: Grid) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in grid.header)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>\n'
        for name, *values in grid.rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(grid.title)}</caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """The whole text.

    Args:
        report: what is told.
        pictures: figure to the place of its picture, where there is one.
    """
    parts = [f"# {_TITLE}", _text(readings.headline(report))]
    for section in readings.sections(report):
        parts += [f"## {_text(section.title)}", _text(section.reading)]
        if section.figure in pictures:
            parts += [f"![{_text(section.title)}]({pictures[section.figure]})", _text(section.legend)]
    task = readings.task(report)
    parts += ["## All numbers", *([_text(task)] if task else [])]
    for grid in grids(report):
        parts += [f"{_text(grid.title)}:", _rows(grid)]
    parts += ["## How it was measured", _text(readings.how_measured(report))]
    parts.append("\n".join(f"- {_text(name)}: {_text(value)}" for name, value in readings.facts(report)))
    return "\n\n".join(parts) + "\n"


def _rows(grid: Grid) -> str:
    aligned = ["---", *["---:"] * (len(grid.header) - 1)]
    rows = [[_text(value) for value in row] for row in (grid.header, *grid.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], aligned, *rows[1:]))


def _text(text: str) -> str:
    """In one line, and nothing in it is taken for HTML or a column's border."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")
