"""What people see of an evaluation, on a report whose numbers are made up and therefore known."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from crossknn import AXN, Dense, FunctionScorer, GivenVectors, Index, Rerank
from crossknn.errors import InputError, MissingExtraError
from crossknn.evaluation import Cell, EvaluationOptions, Origins, RankBucket, Report, Seconds, evaluate, readings
from crossknn.evaluation.cost_panels import offline_panels, rounds_panels
from crossknn.evaluation.drawing import short
from crossknn.evaluation.measures import Interval
from crossknn.evaluation.page import html
from crossknn.evaluation.panels import panels
from crossknn.evaluation.replay import Offline
from crossknn.evaluation.report import Pair
from crossknn.evaluation.tables import grids

HOSTILE = "<script>$x_$ alert('1')</script> | & \"y\""
PICTURES = {"recall": "recall.png"}


def cell(method: str, budget: int, recall: float, gain: Interval, origins: list[RankBucket], fit: float) -> Cell:
    return Cell(
        method=method,
        budget=budget,
        recall={5: Interval(recall, recall - 0.05, recall + 0.05)},
        gain={5: gain},
        origins=Origins(5, origins),
        task={"accuracy": Interval(0.5, 0.4, 0.6)},
        seconds=Seconds(0.004, fit, 0.001),
    )


@pytest.fixture
def report() -> Report:
    none, some = Interval(0.0, 0.0, 0.0), Interval(0.17, 0.121, 0.219)
    near, far = RankBucket(1, 10, 0.6, 0.0), RankBucket(11, 20, 0.12, 0.0)
    return Report(
        baseline="rerank",
        n_queries=40,
        n_items=300,
        exact_task={"accuracy": Interval(0.625, 0.5, 0.75)},
        calls_per_second=100.0,
        cells=[
            cell("rerank", 10, 0.6, none, [near, RankBucket(11, 20, 0, 0.12), RankBucket(21, 300, 0, 0.28)], 0),
            cell("axn", 10, 0.6, Interval(0.0, -0.05, 0.05), [near, far, RankBucket(21, 300, 0, 0.28)], 0.02),
            cell("rerank", 20, 0.72, none, [near, far, RankBucket(21, 300, 0, 0.28)], 0),
            cell("axn", 20, 0.89, some, [near, far, RankBucket(21, 300, 0.17, 0.11)], 0.02),
        ],
        context={"scorer": "model abc", "methods": {"axn": "AXN(rounds=2)"}, "seed": 0},
    )


def renamed(report: Report, name: str) -> Report:
    """With another name in place of the baseline's, and everywhere else that users write."""
    cells = [replace(c, method=name) if c.method == "rerank" else c for c in report.cells]
    return replace(report, baseline=name, cells=cells, context={"scorer": name, "methods": {name: name}})


class Page(HTMLParser):
    """Checks that every tag is closed in turn, and collects what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.alts: list[str | None] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data")]
        self.alts += [dict(attrs).get("alt")] if tag == "img" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""


def test_sentences_say_what_was_measured(report: Report) -> None:
    said = {section.figure: section.reading for section in readings.sections(report)}
    assert said == {
        "recall": "With 20 calls per query, axn finds 89% of the cross-encoder's top 5, rerank 72%.",
        "gain": "With 20 calls per query, axn finds 17.0 points more (+12.1 to +21.9) of the top 5 compared with "
        "rerank.",
        "origins": "28% of the cross-encoder's top 5 stand beyond first-stage rank 20, where reranking with 20 calls "
        "never looks; axn finds 61% of those, rerank 0%.",
        "time": "With 20 calls a query takes 205 ms with rerank, 225 ms with axn; 200 ms of that are the "
        "cross-encoder's, at 100 calls per second.",
    }
    assert "50% with axn" in (readings.task(report) or "")
    assert "(exact), it is 62%" in (readings.task(report) or "")
    weak = replace(report.cells[-1], gain={5: Interval(-0.02, -0.06, 0.02)})
    sentence = readings.sections(replace(report, cells=[*report.cells[:-1], weak]))[1].reading
    assert "2.0 points fewer (-6.0 to +2.0, so it may be chance)" in sentence


def test_the_page_stands_alone_and_shows_every_figure_in_both_schemes(report: Report) -> None:
    pytest.importorskip("matplotlib")
    text = html(report)
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "://" not in text
    assert page.tags.count("picture") == page.tags.count("source") == page.tags.count("img") == 5
    assert all(alt and re.search(r"\d", alt) for alt in page.alts)
    assert text.count("prefers-color-scheme: dark") == 1 + 5
    drawn = [base64.b64decode(load.removeprefix("data:image/svg+xml;base64,"), validate=True) for load in page.loads]
    assert len(set(drawn)) == 10
    for svg in drawn:
        links = [v for e in ElementTree.fromstring(svg).iter() for n, v in e.attrib.items() if n.endswith("href")]
        assert all(link.startswith("#") for link in links)
    for shown in ("89.0% (84.0 to 94.0)", "+17.0 (+12.1 to +21.9)", "17.0 of 28.0", "62.5% (50.0 to 75.0)", "225 ms"):
        assert shown in page.text
    assert html(report) == text  # nothing in it depends on when or where it was written


def test_names_from_users_stay_text(report: Report) -> None:
    pytest.importorskip("matplotlib")
    page = Page(html(renamed(report, HOSTILE)))
    assert "script" not in page.tags
    assert HOSTILE in page.text


def test_markdown_has_the_numbers_in_its_tables(report: Report, tmp_path: Path) -> None:
    report.write_markdown(tmp_path / "plain.md")
    text = (tmp_path / "plain.md").read_text(encoding="utf-8")
    assert "| axn | 20 | 89.0% (84.0 to 94.0) | 50.0% (40.0 to 60.0) |" in text
    assert "| axn | 20 | +17.0 (+12.1 to +21.9) |" in text
    assert "| axn | 20 | 5 | 60.0 of 60.0 | 12.0 of 12.0 | 17.0 of 28.0 |" in text
    assert "| axn | 20 | 4.0 ms | 20 ms | 1.0 ms | 200 ms | 225 ms |" in text
    assert "![" not in text
    renamed(report, HOSTILE).write_markdown(tmp_path / "hostile.md", PICTURES)
    text = (tmp_path / "hostile.md").read_text(encoding="utf-8")
    assert "](recall.png)" in text
    assert "<script" not in text
    columns = {re.sub(r"\\\|", "", line).count("|") for line in text.splitlines() if line.startswith("| ")}
    assert columns == {5, 4, 7, 8}  # one for each table, whatever stands in a cell


def test_everything_is_written(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = report.write(tmp_path)
    assert [file.name for file in files] == ["report.html", "report.md", "report.json", "recall.png"]
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["cells"][3]["recall"]["5"]["mean"] == 0.89
    assert stored["cells"][3]["origins"]["buckets"][2] == {
        "first_rank": 21,
        "last_rank": 300,
        "found": 0.17,
        "missed": 0.11,
    }
    assert stored["cells"][3]["seconds"] == {"first_stage": 0.004, "fit": 0.02, "retrieve": 0.001}
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    report.plot(tmp_path / "time.svg", "time")
    assert b"<svg" in (tmp_path / "time.svg").read_bytes()
    with pytest.raises(InputError, match="there is no figure 'speed'"):
        report.plot(tmp_path / "speed.png", "speed")  # type: ignore[arg-type]


def test_without_matplotlib_there_are_tables_and_a_hint(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(f"no {module}; try: pip install 'crossknn[{extra}]'")

    monkeypatch.setattr("crossknn.evaluation.figures.import_extra", missing)
    assert [file.name for file in report.write(tmp_path)] == ["report.html", "report.md", "report.json"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "crossknn[plot]" in page.text
    assert "axn finds 89%" in page.text
    assert page.loads == []
    assert "![" not in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "intervals", "gains"), [(120, True, True), (70, False, True), (50, False, False)])
def test_the_table_fits_the_terminal(report: Report, width: int, intervals: bool, gains: bool) -> None:
    file = io.StringIO()
    Console(file=file, width=width).print(report.table(width))
    text = file.getvalue()
    assert "89.0%" in text
    assert ("+12.1 to +21.9" in text, "+17.0" in text) == (intervals, gains)
    assert "…" not in text


@pytest.mark.parametrize(
    ("n_queries", "ks", "budgets", "methods"),
    [
        (1, (1, 5), (4, 20), {"rerank": Rerank()}),  # Top-5 does not fit the first budget
        (2, (20,), (3, 30, 30_000), {"rerank": Rerank(), "axn": AXN(rounds=2)}),  # nor does anything; and all items
        (2, (1,), (30,), {"rerank": Rerank()}),  # nothing is left to miss
    ],
)
def test_small_evaluations_are_reported_too(tmp_path: Path, n_queries: int, ks, budgets, methods) -> None:
    vectors = {f"i{n}": [float(n % 7), 1.0] for n in range(30)} | {f"q{n}": [1.0, float(n)] for n in range(n_queries)}
    items, queries = list(vectors)[:30], list(vectors)[30:]
    scorer = FunctionScorer(lambda pairs: [float(int(item[1:]) * 7 % 30) for _, item in pairs], name="sevens")
    index = Index.build(items, scorer=scorer, first_stage=Dense(GivenVectors(vectors, name="given")))
    options = EvaluationOptions(ks=ks, budgets=budgets, methods=methods)
    report = evaluate(index, queries, folder=tmp_path / "exact", options=options)
    for told in (report, replace(report, calls_per_second=None)):
        assert readings.task(told) is None
        told.write_markdown(tmp_path / "report.md")
        told.table(80)
    assert "came from disk" in (tmp_path / "report.md").read_text(encoding="utf-8")
    pytest.importorskip("matplotlib")
    Page(html(report))


def test_methods_that_differ_in_rounds_are_shown_by_rounds(report: Report, tmp_path: Path) -> None:
    none = Interval(0.0, 0.0, 0.0)
    found = {"axn-r1": (1, 0.6), "axn-r20": (20, 0.9), "axn": (10, 0.88), "gar-r2": (2, 0.5), "gar": (9, 0.5)}
    cells = [
        replace(cell(name, 20, recall, none, [], 0.001 * rounds), rounds=rounds)
        for name, (rounds, recall) in found.items()
    ]
    whole = replace(report, cells=[report.cells[2], *cells], baseline="rerank")
    recall, times = rounds_panels(whole)  # gar has two only
    assert "axn: 60.0 in 1, 88.0 in 10, 90.0 in 20." in recall.alt
    assert "10 rounds: first stage 4.0 ms, fit 10 ms, retrieve 1.0 ms." in times.alt
    assert panels(report, "rounds") == []
    pytest.importorskip("matplotlib")
    whole.plot(tmp_path / "rounds.png", "rounds")
    with pytest.raises(InputError, match="nothing to draw for 'rounds'"):
        report.plot(tmp_path / "rounds.png", "rounds")


def test_pairs_stand_in_the_tables(report: Report) -> None:
    gain, less = Interval(0.17, 0.121, 0.219), Interval(0.607, 0.5, 0.7)
    pairs = [Pair("axn", "rerank", 20, {5: gain}, {5: less}), Pair("axn", "rerank", 300, {5: gain}, {5: None})]
    (grid,) = (grid for grid in grids(replace(report, pairs=pairs)) if "each other" in grid.title)
    assert grid.rows == [
        ["axn", "rerank", "20", "+17.0 (+12.1 to +21.9)", "61% (50 to 70)"],
        ["axn", "rerank", "300", "+17.0 (+12.1 to +21.9)", ""],
    ]


def test_the_figure_of_offline_costs_shows_every_way_of_learning_that_has_a_line(report: Report) -> None:
    recalls = {"axn:mf@2": 0.8, "axn:mf@10": 0.9, "bayes:mf@2": 0.7, "adacur:cur@2": 0.3, "adacur:cur@10": 0.4}
    recalls |= {f"axn:{learner}@2": 0.85 for learner in ("a", "b", "c", "d", "e")}
    none = Interval(0.0, 0.0, 0.0)
    cells = [cell(name, 20, recall, none, [], 0.0) for name, recall in recalls.items()]
    offline = {n: Offline(calls=300 * int(n.split("@")[1]), family=n.split("@")[0]) for n in recalls}
    whole = replace(report, cells=[*report.cells, *cells], offline=offline)
    (panel, _) = offline_panels(whole)
    shown = re.findall(r"\w+:\w+(?=:)", panel.alt)
    assert len(shown) == 6
    assert shown[:2] == ["axn:mf", "adacur:cur"]  # lines first, and one for each way of learning
    assert "bayes:mf" not in shown


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bayes/latestates:mf-side-refined@10x125", "bayes/late:mf-side-refined@10x125"),
        ("axn:mf-side-refined@10x125", "axn:mf-side-refined@10x1250000000000000"),
        ("a" * 30, "a" * 20 + "b" + "a" * 9),
    ],
)
def test_long_names_in_figures_are_cut_where_they_still_differ(first: str, second: str) -> None:
    cut = short([first, "axn", second])
    assert cut[1] == "axn"
    assert cut[0] != cut[2]
    assert all(len(line) == 24 and "…" in line for line in (cut[0], cut[2]))
