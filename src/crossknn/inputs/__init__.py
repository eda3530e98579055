"""Items, queries and judgements from files, runs from and to files. A new format is one function in ``rows``."""

from crossknn.inputs.beir import read_beir
from crossknn.inputs.tables import Query, labels_of, read_ids, read_items, read_metadata, read_queries
from crossknn.inputs.trec import Qrels, Run, judgements, read_qrels, read_run, write_qrels, write_run
from crossknn.inputs.zeshel import read_zeshel

__all__ = [
    "Qrels",
    "Query",
    "Run",
    "judgements",
    "labels_of",
    "read_beir",
    "read_ids",
    "read_items",
    "read_metadata",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_zeshel",
    "write_qrels",
    "write_run",
]
