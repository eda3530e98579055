import datetime
import gzip
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossknn.errors import CrossKNNWarning, InputError, MissingExtraError
from crossknn.inputs import Query, read_items, read_metadata, read_queries
from crossknn.metadata import Metadata


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "items.jsonl",
            '{"_id": "a", "title": "Cat", "text": "a \\u2028 pet"}\n\n{"id": 7, "text": "\\"Dog\\", big"}\n',
        ),
        ("items.csv", '\ufeffid,title,text\r\na,Cat,a \u2028 pet\r\n7,,"""Dog"", big"\r\n'),
        ("items.tsv", 'id\ttitle\ttext\na\tCat\ta \u2028 pet\n7\t\t"Dog", big\n'),
    ],
)
def test_items_in_any_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    expected = {"a": "Cat a \u2028 pet", "7": '"Dog", big'}
    assert read_items(tmp_path / name) == read_items(tmp_path / f"{name}.gz") == expected


def test_items_and_queries_from_parquet_in_batches_and_row_groups(tmp_path: Path) -> None:
    n = 10_000
    columns = {
        "_id": range(n),
        "text": [f"t{i}" for i in range(n)],
        "vector": [[0.5]] * n,
        "title": [None, "T"] * (n // 2),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=3000)
    items = read_items(tmp_path / "x.parquet")
    assert list(items) == [str(i) for i in range(n)]
    assert (items["8"], items["9999"]) == ("t8", "T t9999")
    query = read_queries(tmp_path / "x.parquet")[9999]
    assert query == Query("t9999", None, "9999")


def test_queries_with_and_without_ids_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"text": "meow", "label": "a"}\n{"query": "woof", "_id": 3}\n')
    assert read_queries(path) == [Query("meow", "a"), Query("woof", None, "3")]
    lines = tmp_path / "queries.txt"
    lines.write_text("meow\n\n woof \n")
    assert [q.text for q in read_queries(lines)] == ["meow", "woof"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"id": "a", "text": "t"}\n{"id": "a", "text": "u"}\n', "line 2: the id 'a' stands twice"),
        ("x.jsonl", b'{"id": "a", "text": "  "}\n', "line 1: an item needs"),
        ("x.jsonl", b'{"id": "", "text": "t"}\n', "line 1: an item needs"),
        ("x.jsonl", b'{"text": "t"}\n', "line 1: an item needs"),
        ("x.jsonl", b'{"id": "a"}\n', "line 1: an item needs"),
        ("x.jsonl", b'{"id": "a", "te', "line 1: no JSON"),
        ("x.jsonl", b"[1]\n", "line 1: expected an object"),
        ("x.jsonl", b'{"id": "a", "text": "t"}\n{"id": "b", "text": "caf\xe9"}\n', "line 2: not UTF-8"),
        ("x.jsonl", b"", "holds no items"),
        ("x.jsonl", b'{"id": 1.5, "text": "t"}\n', "line 1: 'id' must be text or a whole number"),
        ("x.jsonl.gz", gzip.compress(b'{"id": "a", "text": "t"}\n' * 9, mtime=0)[:-20], "no whole gzip file"),
        ("x.jsonl.gz", b'{"id": "a", "text": "t"}\n', "no whole gzip file"),
        ("x.csv", b"id,text\na,b,c\n", "line 2: more fields"),
        ("x.csv", b"name\nb\n", "line 2: an item needs"),
        ("x.csv", b"id,id,text\na,b,c\n", "line 1: the header has 'id' twice"),
        ("x.jsonl", b'{"id": "a", "text": "half \\ud800"}\n', "line 1: 'text' is no valid Unicode"),
        ("x.csv", b'id,text\na,"cut o', "line 2: unexpected end of data"),
        ("x.csv", b"id,text\na,caf\xe9\n", "line 2: not UTF-8"),
        ("x.tsv", "id\ttext\n".encode("utf-16"), "line 1: not UTF-8"),
        ("x.csv", b"", "holds no items"),
        ("x.parquet", b"", "no whole Parquet file"),
        ("x.parquet", b"id,text\na,b\n", "no whole Parquet file"),
        ("x.xls", b"", "cannot tell the format"),
    ],
)
def test_bad_files_say_where_and_what(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_items(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"]}, r"has the columns \['name'\], and none of"),
        ({"id": ["a"]}, "row 1: an item needs"),
        ({"id": ["a", "b"], "text": ["t", None]}, "row 2: an item needs"),
        ({"id": [1.0], "text": ["t"]}, "row 1: 'id' must be text or a whole number"),
        ({"id": ["a"], "text": [b"t"]}, "row 1: 'text' must be text or a whole number"),
    ],
)
def test_bad_parquet_says_where_and_what(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        read_items(tmp_path / "x.parquet")


def test_parquet_that_is_cut_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"id": [str(i) for i in range(5000)], "text": [f"text {i}" for i in range(5000)]})
    pq.write_table(table, path, compression="snappy")
    whole = path.read_bytes()
    for content in (whole[:-50], whole[:4] + b"\xff" * 3000 + whole[3004:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no whole Parquet file"):
            read_items(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'crossknn\[parquet\]'"):
        read_items(tmp_path / "x.parquet")


def test_a_missing_file_a_folder_and_query_ids_that_repeat(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read_queries(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"corpus.jsonl is not there"):
        read_items(tmp_path)
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}\n')
    with pytest.raises(InputError, match=r"queries.jsonl, line 2: the id '1' stands twice"):
        read_queries(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "x.jsonl",
            '{"id": "a", "text": "x", "year": 1999, "zip": "01", "tags": ["p", "q"], "other": {}}\n'
            '{"_id": "b", "text": "y", "metadata": {"year": 2.5, "zip": "7"}}\n{"id": 3, "text": "z", "year": null}\n',
        ),
        ("x.csv", "id,text,year,zip,tags\na,x,1999,01,p\nb,y,2.5,7,\n3,z,,,\n"),
        ("x.tsv.gz", "id\ttext\tyear\tzip\ttags\na\tx\t1999\t01\tp\nb\ty\t2.5\t7\t\n3\tz\t\t\t\n"),
    ],
)
def test_metadata_in_any_format(tmp_path: Path, name: str, content: str) -> None:
    path, data = tmp_path / name, content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    tags = ["p", "q"] if name == "x.jsonl" else "p"
    assert read_metadata(path, ["year", "zip", "tags"]) == {
        "a": {"year": 1999, "zip": "01", "tags": tags},
        "b": {"year": 2.5, "zip": "7"},
        "3": {},
    }
    assert list(read_items(path)) == ["a", "b", "3"]
    with pytest.raises(InputError, match=r"no item of .* has the field 'yaer'; its fields are .*'year'"):
        read_metadata(path, ["yaer"])


def test_columns_of_csv_are_of_the_kind_that_all_their_values_are(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,text,there,price,code\na,x,True,10,7\nb,y,false,N/A,007\nc,z,,12.5,8\n")
    with pytest.warns(CrossKNNWarning, match="1 of 3 values of 'price' are no numbers .*such as 'N/A'"):
        found = read_metadata(path, ["there", "price", "code"])
    assert [row.get("there") for row in found.values()] == [True, False, None]
    assert [row["price"] for row in found.values()] == ["10", "N/A", "12.5"]
    assert [row["code"] for row in found.values()] == ["7", "007", "8"]
    texts = Metadata([{"there": "True"}])
    assert read_metadata(path, ["there"], joining=texts)["a"] == {"there": "True"}


def test_metadata_that_cannot_be_kept_says_where(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": "a", "n": 1}\n{"id": "b", "n": NaN}\n')
    with pytest.raises(InputError, match=r"items\.jsonl, line 2: a value of 'n' must be a text, a finite number"):
        read_metadata(path, ["n"])


def test_metadata_of_parquet_has_dates_as_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    days = pa.array([datetime.date(2020, 1, 2), None])
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", "y"], "day": days, "n": [1, 2]}), path)
    assert read_metadata(path, ["day", "n"]) == {"a": {"day": "2020-01-02", "n": 1}, "b": {"n": 2}}
