"""BeIR, ZeShEL and TREC, in the forms in which they are published."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn.errors import CrossKNNWarning, InputError, WriteError
from crossknn.inputs import (
    Query,
    read_beir,
    read_items,
    read_qrels,
    read_queries,
    read_run,
    read_zeshel,
    write_qrels,
    write_run,
)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "4983", "title": "Microstructural development", "text": "Alterations of the ...", "metadata": {}}\n'
        '{"_id": "5836", "title": "", "text": "Myelodysplastic syndromes", "metadata": {"url": ""}}\n'
    )
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "0", "text": "0-dimensional biomaterials", "metadata": {}}\n'
        '{"_id": "1", "text": "1 in 5 million", "metadata": {"4983": [{"sentences": [2]}]}}\n'
    )
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t4983\t2\n1\t5836\t0\n")
    return tmp_path


def test_beir(beir: Path) -> None:
    items, queries, qrels = read_beir(beir)
    assert items == {"4983": "Microstructural development Alterations of the ...", "5836": "Myelodysplastic syndromes"}
    assert queries == [Query("1 in 5 million", None, "1")]
    assert qrels == {"1": {"4983": 2, "5836": 0}}
    assert read_items(beir) == items
    assert [query.id for query in read_queries(beir)] == ["0", "1"]


def test_beir_with_the_gaps_of_fiqa_and_arguana(beir: Path) -> None:
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "33445", "title": "", "text": "", "metadata": {}}\n')
    with (beir / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("0\t33445\t1\n")
    with pytest.raises(InputError, match=r"corpus.jsonl, line 3: an item needs"):
        read_beir(beir)
    with pytest.warns(CrossKNNWarning) as warned:
        items, queries, qrels = read_beir(beir, strict=False)
    assert (list(items), [query.id for query in queries]) == (["4983", "5836"], ["0", "1"])
    assert qrels["0"] == {"33445": 1}
    assert "left out 1 items without text" in str(warned[0].message)
    assert "1 judgements cannot be met" in str(warned[1].message)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1\t4983\t1\n1\t9\t1\n", "line 3: the document '9' is not in corpus.jsonl"),
        ("7\t4983\t1\n", "line 2: the query '7' is not in queries.jsonl"),
        ("1\t4983\t1\n1\t4983\t1\n", "line 3: the corpus-id '4983' stands twice"),
        ("1\t4983\t0.5\n", "line 2: 'score' must be a whole number"),
        ("1 4983 1\n", "line 2: 'corpus-id' is missing or empty"),
        ("", "holds no judgements"),
    ],
)
def test_bad_beir_qrels(beir: Path, rows: str, message: str) -> None:
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    with pytest.raises(InputError, match=message):
        read_beir(beir)
    with pytest.raises(InputError, match=r"dev.tsv is not there; the splits of .* are \['test'\]"):
        read_beir(beir, "dev")


DOCUMENTS = """\
{"document_id": "000523A4D586C293", "title": "Warner", "text": "Warner Warner was a communications technician"}
{"document_id": "0009247003C7CB16", "title": "Winnie Tyler", "text": "Winnie Tyler was Jacob Tyler ' s wife"}
"""
MENTIONS = """\
{"mention_id": "A67C", "context_document_id": "0009247003C7CB16", "corpus": "doctor_who", "start_index": 3, \
"end_index": 6, "text": "Jacob Tyler ' s", "label_document_id": "000523A4D586C293", "category": "LOW_OVERLAP"}
{"mention_id": "B7C9", "context_document_id": "F284", "corpus": "military", "start_index": 178, "end_index": 182, \
"text": "C . W . Jessen", "label_document_id": "33B7", "category": "LOW_OVERLAP"}
"""


def _zeshel(folder: Path, mentions: str = MENTIONS) -> tuple[Path, Path]:
    (folder / "doctor_who.json").write_text(DOCUMENTS)
    (folder / "test.json").write_text(mentions)
    return folder / "doctor_who.json", folder / "test.json"


@pytest.mark.parametrize(
    ("max_words", "text"),
    [
        (96, "Winnie Tyler was [unused0] Jacob Tyler ' s [unused1] wife"),
        (7, "Tyler was [unused0] Jacob Tyler ' s [unused1] wife"),
        (6, "was [unused0] Jacob Tyler ' s [unused1] wife"),
        (2, "[unused0] Jacob Tyler ' s [unused1]"),
    ],
)
def test_zeshel(tmp_path: Path, max_words: int, text: str) -> None:
    items, queries = read_zeshel(*_zeshel(tmp_path), max_words=max_words)
    assert items["0009247003C7CB16"] == "Winnie Tyler [unused2] Winnie Tyler was Jacob Tyler ' s wife"
    assert queries == [Query(text, "000523A4D586C293", "A67C")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"start_index": 3', '"start_index": 2', 'line 1: words 2 to 6 of the context are "was Jacob Tyler'),
        ('"start_index": 3', '"start_index": -5', "line 1: words -5 to 6"),
        ('_id": "000523A4D586C293"', '_id": "X"', "line 1: the document 'X' is not in"),
        (
            '"context_document_id": "0009247003C7CB16"',
            '"context_document_id": "X"',
            "line 1: the document 'X' is not in",
        ),
        ("doctor_who", "starwars", "no mention with the corpus 'doctor_who'"),
        ('"mention_id": "A67C", ', "", "line 1: 'mention_id' is missing"),
    ],
)
def test_bad_zeshel(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_zeshel(*_zeshel(tmp_path, MENTIONS.replace(old, new)))


_ids = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), min_size=1).filter(
    lambda text: text.split() == [text]
)
_scores = st.dictionaries(_ids, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4)


@given(run=st.dictionaries(_ids, _scores, min_size=1, max_size=3))
def test_a_run_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, run: dict[str, dict[str, float]]) -> None:
    path = tmp_path_factory.mktemp("trec") / "run.txt"
    write_run(path, run)
    assert read_run(path) == run


def test_trec_files_as_others_write_and_read_them(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    write_run(path, {"301": {"FT1-2": -1.5, "FT9": 1 / 3, "FR7": 1 / 3}}, tag="axn")
    third = "0.3333333333333333"
    assert path.read_text() == f"301 Q0 FT9 1 {third} axn\n301 Q0 FR7 2 {third} axn\n301 Q0 FT1-2 3 -1.5 axn\n"
    path.write_text("301 0 FBIS3-10082\t1\r\n\n301\t0 FBIS3-10169 -2\n")
    qrels = {"301": {"FBIS3-10082": 1, "FBIS3-10169": -2}}
    assert read_qrels(path) == qrels
    write_qrels(path, qrels)
    assert path.read_text() == "301 0 FBIS3-10082 1\n301 0 FBIS3-10169 -2\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 Q0 d 1 0.5", "line 2: expected 'qid Q0 docno rank score tag', 6 fields, got 5"),
        ("1 Q0 d 1 high t", "line 2: 'score' must be a finite number, got 'high'"),
        ("1 Q0 d 1 nan t", "line 2: 'score' must be a finite number"),
        ("1 Q0 a 2 0.5 t", "line 2: the docno 'a' stands twice"),
    ],
)
def test_bad_runs_say_where_and_what(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(f"1 Q0 a 1 1.0 t\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_run(path)


def test_what_trec_files_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text("old")
    for key in ("a b", "", "a\u2028", "\ufeffa", "\ud800"):
        with pytest.raises(InputError, match=r"run.txt"):
            write_qrels(path, {"1": {key: 1}})
    for run in ({}, {"1": {"a": float("nan")}}):
        with pytest.raises(InputError):
            write_run(path, run)
    assert path.read_text() == "old"
    with pytest.raises(WriteError):
        write_run(tmp_path / "none" / "run.txt", {"1": {"a": 1.0}})
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty; lines of 'qid iter docno rel' are expected"):
        read_qrels(path)
