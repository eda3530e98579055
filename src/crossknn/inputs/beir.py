"""BeIR's folders (Thakur et al., 2021): ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``."""

from __future__ import annotations

import warnings
from pathlib import Path

from crossknn.errors import CrossKNNWarning, InputError
from crossknn.inputs.rows import needed, put, read_rows, whole_number
from crossknn.inputs.tables import Query, read_items, read_queries
from crossknn.inputs.trec import Qrels


def read_beir(folder: Path, split: str = "test", *, strict: bool = True) -> tuple[dict[str, str], list[Query], Qrels]:
    """Items, the queries of one split, and which items are relevant to them, and how much.

    An item's text is title and text; a query has no ``label``, as several items may be relevant. All is held in memory.

    Args:
        folder: an unpacked BeIR data set.
        split: name of a file in ``qrels``.
        strict: False passes over documents without text (FiQA has some), and keeps judgements of documents that are not
            there (ArguAna has one), so that figures compare with published ones; a CrossKNNWarning counts both.

    Raises:
        InputError: which line is wrong, and how; or qrels that name a query or a document that is not there.
    """
    path = folder / "qrels" / f"{split}.tsv"
    if not path.exists():
        splits = sorted(other.stem for other in path.parent.glob("*.tsv"))
        raise InputError(f"{path} is not there; the splits of {folder} are {splits}")
    items = read_items(folder, skip_empty=not strict)
    queries = {query.id: query for query in read_queries(folder)}
    qrels: Qrels = {}
    missing: list[str] = []
    for place, row in read_rows(path):
        query, item = needed(place, row, "query-id"), needed(place, row, "corpus-id")
        if query not in queries:
            raise InputError(f"{place}: the query {query!r} is not in queries.jsonl")
        if item not in items:
            missing.append(f"{place}: the document {item!r} is not in corpus.jsonl")
            if strict:
                raise InputError(f"{missing[0]}; fetch the whole corpus, or go on with strict=False")
        put(place, "corpus-id", qrels.setdefault(query, {}), item, whole_number(place, row, "score"))
    if missing:
        warnings.warn(
            f"{len(missing)} judgements cannot be met, the first is {missing[0]}", CrossKNNWarning, stacklevel=2
        )
    if not qrels:
        raise InputError(f"{path} holds no judgements")
    return items, [query for key, query in queries.items() if key in qrels], qrels
