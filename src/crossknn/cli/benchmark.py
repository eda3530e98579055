"""``crossknn benchmark``: every system in one run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from crossknn.cli.models import FIRST_STAGE_HELP, SCORER_HELP, Shortlisted, open_first_stage, open_scorer, trial_rate
from crossknn.cli.options import Device, Json
from crossknn.cli.terminal import deliver, notes, one_line_errors, progress_bar
from crossknn.datasets import hpo, icd10cm
from crossknn.datasets.splits import Dataset
from crossknn.datasets.wordnet import load_wordnet, load_wordnet_10k
from crossknn.datasets.zeshel import load_zeshel
from crossknn.errors import InputError, import_extra
from crossknn.evaluation import BenchmarkData, BenchmarkOptions, benchmark
from crossknn.evaluation.benchmark import DEFAULT_SYSTEMS
from crossknn.files import make_folder
from crossknn.fingerprints import digest_texts
from crossknn.inputs import Qrels, Query, judgements, labels_of, read_beir, read_items, read_queries
from crossknn.scorers import CachedScorer
from crossknn.scores.ledger import ProgressCallback

FOLDERS = {
    "wordnet": "wordnet:FOLDER[:DOMAIN]",
    "wordnet-10k": "wordnet-10k:FOLDER",
    "zeshel": "zeshel:DOCUMENTS:MENTIONS",
}
"""Data sets whose files do not install as a Python package."""

DATASETS: dict[str, Callable[[], Dataset]] = {
    "icd10cm": icd10cm.load_icd10cm,
    "icd10cm-10k": icd10cm.load_icd10cm_10k,
    "hpo": hpo.load_hpo,
    "hpo-10k": hpo.load_hpo_10k,
}


@one_line_errors
def benchmark_command(
    items: Annotated[
        str, typer.Argument(help=f"{', '.join([*DATASETS, *FOLDERS.values()])}; a BeIR folder; or a file of items.")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for scores, checkpoints and the report.")],
    scorer: Annotated[str, typer.Option(help=SCORER_HELP)],
    first_stage: Annotated[str, typer.Option(help=FIRST_STAGE_HELP)],
    train_queries: Annotated[Path | None, typer.Option(help="What indexes learn from, where items are a file.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="What is measured, where items are a file; perhaps with labels.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which queries of a named set or BeIR folder are measured: dev to choose by.")
    ] = ("test"),
    train_split: Annotated[
        str | None,
        typer.Option(
            help="Which of them indexes learn from; index_train of a named set, train of a folder, unless given."
        ),
    ] = None,
    train_limit: Annotated[int | None, typer.Option(min=1, help="Take the first train queries only.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first measured queries only.")] = None,
    system: Annotated[
        list[str],
        typer.Option(
            help="METHOD, perhaps with -rROUNDS, /FIRST and :LEARNER@CALLS behind: axn-r20, rerank/bm25, axn:mf@2. "
            "CALLS are offline calls per item; @CALLSxQUERIES spends them on QUERIES of the train queries. FIRST: "
            "bm25, tfidf, random, vectors, distilled, hybrid, late, states, latestates. LEARNER: scale, mf and mf-side "
            "(both perhaps -refined), mf-side-distilled, mf-adamw, mf-ind, cur, distilled. Repeat for more, the "
            "baseline first."
        ),
    ] = list(DEFAULT_SYSTEMS),  # noqa: B006
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Two of the systems to compare with each other, with intervals; repeat for more. Each is "
            "with reranking by the same vectors anyway.",
        ),
    ] = None,
    k: Annotated[list[int], typer.Option("--k", "-k", help="Top-k-Recall for this k; repeat for more.")] = [1, 10, 100],  # noqa: B006
    budget: Annotated[list[int], typer.Option(help="Calls per query; repeat for more.")] = [10, 20, 50, 100, 200, 500],  # noqa: B006
    shortlist: Shortlisted = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of plans and bootstrap.")] = 0,
    device: Device = "cpu",
    cache_file: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            envvar="CROSSKNN_CACHE",
            metavar="FILE",
            help="Keeps every score; OUT/scores.sqlite unless given.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare systems, offline and online costs included, with the cross-encoder's exact top k.

    Every score is paid for once and kept: run again, or with more systems, only what is missing is scored.

    Example: [bold]crossknn benchmark icd10cm-10k --scorer demo --first-stage demo --limit 50 --out results/[/bold]
    """
    options = BenchmarkOptions(
        systems=system,
        ks=k,
        budgets=budget,
        shortlist=shortlist,
        seed=seed,
        trainable=_trainable(first_stage, device),
        pairs=[_pair(text) for text in compare or ()],
    )
    name, data = _data(items, train_queries, queries, split, train_split, train_limit, limit)
    make_folder(out_folder)
    uncached = open_scorer(scorer, device)
    cached = CachedScorer(uncached, cache_file or out_folder / "scores.sqlite")
    notes.print(
        f"{len(data.items):,} items, {len(data.train_queries):,} train queries, {len(data.queries):,} measured "
        f"queries, {len(options.systems)} systems"
    )
    with ExitStack() as stack:
        report = benchmark(
            data,
            cached,
            open_first_stage(first_stage, device, cached),
            folder=out_folder,
            options=options,
            progress=lambda what: _bar(stack, what),
        )
    if report.calls_per_second is None:
        rate = trial_rate(uncached, data.queries, list(data.items.values()), 512)
        report = replace(report, calls_per_second=rate, context=report.context | {"rate_of": "a trial of 512 pairs"})
    measured = {"items": data.items.values(), "queries": data.queries, "train queries": data.train_queries}
    told = {"name": name, "split": split} | {f"SHA-256 of {k}": digest_texts(v)[:12] for k, v in measured.items()}
    report = replace(report, context=report.context | {"data": told})
    deliver(report, out_folder, as_json=as_json)


def _pair(text: str) -> tuple[str, str]:
    first, _, second = text.partition(",")
    if not first or not second or "," in second:
        raise InputError(f"cannot compare {text!r}; name two systems with a comma between")
    return first, second


def _bar(stack: ExitStack, what: str) -> ProgressCallback:
    """One bar at a time: a new one ends the last."""
    stack.close()
    return stack.enter_context(progress_bar(what))


def _trainable(first_stage: str, device: str) -> Callable[[], Any] | None:
    """Makes the model that distillation fine-tunes, where the first stage is one of sentence-transformers."""
    kind, _, name = first_stage.partition(":")
    if kind != "st" or not name:
        return None
    return lambda: import_extra("sentence_transformers", "torch").SentenceTransformer(name, device=device)


def dataset_named(name: str) -> Dataset:
    """One of :data:`DATASETS`, or one of :data:`FOLDERS` with its places.

    Raises:
        InputError: the places are not told, or not there.
    """
    kind, *places = name.split(":")
    if kind not in FOLDERS:
        return DATASETS[name]()
    if kind == "wordnet" and len(places) in (1, 2) and places[0]:
        return load_wordnet(Path(places[0]), *places[1:])
    if kind == "wordnet-10k" and len(places) == 1 and places[0]:
        return load_wordnet_10k(Path(places[0]))
    if kind == "zeshel" and len(places) == 2 and all(places):
        return load_zeshel(Path(places[0]), Path(places[1]))
    raise InputError(f"cannot read {name!r}; write {FOLDERS[kind]}")


def _data(
    items: str,
    train_queries: Path | None,
    queries: Path | None,
    split: str,
    train_split: str | None,
    train_limit: int | None,
    limit: int | None,
) -> tuple[str, BenchmarkData]:
    """The data's own name, whatever folder it lies in, and the data."""
    qrels: Qrels | None = None
    name = Path(items).resolve().name  # of a file or folder
    if items in DATASETS or items.partition(":")[0] in FOLDERS:
        if train_queries is not None or queries is not None:
            raise InputError(f"{items} has queries of its own; --train-queries and --queries go with items of a file")
        named = dataset_named(items)
        if split not in ("dev", "test"):
            raise InputError(f"no split {split!r} to measure on; there are dev and test")
        learned_from = train_split or "index_train"
        if learned_from not in ("index_train", "dev"):
            raise InputError(f"no split {learned_from!r} to learn from; there are index_train and dev")
        train, asked = ([Query(q.text, q.item_id) for q in named.queries[s]] for s in (learned_from, split))
        name, texts = named.name, dict(named.items)
    elif Path(items).is_dir() and queries is None:
        texts, asked, qrels = read_beir(Path(items), split, strict=False)
        train = _beir_train(Path(items), train_queries, train_split)
    elif train_queries is None or queries is None:
        raise InputError(
            f"{items!r} is no named data set ({', '.join([*DATASETS, *FOLDERS.values()])}); a file needs "
            "--train-queries and --queries"
        )
    else:
        texts, train, asked = read_items(Path(items)), read_queries(train_queries), read_queries(queries)
    measured: dict[str, Query] = {}
    for query in asked:
        measured.setdefault(query.text, query)  # a query that stands twice is measured once
    chosen = list(measured.values())[:limit]
    learned = [text for text in dict.fromkeys(query.text for query in train) if text not in measured]
    return name, BenchmarkData(
        items=texts,
        train_queries=learned[:train_limit],
        queries=[query.text for query in chosen],
        labels=labels_of(chosen),
        relevant=None if qrels is None else judgements(chosen, qrels, Path(items)),
    )


def _beir_train(folder: Path, train_queries: Path | None, train_split: str | None) -> list[Query]:
    """What indexes over a BeIR folder learn from: nothing where it has no train split and none is asked for."""
    if train_queries is not None:
        return read_queries(train_queries)
    if train_split is None and not (folder / "qrels" / "train.tsv").exists():
        return []
    return read_beir(folder, train_split or "train", strict=False)[1]
