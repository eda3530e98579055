from pathlib import Path

import pytest

from crossknn.errors import InputError
from crossknn.inputs import read_items, read_queries


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.jsonl", '{"_id": "a", "title": "Cat", "text": "a \\u2028 pet"}\n\n{"id": 7, "text": "Dog, big"}\n'),
        ("items.csv", '\ufeffid,title,text\na,Cat,a \u2028 pet\n7,,"Dog, big"\n'),
    ],
)
def test_items_in_either_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_items(tmp_path / name) == {"a": "Cat a \u2028 pet", "7": "Dog, big"}


def test_queries_with_and_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"text": "meow", "label": "a"}\n{"query": "woof"}\n')
    assert [(q.text, q.label) for q in read_queries(path)] == [("meow", "a"), ("woof", None)]
    lines = tmp_path / "queries.txt"
    lines.write_text("meow\n\n woof \n")
    assert [q.text for q in read_queries(lines)] == ["meow", "woof"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"id": "a", "text": "t"}\n{"id": "a", "text": "u"}\n', "line 2: the id 'a' stands twice"),
        ("x.jsonl", b'{"id": "a", "text": "  "}\n', "line 1: an item needs"),
        ("x.jsonl", b'{"id": "a", "te', "line 1: no JSON"),
        ("x.jsonl", b"[1]\n", "line 1: expected an object"),
        ("x.jsonl", b'{"id": "a", "text": "caf\xe9"}\n', "not UTF-8"),
        ("x.jsonl", b"", "holds no items"),
        ("x.jsonl", b'{"id": 1.5, "text": "t"}\n', "'id' must be text or a whole number"),
        ("x.csv", b"id,text\na,b,c\n", "line 2: more fields"),
        ("x.csv", b"name\nb\n", "line 2: an item needs"),
        ("x.parquet", b"", "cannot tell the format"),
    ],
)
def test_bad_files_say_where_and_what(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_items(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read_queries(tmp_path / "none.jsonl")
