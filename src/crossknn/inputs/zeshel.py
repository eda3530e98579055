"""ZeShEL, zero-shot entity linking (Logeswaran et al., ACL 2019): the data set of the paper crossknn implements."""

from __future__ import annotations

from pathlib import Path

from crossknn.errors import InputError
from crossknn.inputs.rows import Row, needed, put, read_rows, whole_number
from crossknn.inputs.tables import Query

MARKERS = ("[unused0]", "[unused1]", "[unused2]")
"""Before a mention, behind it, and between an entity's title and text: unused words of BERT, as in the paper's code."""


def read_zeshel(
    documents: Path, mentions: Path, *, max_words: int = 96, markers: tuple[str, str, str] = MARKERS
) -> tuple[dict[str, str], list[Query]]:
    """Entities and mentions of one world, written as in the paper's code (iesl/anncur).

    An item is ``title [unused2] text``, a query ``context [unused0] mention [unused1] context``, with the mention's
    entity as its label. The context is halved between left and right; what one side lacks goes to the other. The paper
    counts 128 word pieces, this function whole words, since it knows no tokenizer; and it leaves upper case alone. A
    tokenizer that does not know the markers as words splits them up.

    Args:
        documents: one world, ``documents/lego.json``; its name is the world's.
        mentions: ``mentions/test.json``, of whose worlds this one is taken.
        max_words: words of mention and context together.
        markers: see :data:`MARKERS`.

    Raises:
        InputError: which line is wrong, and how; a mention that does not stand where its line says, or whose context or
            entity is not among the documents; or no mention of this world.
    """
    world = documents.name.partition(".")[0]
    rows = [(place, row) for place, row in read_rows(mentions) if needed(place, row, "corpus") == world]
    if not rows:
        raise InputError(
            f"{mentions} has no mention with the corpus {world!r}, the world that {documents} is named after"
        )
    contexts = {needed(place, row, "context_document_id") for place, row in rows}
    items: dict[str, str] = {}
    words: dict[str, list[str]] = {}
    for place, row in read_rows(documents):
        key, text = needed(place, row, "document_id"), needed(place, row, "text")
        put(place, "document_id", items, key, f"{needed(place, row, 'title')} {markers[2]} {text}")
        if key in contexts:
            words[key] = text.split()
    queries: dict[str, Query] = {}
    for place, row in rows:
        context, label = needed(place, row, "context_document_id"), needed(place, row, "label_document_id")
        for document in (context, label):
            if document not in items:
                raise InputError(f"{place}: the document {document!r} is not in {documents}")
        text = _in_context(place, row, words[context], max_words, markers)
        key = needed(place, row, "mention_id")
        put(place, "mention_id", queries, key, Query(text, label, key))
    return items, list(queries.values())


def _in_context(place: str, row: Row, words: list[str], max_words: int, markers: tuple[str, str, str]) -> str:
    start, end = whole_number(place, row, "start_index"), whole_number(place, row, "end_index") + 1
    mention = " ".join(words[start:end])
    if start < 0 or mention != needed(place, row, "text"):
        raise InputError(
            f"{place}: words {start} to {end - 1} of the context are {mention[:80]!r}, not {row['text']!r}"
        )
    spare = max(max_words - (end - start), 0)
    n_left = min(start, max(spare // 2, spare - (len(words) - end)))
    return " ".join(
        [*words[start - n_left : start], markers[0], mention, markers[1], *words[end : end + spare - n_left]]
    )
