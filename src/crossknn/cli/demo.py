"""``crossknn demo``: the whole way on real data, with the models of the distribution ``crossknn-demo``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from crossknn.cli.models import open_first_stage, open_scorer
from crossknn.cli.options import Json
from crossknn.cli.terminal import deliver, notes, one_line_errors, out, progress_bar
from crossknn.datasets.icd10cm import load_icd10cm
from crossknn.datasets.splits import Dataset
from crossknn.evaluation import EvaluationOptions, Report, evaluate
from crossknn.files import make_folder
from crossknn.first_stage import FirstStage
from crossknn.index import Index
from crossknn.learning import BuildOptions
from crossknn.results import SearchResult
from crossknn.scorers import Scorer
from crossknn.scores import PerQuery
from crossknn.search import Rerank

PHRASES = (
    "water on the brain",
    "lockjaw",
    "stomach bug",
    "brittle bones",
    "fear of open spaces",
    "lazy eye",
)
"""What people say; the official descriptions share hardly a word with it."""

_BUDGET = 100
_SHOWN = 3
_OPTIONS = BuildOptions(plan=PerQuery(top=13, uniform=12), refine=25)
_TRAIN_QUERIES = 200
_TEST_QUERIES = 24


@one_line_errors
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the index, report and plot.")] = Path(
        "demo-output"
    ),
    as_json: Json = False,
) -> None:
    """Build an index of ICD-10-CM with a real cross-encoder, and find codes from clinicians' phrases.

    Example: [bold]crossknn demo[/bold]   (needs: pip install 'crossknn\\[demo]')
    """
    run_demo(out_folder, as_json=as_json)


def run_demo(folder: Path, *, as_json: bool = False) -> None:
    """Build, answer, and measure; everything is printed as it comes out, or as one JSON object in the end.

    Raises:
        MissingExtraError: ``crossknn-demo`` is not installed.
        MissingDataError: ``simple-icd-10-cm`` is not installed.
    """
    scorer, first_stage = open_scorer("demo"), open_first_stage("demo")
    data = load_icd10cm()
    make_folder(folder)
    index = _build(data, scorer, first_stage, folder / "icd10cm.crossknn")
    answers = []
    for phrase in PHRASES:
        found = index.search(phrase, k=_SHOWN, budget=_BUDGET)
        reranked = index.search(phrase, k=_SHOWN, budget=_BUDGET, method=Rerank())
        answers.append({"found": found.to_dict(), "reranked": reranked.to_dict()})
        if not as_json:
            out.print(_side_by_side(found, reranked))
            out.print()
    report = _measure(data, index, scorer, first_stage, folder)
    if as_json:
        report.write(folder)
        typer.echo(json.dumps({"answers": answers, "report": report.to_dict()}, ensure_ascii=False))
    else:
        deliver(report, folder, as_json=False)


def _build(data: Dataset, scorer: Scorer, first_stage: FirstStage, folder: Path) -> Index:
    train = [query.text for query in data.queries["index_train"][:_TRAIN_QUERIES]]
    calls = _OPTIONS.price(len(train), len(data.items))
    notes.print(f"Indexing {len(data.items):,} codes of ICD-10-CM with {calls:,} cross-encoder calls ...")
    start = time.perf_counter()
    with progress_bar("embedding, scoring") as progress:
        index = Index.build(
            data.items,
            scorer=scorer,
            first_stage=first_stage,
            queries=train,
            out=folder,
            options=_OPTIONS,
            notes={"scorer": "demo", "first_stage": "demo"},
            progress=progress,
        )
    notes.print(
        f"Built in {time.perf_counter() - start:.0f} s. Ask it more: crossknn search {escape(str(folder))} "
        '"your phrase"\n'
    )
    return index


def _side_by_side(found: SearchResult, reranked: SearchResult) -> Table:
    table = Table(
        title=f'"{escape(found.query)}", {found.calls} cross-encoder calls each', title_justify="left", show_lines=False
    )
    table.add_column("the search found", ratio=5)
    table.add_column("score", justify="right")
    table.add_column("round", justify="right")
    table.add_column("first-stage rank", justify="right")
    table.add_column("reranking found", ratio=5)
    table.add_column("score", justify="right")
    for hit, other in zip(found, reranked, strict=True):
        rank = f"{hit.first_stage_rank:,}"
        table.add_row(
            escape(f"{hit.id} {hit.text}"),
            f"{hit.score:.2f}",
            str(hit.round),
            f"[bold green]{rank}[/bold green]" if hit.first_stage_rank > found.calls else rank,
            escape(f"{other.id} {other.text}"),
            f"{other.score:.2f}",
        )
    return table


def _measure(data: Dataset, index: Index, scorer: Scorer, first_stage: FirstStage, folder: Path) -> Report:
    """The evaluation against exact brute force, over all codes of the test categories."""
    part = data.subset((i for i, split in data.item_splits.items() if split == "test"), "icd10cm-test")
    tested = part.queries["test"][:_TEST_QUERIES]
    calls = len(tested) * len(part.items)
    notes.print(
        f"Measuring on {len(tested)} test queries over the {len(part.items):,} codes of the test categories: exact "
        f"brute force takes {calls:,} calls ..."
    )
    with progress_bar("scoring") as progress:
        measured = Index.build(
            part.items,
            scorer=scorer,
            first_stage=first_stage,
            queries=index.train_queries,
            options=_OPTIONS,
        )
        return evaluate(
            measured,
            [query.text for query in tested],
            labels=[query.item_id for query in tested],
            folder=folder / "exact",
            options=EvaluationOptions(ks=(1, 10), budgets=(25, 50, 100, 200)),
            progress=progress,
        )
