"""``crossknn build | search | tune | evaluate | benchmark | distill | serve | verify | cache | demo``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape

from crossknn.cli.benchmark import benchmark_command
from crossknn.cli.cache import cache
from crossknn.cli.conditions import Filter, parsed
from crossknn.cli.models import (
    FIRST_STAGE_HELP,
    SCORER_HELP,
    Shortlisted,
    absolute,
    open_first_stage,
    open_scorer,
    trial_rate,
)
from crossknn.cli.terminal import notes, one_line_errors, out, progress_bar, result_table, tuning_table
from crossknn.errors import InputError, import_extra
from crossknn.evaluation import EvaluationOptions, default_methods, evaluate
from crossknn.evaluation.systems import FACTORIZATIONS
from crossknn.factorization import Factorization
from crossknn.files import make_folder, sole_writer
from crossknn.fingerprints import digest_texts
from crossknn.index import BuildOptions, Index
from crossknn.inputs import judgements, labels_of, read_items, read_metadata, read_qrels, read_queries
from crossknn.scorers import Fingerprint, Scorer
from crossknn.scores import AllItems, PerItem, PerQuery, Plan
from crossknn.scores.ledger import finished_calls
from crossknn.search import AXN, GAR, METHODS, SearchMethod, Shortlist, TouR, method_named
from crossknn.storage import COLLECTING, MANIFEST, REFINED, check_place, load, read_manifest

app = typer.Typer(
    name="crossknn",
    help="k-NN search with cross-encoders: their own top k over all items, within a budget of calls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache, name="cache")
app.command("benchmark")(benchmark_command)


class PlanName(str, Enum):
    """Scoring plans by name."""

    per_query = "per-query"
    per_item = "per-item"
    all_items = "all-items"


class FactorizationName(str, Enum):
    """Factorizations by name."""

    mf = "mf"
    mf_adamw = "mf-adamw"
    mf_ind = "mf-ind"
    mf_side = "mf-side"
    scale = "scale"
    cur = "cur"

    def factorization(self) -> Factorization:
        """With its own settings."""
        return FACTORIZATIONS[self.value]()


METHOD_HELP = f"One of {', '.join(METHODS)}; perhaps with rounds and more behind: axn-r5, axn-m0.5, axn/vectors."
IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
ScorerSpec = Annotated[str | None, typer.Option("--scorer", help=SCORER_HELP)]
FirstStageSpec = Annotated[str | None, typer.Option("--first-stage", help=FIRST_STAGE_HELP)]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, ...")]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="CROSSKNN_CACHE",
        metavar="FILE",
        help="Keep every score in this SQLite file, and look there first.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds that the budget is divided into.")]
Mixing = Annotated[
    float | None, typer.Option(min=0, max=1, help="Weight of the dual encoder's query vector (lambda, eq. 7).")
]


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"crossknn {version('crossknn')}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """k-NN search with cross-encoders: their own top k over all items, within a budget of calls."""


@app.command()
@one_line_errors
def build(
    items: Annotated[
        Path, typer.Argument(help="JSONL, CSV, TSV or Parquet with id and text (and perhaps title), or a BeIR folder.")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the new index; an old index there is replaced.")],
    scorer: Annotated[str, typer.Option(help=SCORER_HELP)],
    first_stage: Annotated[str, typer.Option(help=FIRST_STAGE_HELP)] = "bm25",
    queries: Annotated[
        Path | None,
        typer.Option(help="Train queries (JSONL, CSV, TSV, TXT or Parquet); without any, nothing is scored."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="Field of the items to keep for filters (search --filter); repeat for more."),
    ] = None,
    plan: Annotated[PlanName, typer.Option(help="Which pairs are scored: so many per query, per item, or all.")] = (
        PlanName.per_query
    ),
    top: Annotated[
        int | None, typer.Option(min=0, help="The first stage's best: 50 per query, or 0 per item, unless given.")
    ] = None,
    uniform: Annotated[
        int | None, typer.Option(min=0, help="Random ones: 50 per query, or 2 per item, unless given.")
    ] = None,
    factorization: Annotated[
        FactorizationName,
        typer.Option(help="How item vectors are learned; cur needs the plan all-items, scale learns a scale alone."),
    ] = FactorizationName.mf,
    refine: Annotated[
        int, typer.Option(min=0, help="Per query, in a second pass: what its own search would score next.")
    ] = 0,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Cap on cross-encoder calls.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say the price (calls, time), less what an interrupted build has done, and stop; up to 64 calls try "
            "the rate.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random pairs.")] = 0,
    device: Device = "cpu",
    cache_file: Cache = None,
) -> None:
    """Build an index: embed the items, score some (train query, item) pairs, learn item vectors.

    A build that was interrupted goes on where it stopped when the same command is run again.

    Example: [bold]crossknn build codes.jsonl --queries train.jsonl --scorer ce/ --first-stage de/ --out my.index[/bold]
    """
    texts = read_items(items)
    fields = read_metadata(items, metadata) if metadata else None
    train = list(dict.fromkeys(query.text for query in read_queries(queries))) if queries else []
    options = BuildOptions(
        plan=_plan(plan, top, uniform),
        factorization=factorization.factorization(),
        refine=refine,
        max_calls=max_calls,
        seed=seed,
    )
    check_place(out_folder)
    cached = None if dry_run else cache_file  # scores that are there already would make the trial too quick
    opened, retriever = open_scorer(scorer, device, cached), open_first_stage(first_stage, device)
    calls = options.price(len(train), len(texts))
    if dry_run:
        asked = train, list(texts.values())
        first = replace(options, refine=0).price(len(train), len(texts))
        ledger = out_folder / COLLECTING
        done = finished_calls(ledger, *asked, opened, first, options.shard_size)
        done += finished_calls(ledger / REFINED, *asked, opened, calls - first, options.shard_size)
        _say_price(opened, *asked, calls, done)
        return
    start = time.perf_counter()
    notes.print(f"{len(texts):,} items, {len(train):,} train queries, {calls:,} cross-encoder calls")
    with progress_bar("scoring") as progress:
        built = Index.build(
            texts,
            scorer=opened,
            first_stage=retriever,
            queries=train,
            metadata=fields,
            options=options,
            out=out_folder,
            notes={"scorer": absolute(scorer), "first_stage": absolute(first_stage)},
            progress=progress,
        )
    if built.item_model is None:
        notes.print("note: no item vectors, so searches only rerank; give --queries or a dense --first-stage for more")
    notes.print(f"built [bold]{out_folder}[/bold] in {time.perf_counter() - start:.0f} s", highlight=False)


@app.command()
@one_line_errors
def search(
    index: IndexPath,
    query: Annotated[list[str] | None, typer.Argument(help="One query or more.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries from a file (JSONL, CSV, TSV, TXT or Parquet).")] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Hits per query.")] = 10,
    budget: Annotated[
        int | None, typer.Option(help="Cross-encoder calls per query; the tuned number, or 100.", show_default=False)
    ] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(help="Stop before, once the hits are expected to hold this share of the exact top k (as 0.95)."),
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(help="Stop before, rather than take longer than these milliseconds.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"How the budget is spent: as tuned, or else what suits the index. {METHOD_HELP}"),
    ] = None,
    filter: Filter = None,
    rounds: Rounds = None,
    mixing: Mixing = None,
    shortlist: Shortlisted = None,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
    as_json: Json = False,
) -> None:
    """Search an index. The scorer and first stage are those of the build unless named.

    Example: [bold]crossknn search codes.crossknn "water on the brain" --budget 200[/bold]
    """
    texts = [*(query or []), *([q.text for q in read_queries(queries)] if queries else [])]
    if not texts:
        raise InputError("there is no query; give one, or a file with --queries")
    opened = _open(index, scorer, first_stage, device, cache_file)
    results = opened.search_batch(
        texts,
        k=k,
        budget=budget,
        target_recall=target_recall,
        max_ms=max_ms,
        method=_method(opened, method, rounds, mixing, shortlist),
        filter=parsed(filter, opened.metadata) if filter else None,
    )
    if as_json:
        for result in results:
            typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
        return
    for result in results:
        out.print(result_table(result))
        out.print()


@app.command("evaluate")
@one_line_errors
def evaluate_command(
    index: IndexPath,
    queries: Annotated[
        Path,
        typer.Option(help="Test queries (JSONL, CSV, TSV, TXT or Parquet), perhaps with the label of the right item."),
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for ground truth and report: HTML, Markdown, JSON, PNG.")
    ],
    k: Annotated[list[int], typer.Option("--k", "-k", help="Top-k-Recall for this k; repeat for more.")] = [1, 10, 100],  # noqa: B006
    budget: Annotated[list[int], typer.Option(help="Calls per query; repeat for more.")] = [50, 100, 200, 500],  # noqa: B006
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements in TREC's format, for nDCG@10 and R@100; queries need ids then.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take this many queries, drawn with the seed.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What is compared, the baseline first; rerank, axn-paper and axn unless given. {METHOD_HELP}"
        ),
    ] = None,
    rounds: Rounds = None,
    mixing: Mixing = None,
    shortlist: Shortlisted = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of the bootstrap.")] = 0,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
    as_json: Json = False,
) -> None:
    """Compare search methods with each other against the cross-encoder's exact top k.

    The exact top k costs one call for every (query, item) pair. It is kept in the output folder; an interrupted run
    goes on from there.

    Example: [bold]crossknn evaluate codes.crossknn --queries test.jsonl --limit 50 --out report/[/bold]
    """
    opened = _open(index, scorer, first_stage, device, cache_file)
    rows = read_queries(queries)
    if limit is not None and limit < len(rows):
        kept = np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))
        rows = [rows[n] for n in kept]
    labels = labels_of(rows)
    judged = None if qrels is None else judgements(rows, read_qrels(qrels), qrels)
    if (out_folder / MANIFEST).exists():
        raise InputError(f"{out_folder} holds an index; the report needs a folder of its own")
    names = list(method or ()) or (["rerank"] if opened.item_model is None else list(default_methods()))
    tuned = {name: _method(opened, name, *_fitting(method_named(name), rounds, mixing), shortlist) for name in names}
    options = EvaluationOptions(ks=k, budgets=_within(budget, len(opened)), methods=tuned, seed=seed)
    make_folder(out_folder)
    notes.print(f"exact top k: {len(rows):,} queries x {len(opened):,} items = {len(rows) * len(opened):,} calls")
    texts = [row.text for row in rows]
    with progress_bar("scoring") as progress:
        report = evaluate(
            opened,
            texts,
            labels=labels,
            relevant=judged,
            folder=out_folder / "exact" / digest_texts(texts)[:12],
            options=options,
            progress=progress,
        )
    files = report.write(out_folder)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        out.print(report.table(out.width))
    notes.print("report: " + ", ".join(map(str, files)), highlight=False, markup=False, soft_wrap=True)
    if not any(file.suffix == ".png" for file in files):
        notes.print("for figures: pip install 'crossknn[plot]'", highlight=False, markup=False)


@app.command()
@one_line_errors
def distill(
    index: IndexPath,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the new model.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train queries.")] = 3,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
) -> None:
    """Fine-tune an index's own dual encoder on the scores it was built with; costs no cross-encoder call.

    A run that was interrupted goes on from its last epoch.

    Example: [bold]crossknn distill codes.crossknn --out encoder/[/bold]   (needs: pip install 'crossknn[torch]')
    """
    from crossknn.cli.distill import run_distillation

    remembered = read_manifest(index)["config"].get("notes", {})
    opened = _open(index, scorer, first_stage, device, None)
    run_distillation(opened, first_stage or remembered.get("first_stage"), out_folder, epochs, device)


@app.command("tune")
@one_line_errors
def tune_command(
    index: IndexPath,
    queries: Annotated[
        Path, typer.Option(help="Queries like those to come (JSONL, CSV, TSV, TXT or Parquet); no labels needed.")
    ],
    k: Annotated[int, typer.Option("--k", "-k", help="Hits that searches will ask for.")] = 10,
    budget: Annotated[int, typer.Option(help="Cross-encoder calls per query; with a target the most.")] = 100,
    target_recall: Annotated[
        float | None, typer.Option(help="Find the cheapest way to this recall (as 0.9), not the best for the budget.")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Queries to use; drawn at random from the file.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
    as_json: Json = False,
) -> None:
    """Compare ways to search an index on your queries, keep the best with the index, and say what to expect of it.

    Example: [bold]crossknn tune codes.crossknn --queries dev.jsonl --budget 100[/bold]
    """
    every = dict.fromkeys(row.text for row in read_queries(queries))
    read_manifest(index)  # nothing is written where there is no index
    with sole_writer(index):  # from before a call is spent: the result can be kept, and no other build is undone
        opened = _open(index, scorer, first_stage, device, cache_file)
        learned = set(opened.train_queries)
        texts = [text for text in every if text not in learned]
        if not texts:
            raise InputError(f"the index has learned from every query of {queries}; tuning needs others")
        if limit < len(texts):
            texts = [texts[n] for n in np.sort(np.random.default_rng(seed).choice(len(texts), limit, replace=False))]
        with progress_bar("trying") as progress:
            tuning = opened.tune(texts, k=k, budget=budget, target_recall=target_recall, progress=progress)
        if as_json:
            typer.echo(json.dumps(asdict(tuning)))
        else:
            out.print(tuning_table(tuning))
        opened.save(index, locked=True)
    if as_json:
        return
    out.print(
        f"{index} is now searched by [bold]{tuning.method}[/bold] with {tuning.budget} calls: expect to find "
        f"{tuning.expected_recall:.1%} of the cross-encoder's top {k}\n"
        f"(measured on {tuning.queries} queries with {tuning.calls:,} calls, against the best that any way found)",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
@one_line_errors
def serve(
    index: IndexPath,
    host: Annotated[str, typer.Option(help="Address to listen on; the outside world reaches only what you name.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    max_budget: Annotated[int, typer.Option(min=1, help="Cross-encoder calls that one query may cost.")] = 5_000,
    queue: Annotated[int, typer.Option(min=1, help="Searches taken at the same time; more get a 429.")] = 256,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request is given up.")] = 30.0,
    batch: Annotated[int, typer.Option(min=1, help="Pairs scored at a time, from all searches under way.")] = 256,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Milliseconds that a search after a pause is held for others to share its batch."),
    ] = 2.0,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin that may call from a browser; repeat for more.")
    ] = None,
    example: Annotated[
        list[str] | None, typer.Option(help="Query that the page offers; repeat for more. Else some train queries.")
    ] = None,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
) -> None:
    """Serve an index over HTTP, with a page to try it at /. A token in CROSSKNN_TOKEN is asked of clients.

    Example: [bold]crossknn serve codes.crossknn --port 8080[/bold]   (needs: pip install 'crossknn[serve]')
    """
    import_extra("fastapi", "serve")
    from crossknn.cli.serve import run_server
    from crossknn.server import ServerOptions

    options = ServerOptions(
        token=os.environ.get("CROSSKNN_TOKEN") or None,
        max_budget=max_budget,
        queue=queue,
        deadline_seconds=deadline,
        batch_pairs=batch,
        wait_ms=wait,
        allow_origins=tuple(allow_origin or ()),
    )
    run_server(_open(index, scorer, first_stage, device, cache_file, in_memory=True), options, host, port, example)


@app.command()
@one_line_errors
def verify(index: IndexPath) -> None:
    """Read every byte of an index, compare it with its checksum, and say what is there.

    Example: [bold]crossknn verify codes.crossknn[/bold]
    """
    contents = load(index)
    sizes = [file.stat().st_size for file in index.rglob("*") if file.is_file()]
    scores = len(contents.arrays["score_values"]) if "score_values" in contents.arrays else 0
    config = contents.config
    out.print(
        f"{escape(str(index))} is whole: {config['n_items']:,} items, {len(contents.rows.get('train_queries', [])):,} "
        f"train queries, {scores:,} scores, {sum(sizes) / 1e6:,.1f} MB\n"
        f"scorer: {escape(str(Fingerprint(**config['scorer'])))}\nfirst stage: {escape(config['first_stage'])}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
@one_line_errors
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the index, report and plot.")] = Path(
        "demo-output"
    ),
) -> None:
    """Build an index of ICD-10-CM with a real cross-encoder, and find codes from clinicians' phrases.

    Example: [bold]crossknn demo[/bold]   (needs: pip install 'crossknn[demo]')
    """
    from crossknn.cli.demo import run_demo

    run_demo(out_folder)


def _plan(name: PlanName, top: int | None, uniform: int | None) -> Plan:
    if name is PlanName.all_items:
        if top is not None or uniform is not None:
            raise InputError("--top and --uniform choose items; the plan all-items takes them all")
        return AllItems()
    plan = PerQuery() if name is PlanName.per_query else PerItem()
    return replace(plan, top=plan.top if top is None else top, uniform=plan.uniform if uniform is None else uniform)


def _method(
    index: Index, name: str | None, rounds: int | None, mixing: float | None, shortlist: int | None
) -> SearchMethod:
    """A method, or the index's own, with its settings changed where the user says so."""
    method = _tuned(index.default_method() if name is None else method_named(name), name, rounds, mixing)
    return method if shortlist is None else Shortlist(method, shortlist)


def _fitting(method: SearchMethod, rounds: int | None, mixing: float | None) -> tuple[int | None, float | None]:
    """Those of the settings that a method has: of several methods, some have none."""
    return rounds if isinstance(method, AXN | TouR | GAR) else None, mixing if isinstance(method, AXN) else None


def _tuned(method: SearchMethod, name: str | None, rounds: int | None, mixing: float | None) -> SearchMethod:
    if isinstance(method, AXN):
        mixed = method.mixing if mixing is None else mixing
        return replace(method, rounds=rounds or method.rounds, mixing=mixed)
    if mixing is not None:
        raise InputError(f"--mixing is a setting of axn; {name or 'reranking'} has none")
    if isinstance(method, TouR | GAR):
        return replace(method, rounds=rounds or method.rounds)
    if rounds is not None:
        raise InputError(f"{name or 'reranking'} has no --rounds to set")
    return method


def _within(budgets: list[int], n_items: int) -> list[int]:
    """Budgets up to the number of items: more buys nothing."""
    return sorted({min(budget, n_items) for budget in budgets})


def _open(
    folder: Path,
    scorer: str | None,
    first_stage: str | None,
    device: str,
    cache_file: Path | None,
    *,
    in_memory: bool = False,
) -> Index:
    remembered = read_manifest(folder)["config"].get("notes", {})
    scorer_spec, first_spec = scorer or remembered.get("scorer"), first_stage or remembered.get("first_stage")
    if scorer_spec is None or first_spec is None:
        raise InputError(f"{folder} does not say what it was built with; name --scorer and --first-stage")
    with _remembered("--scorer", scorer is None):
        opened = open_scorer(scorer_spec, device, cache_file, named=scorer is not None)
    with _remembered("--first-stage", first_stage is None):
        retriever = open_first_stage(first_spec, device)
    return Index.load(folder, scorer=opened, first_stage=retriever, in_memory=in_memory)


@contextmanager
def _remembered(option: str, remembered: bool) -> Iterator[None]:
    """Say where a name came from that the user did not give."""
    try:
        yield
    except InputError as error:
        if not remembered:
            raise
        raise InputError(f"{error} (the index remembers it; where it has moved, name {option})") from error


def _say_price(scorer: Scorer, queries: list[str], items: list[str], calls: int, done: int) -> None:
    """Calls, and time at the rate of a trial."""
    if not calls:
        out.print("0 cross-encoder calls: there are no train queries, so only the items are embedded")
        return
    if done:
        out.print(f"{calls:,} cross-encoder calls, of which an interrupted build has done {done:,}; what is left:")
    left = calls - done
    if not left:
        out.print("0 cross-encoder calls")
        return
    tried = min(64, left)
    rate = trial_rate(scorer, queries, items, tried)
    seconds = left / rate
    time_needed = f"{seconds / 60:,.0f} minutes" if seconds > 120 else f"{seconds:,.0f} seconds"
    out.print(f"{left:,} cross-encoder calls, about {time_needed} at {rate:,.0f} calls/s (tried on {tried} pairs)")
