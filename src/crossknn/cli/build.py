"""``crossknn build``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from crossknn.cli.models import FIRST_STAGE_HELP, SCORER_HELP, absolute, open_first_stage, open_scorer, trial_rate
from crossknn.cli.options import Cache, Device, Json
from crossknn.cli.terminal import notes, one_line_errors, progress_bar
from crossknn.errors import IndexFileError, InputError
from crossknn.evaluation.systems import LEARNERS
from crossknn.factorization import Factorization
from crossknn.first_stage import calls_to_prepare
from crossknn.index import Index
from crossknn.index_contents import is_prepared
from crossknn.inputs import read_items, read_metadata, read_queries
from crossknn.learning import BuildOptions
from crossknn.scorers import Scorer
from crossknn.scores import AllItems, PerItem, PerQuery, Plan
from crossknn.scores.ledger import finished_calls
from crossknn.storage import COLLECTING, PREPARED, REFINED, check_place, read_manifest


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
        return LEARNERS[self.value].factorization()


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
        int | None, typer.Option(min=0, help="The first stage's best: 25 per query, or 0 per item, unless given.")
    ] = None,
    uniform: Annotated[
        int | None, typer.Option(min=0, help="Random ones: 25 per query, or 2 per item, unless given.")
    ] = None,
    factorization: Annotated[
        FactorizationName | None,
        typer.Option(
            help="How item vectors are learned: mf-side over a dense first stage, up to 50 million "
            "(train query, item) pairs, else mf. cur needs the plan all-items, scale learns a scale alone."
        ),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Per query, in a second pass, what its search would expect most of next: 50 beside the default plan.",
        ),
    ] = None,
    max_calls: Annotated[
        int | None,
        typer.Option(
            min=1, help="Cap on cross-encoder calls; they go to those train queries that stand for the others best."
        ),
    ] = None,
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
    as_json: Json = False,
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
        factorization=None if factorization is None else factorization.factorization(),
        refine=refine,
        max_calls=max_calls,
        seed=seed,
    )
    check_place(out_folder)
    cached = None if dry_run else cache_file  # scores that are there already would make the trial too quick
    opened = open_scorer(scorer, device, cached)
    retriever = open_first_stage(first_stage, device, opened)
    begun = out_folder / COLLECTING / PREPARED
    to_read = 0 if is_prepared(begun, retriever, list(texts.values())) else calls_to_prepare(retriever, len(texts))
    calls, n_paid = options.price(len(train), len(texts)), options.n_paid(len(train), len(texts))
    if dry_run:
        asked = train, list(texts.values())
        paid = train if n_paid == len(train) else None, asked[1]
        first = options.first_pass_price(len(train), len(texts))
        ledger = out_folder / COLLECTING
        done = finished_calls(ledger, *paid, opened, first, options.shard_size)
        done += finished_calls(ledger / REFINED, *paid, opened, None, options.shard_size)
        price = _price(opened, *asked, calls, done, to_read)
        typer.echo(json.dumps(asdict(price)) if as_json else price.in_words())
        return
    start, before = time.perf_counter(), _config(out_folder)
    reading = f", and {to_read:,} items to be read" if to_read else ""
    of_them = f", {n_paid:,} of them paid for" if n_paid < len(train) else ""
    notes.print(f"{len(texts):,} items, {len(train):,} train queries{of_them}, {calls:,} cross-encoder calls{reading}")
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
    for lost in _lost(before, built):
        notes.print(f"note: the index that was there {lost}", highlight=False, soft_wrap=True)
    seconds = time.perf_counter() - start
    notes.print(f"built [bold]{escape(str(out_folder))}[/bold] in {seconds:.0f} s", highlight=False)
    if as_json:
        sizes = {"items": len(texts), "train_queries": len(train), "calls": calls, "seconds": seconds}
        typer.echo(json.dumps({"index": str(out_folder), **sizes}))


def _config(folder: Path) -> Mapping[str, Any]:
    """What the index says of itself that a build is to replace; nothing where none is."""
    try:
        config: Mapping[str, Any] = read_manifest(folder)["config"]
    except IndexFileError:
        return {}
    return config


def _lost(before: Mapping[str, Any], built: Index) -> Iterator[str]:
    """What an index that was replaced had, and this one has not."""
    if before.get("tuning") is not None:
        yield "was tuned, and this one is not: run crossknn tune again"
    if before.get("fields") and not built.metadata.fields:
        yield f"had the fields {escape(', '.join(before['fields']))} to filter by: give --metadata for these"


def _plan(name: PlanName, top: int | None, uniform: int | None) -> Plan:
    if name is PlanName.all_items:
        if top is not None or uniform is not None:
            raise InputError("--top and --uniform choose items; the plan all-items takes them all")
        return AllItems()
    plan = PerQuery() if name is PlanName.per_query else PerItem()
    return replace(plan, top=plan.top if top is None else top, uniform=plan.uniform if uniform is None else uniform)


@dataclass(frozen=True)
class _Price:
    """What a build costs.

    Attributes:
        calls: cross-encoder calls in all.
        done: of these, what an interrupted build has done.
        read: items that the cross-encoder is to read beside, each in about a call's time.
        tried: pairs that the rate was tried on; 0 where nothing is left.
        calls_per_second: the rate.
        seconds: for what is left, reading included.
    """

    calls: int
    done: int = 0
    read: int = 0
    tried: int = 0
    calls_per_second: float | None = None
    seconds: float = 0.0

    def in_words(self) -> str:
        reading = f", and {self.read:,} items to be read" if self.read else ""
        if not self.calls:
            nothing = "0 cross-encoder calls: there are no train queries, so only the items are embedded"
            return f"{nothing}{reading}"
        left = f"{self.calls - self.done:,} cross-encoder calls{reading}"
        if self.calls_per_second is not None:
            minutes, rate = self.seconds / 60, self.calls_per_second
            needed = f"{minutes:,.0f} minutes" if self.seconds > 120 else f"{self.seconds:,.0f} seconds"
            left += f", about {needed} at {rate:,.0f} calls/s (tried on {self.tried} pairs)"
        if not self.done:
            return left
        whole = (
            f"{self.calls:,} cross-encoder calls, of which an interrupted build has done {self.done:,} (with the same "
            "plan and seed)"
        )
        return f"{whole}; what is left:\n{left}"


def _price(scorer: Scorer, queries: list[str], items: list[str], calls: int, done: int, read: int) -> _Price:
    """Calls, and time at the rate of a trial."""
    left = calls - done
    if not left:
        return _Price(calls, done, read)
    tried = min(64, left)
    rate = trial_rate(scorer, queries, items, tried)
    return _Price(calls, done, read, tried, rate, (left + read) / rate)
