import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from crossknn import storage
from crossknn.cli.app import app
from crossknn.cli.models import absolute, around_encoder, open_scorer
from crossknn.cli.options import reader
from crossknn.errors import InputError, ScorerError, WriteError
from crossknn.files import sole_writer
from crossknn.scorers import cache_entries
from crossknn.scorers.http import VLLM, Cohere, HTTPScorer, Jina, RerankAPI
from crossknn.search import METHODS
from crossknn.server import ServerOptions

SCORER = """
import os, time
from crossknn import FunctionScorer

def score(pairs):
    if "TOUCH" in os.environ:
        open(os.environ["TOUCH"], "w").close()
    time.sleep(float(os.environ.get("SLEEP", "0")))
    return [len(set(query.split()) & set(item.split())) - 0.01 * len(item) for query, item in pairs]

scorer = FunctionScorer(score, name="words-in-common", batch_size=8)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Items, queries and a scorer module in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_scorer", raising=False)
    (tmp_path / "my_scorer.py").write_text(SCORER)
    words = ["red", "green", "blue", "round", "square", "big", "small"]
    items = [f"{a} {b} thing" for a in words for b in words if a != b]
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"id": f"i{n}", "text": t}) + "\n" for n, t in enumerate(items))
    )
    (tmp_path / "train.csv").write_text("text\nred round\nblue big\ngreen\n")
    (tmp_path / "test.jsonl").write_text('{"text": "small red", "label": "i36"}\n{"text": "square", "label": "i24"}\n')
    return tmp_path


def run(*args: str, exit_code: int = 0):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == exit_code, result.output
    return result


SCORED = ("--scorer", "python:my_scorer:scorer")
BUILD = ("build", "items.jsonl", *SCORED, "--out", "x.crossknn")
SEARCH = ("search", "x.crossknn", *SCORED)
EVALUATE = ("evaluate", "x.crossknn", *SCORED)


def test_build_search_evaluate(folder: Path) -> None:
    run(*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5")
    shown = run(*SEARCH, "small red", "--budget", "20", "-k", "2").output
    assert "small red thing" in shown
    assert "20 calls" in shown
    stopped = (*SEARCH, "small red", "--budget", "40", "-k", "2", "--target-recall", "0.2")
    found = json.loads(run(*stopped, "--json").output)
    assert 0.2 <= found["expected_recall"] <= 1
    assert f"{found['calls']} calls, {found['expected_recall']:.0%} of the exact top expected" in run(*stopped).output
    assert "target_recall must lie between 0 and 1, got 95.0" in run(*stopped[:-1], "95", exit_code=1).output
    hurried = run(*SEARCH, "small red", "--budget", "40", "--max-ms", "1e-6", "--json").output
    assert json.loads(hurried)["calls"] == 12  # ten hits, in rounds of four
    sharing = (*SEARCH, "small red", "blue", "--budget", "12", "-k", "2", "--share-budget")
    calls = [json.loads(line)["calls"] for line in run(*sharing, "--json").stdout.splitlines()]
    assert 20 < sum(calls) <= 24
    assert "max_ms cannot be kept" in run(*sharing, "--max-ms", "5", exit_code=1).output
    limited = ("--budget", "8", "--shortlist", "9", "-k", "8", "--json")
    near = json.loads(run(*SEARCH, "red", *limited).stdout)
    assert max(hit["first_stage_rank"] for hit in near["hits"]) <= 9
    found = [json.loads(line) for line in run(*SEARCH, "red", "blue", "--json").stdout.splitlines()]
    assert [result["query"] for result in found] == ["red", "blue"]
    assert found[0]["hits"][0].keys() == {"id", "score", "round", "first_stage_rank", "text", "metadata"}
    assert found[0]["calls"] == 42
    report = json.loads(
        run(*EVALUATE, "--queries", "test.jsonl", "--out", "r", "-k", "1", "--budget", "42", "--json").stdout
    )
    assert [cell["recall"]["1"]["mean"] for cell in report["cells"]] == [1.0, 1.0, 1.0]
    assert {path.name for path in (folder / "r").iterdir()} == {
        "exact",
        "report.html",
        "report.md",
        "report.json",
        "recall.png",
    }


def test_items_are_filtered_by_their_metadata(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    for n, row in enumerate(rows):
        row |= {"colour": row["text"].split()[0], "n": n, "even": n % 2 == 0}
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(*BUILD, "--metadata", "colour", "--metadata", "n", "--metadata", "even")

    def found(*conditions: str) -> set[int]:
        filters = [part for condition in conditions for part in ("--filter", condition)]
        hits = json.loads(run(*SEARCH, "thing", "-k", "42", *filters, "--json").output)["hits"]
        return {hit["metadata"]["n"] for hit in hits}

    assert found("colour=red") == set(range(6))
    assert found("colour=red", "colour=small") == {*range(6), *range(36, 42)}
    assert found("n>=3", "n < 40", "even = true", "colour!=green", "colour!=blue") == {4, *range(18, 40, 2)}
    for conditions, message in (
        (("shape=round",), "no item has the field 'shape'; the fields are 'colour', 'n', 'even'"),
        (("n=three",), "'n' is a field of number, and 'three' is none"),
        (("colour",), "cannot read the condition 'colour'; write 'field=value'"),
        (("n>1", "n>2"), "'n' has two conditions with '>'"),
        (("n=1", "n>2"), "'n' has a condition with '=' and others"),
    ):
        filters = [part for condition in conditions for part in ("--filter", condition)]
        assert message in run(*SEARCH, "thing", *filters, exit_code=1).output.replace("\n", " ")
    run("build", "items.jsonl", *SCORED, "--out", "y", "--metadata", "color", exit_code=1)
    assert not (folder / "y").exists()


def test_items_are_added_changed_and_removed(folder: Path) -> None:
    pytest.importorskip("sklearn")
    rows = [json.loads(line) | {"shape": "thing"} for line in (folder / "items.jsonl").read_text().splitlines()]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(*BUILD, "--first-stage", "tfidf", "--metadata", "shape")
    (folder / "new.csv").write_text("id,text,shape\nz1,purple thing,ring\ni0,red ring,ring\ni1,red blue thing,\n")
    (folder / "gone.txt").write_text("i2\n\ni3\ni2\n")
    (folder / "texts.csv").write_text("id,text\ni41,small big ring\n")
    run("update", "x.crossknn", "texts.csv", *SCORED)
    (small,) = json.loads(run(*SEARCH, "small big ring", "-k", "1", "--filter", "shape=thing", "--json").output)["hits"]
    assert (small["id"], small["text"]) == ("i41", "small big ring")  # what the file did not say stayed
    change = ("update", "x.crossknn", "new.csv", "--remove", "gone.txt", *SCORED)
    assert "1 items added, 1 changed, 2 removed; it has 41" in run(*change).output
    shown = json.loads(run(*SEARCH, "purple ring", "--filter", "shape=ring", "-k", "5", "--json").output)
    assert {hit["id"]: hit["text"] for hit in shown["hits"]} == {"z1": "purple thing", "i0": "red ring"}
    again = run(*change).output.replace("\n", " ")  # as a job that is tried again does
    assert "note: 2 of the 2 items to remove are not there, such as 'i2'" in again
    assert "0 items added, 0 changed, 0 removed; it has 41" in again
    same = json.loads(run("update", "x.crossknn", "items.jsonl", "--only-these", *SCORED, "--json").stdout)
    assert same == {"index": "x.crossknn", "added": 2, "changed": 2, "removed": 1, "items": 42}
    assert {row["id"] for row in rows} == {hit["id"] for hit in _all_hits("red")}
    for args, message in (
        ((), "there is nothing to change"),
        (("--only-these",), "--only-these needs ITEMS"),
        (("items.jsonl", "--only-these", "--remove", "gone.txt"), "--only-these needs ITEMS"),
        (("--remove", "train.csv"), "an 'id' is needed"),
        (("new.csv", "--metadata", "colour"), "has the field 'colour'"),
    ):
        assert message in run("update", "x.crossknn", *args, *SCORED, exit_code=1).output.replace("\n", " ")
    assert {row["id"] for row in rows} == {hit["id"] for hit in _all_hits("red")}
    said = run(*BUILD, "--first-stage", "tfidf").stderr.replace("\n", " ")
    assert "the index that was there had the fields shape to filter by: give --metadata for these" in said
    assert "was tuned" not in said


def test_what_is_added_is_of_the_kind_that_a_field_has(folder: Path) -> None:
    (folder / "codes.csv").write_text("id,text,code,n\na,red thing,A1,1\nb,blue thing,7,2\n")
    run("build", "codes.csv", *SCORED, "--out", "x.crossknn", "--metadata", "code", "--metadata", "n")
    (folder / "more.csv").write_text("id,text,code,n\nc,green thing,8,3\n")
    run("update", "x.crossknn", "more.csv", *SCORED)
    for condition, found in (("code=8", {"c"}), ("code=7", {"b"}), ("n>=2", {"b", "c"})):
        hits = json.loads(run(*SEARCH, "thing", "-k", "3", "--filter", condition, "--json").output)["hits"]
        assert {hit["id"] for hit in hits} == found
    (folder / "more.csv").write_text("id,text,n\nd,green thing,many\n")
    said = run("update", "x.crossknn", "more.csv", *SCORED, exit_code=1).output
    assert "'n' is a field of number in the index, and more.csv has text there" in said.replace("\n", " ")
    shown = run(*SEARCH, "thing", "-k", "3", "--filter", "code=a1")
    assert "the filter leaves no item" in shown.stderr


def test_a_target_falls_back_from_a_tuned_method_that_cannot_tell(folder: Path) -> None:
    pytest.importorskip("sklearn")
    run(*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5")
    opened = reader(Path("x.crossknn"), "python:my_scorer:scorer", None, "cpu", None)()
    opened.tune(["red", "small blue"], k=2, budget=12, methods=["rerank"])
    opened.save("x.crossknn")
    for told in (("--target-recall", "0.2"), ("--share-budget",)):
        asked = (*SEARCH, "small red", "blue", "-k", "2", "--budget", "20", *told, "--json")
        for line in run(*asked).stdout.splitlines():
            assert json.loads(line)["expected_recall"] is not None


@pytest.mark.parametrize("name", ["bm25", "random", "demo"])
def test_a_folder_of_the_name_of_a_first_stage_is_not_meant(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    assert absolute(name) == name
    assert absolute(f"hybrid:{name}x") == f"hybrid:{name}x"


def test_letters_that_the_terminal_does_not_have_are_spelt_out(folder: Path) -> None:
    (folder / "odd.jsonl").write_text('{"id": "a", "text": "snow \\u2603 \\ud83d\\ude00 man"}\n', encoding="utf-8")
    run("build", "odd.jsonl", *SCORED, "--out", "x.crossknn")
    command = [sys.executable, "-m", "crossknn.cli.entry", *SEARCH, "snow man", "-k", "1", "--budget", "1"]
    start = "import sys; from crossknn.cli.entry import main; sys.argv = sys.argv[1:]; main()"
    for more in ((), ("--json",)):
        said = subprocess.run(
            [command[0], "-c", start, "crossknn", *command[3:], *more],
            env=os.environ | {"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            check=True,
        )
        assert not said.stderr
        assert b"\\u2603" in said.stdout
    assert json.loads(said.stdout)["hits"][0]["text"] == "snow \u2603 \U0001f600 man"


def _all_hits(query: str) -> Any:
    return json.loads(run(*SEARCH, query, "-k", "42", "--json").output)["hits"]


def test_tune_chooses_and_search_obeys(folder: Path) -> None:
    run(*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5")
    colours = ["red", "green", "blue", "round", "square", "big", "small"]
    (folder / "dev.txt").write_text("\n".join([*colours, "red round"]))  # the last is a train query
    tune = ("tune", "x.crossknn", *SCORED, "--queries", "dev.txt", "-k", "2", "--budget", "8")
    shown = run(*tune).output
    assert "measured on 6 queries" in shown  # "green" is a train query as well
    tuned = json.loads(run(*tune, "--json").stdout)
    assert f"searched by {tuned['method']} with 8 calls" in shown
    low, high = tuned["interval"]
    assert low <= tuned["expected_recall"] <= high
    assert f"({100 * low:.1f} to {100 * high:.1f})" in shown
    assert json.loads(run(*SEARCH, "red", "--json", "-k", "2").output)["calls"] == 8
    assert "no method reaches" in run(*tune[:-1], "2", "--target-recall", "0.999", exit_code=1).output
    paid_for = folder / "x.crossknn" / storage.TUNING
    assert cache_entries(paid_for)[0].n_scores > 6 * 2  # for the next run, which ends this
    run(*tune)
    assert not list(paid_for.parent.glob(f"{storage.TUNING}*"))
    assert (
        "learned from every query" in run("tune", "x.crossknn", *SCORED, "--queries", "train.csv", exit_code=1).output
    )


def test_a_folder_may_look_like_markup(folder: Path) -> None:
    place = folder / "d[" / "bold]"
    place.parent.mkdir()
    assert "d[/bold]" in run(*BUILD[:-1], str(place)).output.replace("\n", "")
    tune = ("tune", str(place), *SCORED, "--queries", "test.jsonl", "--budget", "10", "-k", "2")
    assert "d[/bold] is now searched by" in run(*tune).output


def test_tuning_and_building_do_not_undo_each_other(folder: Path) -> None:
    run(*BUILD)
    tune = ("tune", "x.crossknn", *SCORED, "--queries", "test.jsonl", "--budget", "10", "-k", "2", "--limit", "2")
    with sole_writer(folder / "x.crossknn"):  # a build is under way
        refused = run(*tune, "--cache", "scores.sqlite", exit_code=1).output
    assert "being written by another command" in refused
    assert not (folder / "scores.sqlite").exists()  # nothing was spent
    environment = os.environ | {"SLEEP": "0.2", "PYTHONPATH": str(folder), "TOUCH": str(folder / "asked")}
    command = [sys.executable, "-c", "from crossknn.cli.entry import main; main()"]
    tuning = subprocess.Popen([*command, *tune], env=environment, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not (folder / "asked").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "being written by another command" in run(*BUILD, exit_code=1).output
    assert "recall of the top 2" in tuning.communicate(timeout=60)[0]
    assert tuning.returncode == 0
    assert storage.load(folder / "x.crossknn").config["tuning"]["k"] == 2
    run("tune", "none.crossknn", *SCORED, "--queries", "test.jsonl", exit_code=1)
    assert not (folder / "none.crossknn").exists()
    run(*tune, "--seed", "-1", exit_code=2)


def test_two_builds_at_once_of_two_processes(folder: Path) -> None:
    environment = os.environ | {"SLEEP": "0.05", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", "from crossknn.cli.entry import main; main()", *BUILD, "--queries", "train.csv"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert sum("being written by another command" in text for text in said) == 1
    assert storage.load(folder / "x.crossknn").config["n_items"] == 42


def test_a_damaged_or_busy_cache_is_said_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*BUILD, "--queries", "train.csv", "--cache", "scores.sqlite")
    monkeypatch.setattr("crossknn.scorers.cached._WAIT_SECONDS", 0.05)
    other = sqlite3.connect(folder / "scores.sqlite")
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM scores")
    assert "database is locked" in run("cache", "clear", "scores.sqlite", exit_code=1).output.replace("\n", " ")
    other.rollback()
    other.close()
    content = bytearray((folder / "scores.sqlite").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (folder / "scores.sqlite").write_bytes(content)
    for what in ("info", "clear"):
        assert "cannot be used as a score cache" in run("cache", what, "scores.sqlite", exit_code=1).output.replace(
            "\n", " "
        )


def test_cur_is_built_from_dense_rows_and_compared(folder: Path) -> None:
    dense = ("--queries", "train.csv", "--plan", "all-items", "--factorization", "cur")
    assert "AllItems" in run(*BUILD, *dense, "--max-calls", "41", exit_code=1).output
    assert "--top and --uniform" in run(*BUILD, *dense, "--top", "1", exit_code=1).output
    run(*BUILD, *dense)
    asked = ("--method", "adacur", "--method", "anncur", "--budget", "42", "-k", "1", "--json")
    report = json.loads(run(*EVALUATE, "--queries", "test.jsonl", "--out", "r", *asked).stdout)
    assert report["baseline"] == "adacur"
    assert [cell["recall"]["1"]["mean"] for cell in report["cells"]] == [1.0, 1.0]
    assert "dense first stage" in run(*SEARCH, "red", "--method", "tour-ce", exit_code=1).output


def test_tfidf_over_a_beir_folder(folder: Path) -> None:
    (folder / "items.jsonl").rename(folder / "corpus.jsonl")
    run("build", ".", *BUILD[2:], "--first-stage", "tfidf")
    assert "small red thing" in run(*SEARCH, "small red", "--budget", "20", "-k", "2").output


def test_a_hybrid_first_stage_is_found_again_from_another_folder(
    folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.encoder(folder / "encoder")
    run(*BUILD, "--first-stage", "hybrid:encoder", "--queries", "train.csv", "--top", "5", "--uniform", "5")
    asked = ("small red", "--budget", "20", "-k", "2")
    here = json.loads(run(*SEARCH, *asked, "--json").stdout)["hits"]
    assert {hit["text"] for hit in here} == {"small red thing", "red small thing"}
    monkeypatch.syspath_prepend(str(folder))  # the scorer's module
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert json.loads(run("search", "../x.crossknn", *SEARCH[2:], *asked, "--json").stdout)["hits"] == here


def test_states_are_those_of_the_scorer_that_is_named(folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.encoder(folder / "encoder")
    tiny.cross_encoder(folder / "ce", states=True)
    tiny.cross_encoder(folder / "shut")
    build = ("build", "items.jsonl", "--out", "x.crossknn", "--first-stage", "states:encoder")
    run(*build, "--scorer", "ce", "--cache", "scores.sqlite", "--queries", "train.csv", "--top", "5", "--uniform", "5")
    monkeypatch.chdir(folder.parent)
    found = json.loads(run("search", str(folder / "x.crossknn"), "small red", "--budget", "20", "--json").stdout)
    assert found["calls"] == 20
    monkeypatch.chdir(folder)
    assert "shows its logit alone" in run(*build, "--scorer", "shut", exit_code=1).stderr
    assert "0 cross-encoder calls" in (said := run(*build, "--scorer", "ce", "--dry-run").output)
    assert "and 42 items to be read" in said
    asked = (*build, "--scorer", "ce", "--queries", "train.csv", "--top", "5", "--uniform", "5", "--dry-run", "--json")
    price = json.loads(run(*asked).stdout)
    assert (price["calls"], price["read"]) == (30, 42)
    assert price["seconds"] == pytest.approx(72 / price["calls_per_second"])

    def fails(*_: Any, **__: Any) -> None:
        raise ScorerError("no connection")

    other = ("build", "items.jsonl", "--out", "y.crossknn", *asked[4:])
    with monkeypatch.context() as patched:
        patched.setattr("crossknn.learning.collect_scores", fails)
        assert "no connection" in run(*other[:-2], exit_code=1).stderr
    assert json.loads(run(*other).stdout)["read"] == 0
    for wrong, message in (
        ("states:states:encoder", "beside them already"),
        ("hybrid:states:encoder", "hybrid takes a dual encoder"),
    ):
        assert message in run(*build[:-1], wrong, "--scorer", "ce", exit_code=1).stderr
    assert (
        "a FunctionScorer shows no hidden states" in run(*BUILD, "--first-stage", "states:encoder", exit_code=1).stderr
    )


def test_the_price_is_said_and_nothing_is_written(folder: Path) -> None:
    asked = (*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5", "--dry-run")
    assert "30 cross-encoder calls" in run(*asked).output
    assert "20 cross-encoder calls" in run(*asked, "--max-calls", "20").output
    assert "0 cross-encoder calls" in run(*BUILD, "--dry-run").output
    price = json.loads(run(*asked, "--json").stdout)
    assert (price["calls"], price["done"], price["tried"]) == (30, 0, 30)
    assert price["seconds"] == pytest.approx(30 / price["calls_per_second"])
    assert not (folder / "x.crossknn").exists()
    built = json.loads(run(*asked[:-1], "--json").stdout)
    assert built.pop("seconds") > 0
    assert built == {"index": "x.crossknn", "items": 42, "train_queries": 3, "calls": 30}


def test_the_price_is_less_by_what_an_interrupted_build_has_done(folder: Path) -> None:
    build = (*BUILD, "--queries", "train.csv", "--plan", "all-items")
    (folder / "train.csv").write_text("text\n" + "".join(f"red {n}\n" for n in range(10)))
    fails = 'if any(query == "red 8" for query, _ in pairs): raise RuntimeError\n    return'
    (folder / "my_scorer.py").write_text(SCORER.replace("return", fails))
    assert "RuntimeError" in run(*build, exit_code=1).stderr
    (folder / "my_scorer.py").write_text(SCORER)
    sys.modules.pop("my_scorer")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file() and path.suffix != ".pyc"}

    before = files()
    asked = run(*build, "--dry-run").output
    assert "420 cross-encoder calls, of which an interrupted build has done 256 (with the same plan and seed)" in asked
    assert "164 cross-encoder calls, about" in asked
    assert "another run" in run(*build, "--dry-run", "--max-calls", "300", exit_code=1).stderr
    assert files() == before
    run(*build)
    assert "420 cross-encoder calls, about" in run(*build, "--dry-run").output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("build", "none.csv", "--scorer", "demo", "--out", "x"), "none.csv is not there"),
        (("build", "items.jsonl", "--scorer", "nothing", "--out", "x"), "no scorer 'nothing'"),
        (
            ("build", "items.jsonl", "--scorer", "python:my_scorer:none", "--out", "x"),
            "cannot import the scorer 'none'",
        ),
        ((*BUILD[:-1], "."), "is no crossknn index"),
        ((*BUILD, "--first-stage", "nothing"), "no first stage 'nothing'"),
        ((*BUILD, "--first-stage", "hybrid:bm25"), "hybrid takes a dual encoder"),
        ((*BUILD, "--first-stage", "late:bm25"), "late takes a bi-encoder"),
        ((*BUILD, "--first-stage", "states:bm25"), "states takes a dual encoder"),
    ],
)
def test_errors_are_one_line_with_exit_code_1(folder: Path, args: tuple[str, ...], message: str) -> None:
    result = run(*args, exit_code=1)
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.output


def test_what_stands_in_place_of_an_index_is_said(folder: Path) -> None:
    run(*BUILD)
    for made in ("half/collecting", "model/onnx", "empty"):
        (folder / made).mkdir(parents=True)
    (folder / "half" / "collecting" / "ledger.json").write_text("{}")
    (data,) = (folder / "x.crossknn").glob("data-*")
    for path, said in (
        ("none", "nothing is there; crossknn build makes one"),
        ("items.jsonl", "it is a file"),
        ("half", "its build did not finish; run the same build again"),
        ("half/collecting", "its build did not finish; run the same build again"),
        ("model", "it holds a model; --scorer and --first-stage name models"),
        ("empty", "the folder has no manifest.json"),
        (".", "the folder has one in it; name x.crossknn"),
        (str(data), f"it is a part of the index {folder / 'x.crossknn'}"),
        (str(data / "items.jsonl"), f"it is a part of the index {folder / 'x.crossknn'}"),
        ("x.crossknn/manifest.json", f"it is a part of the index {folder / 'x.crossknn'}"),
    ):
        for command in (("search", path, "red"), ("verify", path)):
            assert f"error: there is no index at {path}: {said}" in run(*command, exit_code=1).stderr


def test_a_module_that_only_an_index_names_is_not_run(folder: Path) -> None:
    run(*BUILD)
    (folder / "my_scorer.py").write_text("from pathlib import Path\nPath('stolen').touch()\n" + SCORER)
    sys.modules.pop("my_scorer")
    for command in (
        ("search", "x.crossknn", "red"),
        ("evaluate", "x.crossknn", "--queries", "test.jsonl", "--out", "r"),
    ):
        said = run(*command, exit_code=1).stderr
        assert "would be imported and run; if you trust it, give it yourself: --scorer python:my_scorer:scorer" in said
    run("verify", "x.crossknn")
    assert "my_scorer" not in sys.modules
    assert not (folder / "stolen").exists()
    run(*SEARCH, "red")
    assert (folder / "stolen").exists()


def test_a_model_that_has_moved_is_said_to_be_remembered(folder: Path) -> None:
    run(*BUILD)
    manifest = folder / "x.crossknn" / "manifest.json"
    stored = json.loads(manifest.read_text())
    stored["config"]["notes"] |= {"scorer": "gone", "first_stage": "lost"}
    stored["sha256"] = storage._digest_manifest(stored)
    manifest.write_text(json.dumps(stored))
    assert "no scorer 'gone'" in run("search", "x.crossknn", "red", exit_code=1).stderr
    for command, remembered in ((("search", "x.crossknn"), "--scorer"), (SEARCH, "--first-stage")):
        assert f"where it has moved, name {remembered})" in run(*command, "red", exit_code=1).stderr
    assert "remembers" not in run("search", "x.crossknn", "red", "--scorer", "nothing", exit_code=1).stderr
    run(*SEARCH, "red", "--first-stage", "bm25")


@pytest.mark.parametrize("command", ["build", "evaluate", "benchmark", "demo"])
def test_where_nothing_can_be_written_it_is_said_in_one_line(folder: Path, command: str) -> None:
    pytest.importorskip("crossknn_demo")
    run(*BUILD, "--queries", "train.csv")
    given = {
        "build": ("items.jsonl", *SCORED, "--queries", "train.csv"),
        "evaluate": ("x.crossknn", *SCORED, "--queries", "test.jsonl"),
        "benchmark": ("items.jsonl", *SCORED, "--first-stage", "bm25", *FILES, "--system", "rerank"),
        "demo": (),
    }[command]
    before = sorted(folder.rglob("*"))
    said = run(command, *given, "--out", "test.jsonl/new", exit_code=1).stderr.splitlines()[-1]
    assert said.startswith("error: cannot write test.jsonl/new: Not a directory")
    assert sorted(folder.rglob("*")) == before


def test_a_query_of_ten_thousand_characters_is_answered(folder: Path) -> None:
    run(*BUILD, "--queries", "train.csv")
    query = "small red " * 1_000
    (hit,) = json.loads(run(*SEARCH, query, "-k", "1", "--json").stdout)["hits"]
    assert hit["text"] == "red small thing"
    assert len(run(*SEARCH, query, "-k", "1").stdout) < 1_000


def test_bad_searches(folder: Path) -> None:
    run(*BUILD)
    for args, message in (
        ((), "there is no query"),
        (("  ",), "a query must be a text that is not empty"),
        (("x", "-k", "0"), "k must be a whole number of at least 1"),
        (("x", "-k", "5", "--budget", "4"), "budget is 4, but k=5"),
    ):
        assert message in run(*SEARCH, *args, exit_code=1).stderr


def _names(group: Any, before: str = "") -> list[str]:
    return [
        name
        for own, command in group.commands.items()
        for name in (_names(command, f"{own} ") if hasattr(command, "commands") else [before + own])
    ]


@pytest.mark.parametrize("command", _names(get_command(app)))
def test_every_help_has_an_example(command: str) -> None:
    assert f"Example: crossknn {command}" in run(*command.split(), "--help").output


def test_ctrl_c_keeps_what_was_scored(folder: Path) -> None:
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = f"{heard}from crossknn.cli.entry import main; main()"
    command = [sys.executable, "-c", program, *BUILD, "--queries", "train.csv"]
    env = os.environ | {"SLEEP": "0.4"}
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (folder / "x.crossknn" / "collecting" / "ledger.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    run(*BUILD, "--queries", "train.csv")
    assert "thing" in run(*SEARCH, "red").output


_INTERRUPTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, *args):
        if name == asked:
            os.kill(os.getpid(), signal.SIGINT)

asked = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, signal.default_int_handler)
from crossknn.cli.entry import main
main()
"""


@pytest.mark.parametrize(
    ("while_importing", "args"),
    [
        ("crossknn.cli.app", ("--help",)),
        ("typer.main", ("--help",)),
        ("numpy.linalg", ("--help",)),
        ("onnxruntime", ("--help",)),
        ("my_scorer", BUILD),
        ("bm25s", BUILD),
    ],
)
def test_ctrl_c_is_answered_in_one_line_while_the_command_imports(
    folder: Path, while_importing: str, args: tuple[str, ...]
) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, while_importing, *args]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (130, "")
    assert ran.stderr.splitlines()[-1].startswith("interrupted")
    assert len(ran.stderr.splitlines()) == 1 + (while_importing == "bm25s")  # the build had said what it would do


def test_without_item_vectors_the_command_reranks_and_says_so(folder: Path) -> None:
    assert "no item vectors" in run(*BUILD).stderr
    assert "red small thing" in run(*SEARCH, "small red", "-k", "1", "--budget", "5").output
    report = json.loads(run(*EVALUATE, "--queries", "test.jsonl", "--out", "r", "-k", "1", "--json").stdout)
    assert {cell["method"] for cell in report["cells"]} == {"rerank"}
    assert {cell["budget"] for cell in report["cells"]} == {42}  # no more than there are items
    assert "reranking has no rounds to set" in run(*SEARCH, "red", "--rounds", "3", exit_code=1).stderr


def test_an_evaluation_that_cannot_work_costs_nothing(folder: Path) -> None:
    run(*BUILD, "--queries", "train.csv")
    (folder / "bad.jsonl").write_text('{"text": "square thing", "label": "nowhere"}\n')
    for args, message in (
        (("--queries", "bad.jsonl"), "'nowhere' is no item"),
        (("--queries", "test.jsonl", "-k", "50", "--budget", "10"), "recall needs k <= budget"),
        (("--queries", "test.jsonl", "--mixing", "0.5"), "set mixing=0"),
    ):
        assert message in run(*EVALUATE, *args, "--out", "r", exit_code=1).stderr
        assert not list(folder.glob("r/exact/*/shard-*"))
    same = run(*EVALUATE, "--queries", "test.jsonl", "--out", "x.crossknn", exit_code=1)
    assert "a folder of its own" in same.stderr


def test_repeated_train_queries_are_paid_for_once(folder: Path) -> None:
    (folder / "train.csv").write_text("text\n" + "red round\n" * 3)
    asked = run(*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5", "--dry-run")
    assert "10 cross-encoder calls" in asked.output


def test_what_the_terminal_would_obey_is_not_printed(folder: Path) -> None:
    (folder / "items.jsonl").write_text(json.dumps({"id": "a\tb", "text": "red \x1b[31m thing\n" + "x" * 9000}) + "\n")
    run(*BUILD)
    shown = run(*SEARCH, "red", "-k", "1").output
    assert "\x1b" not in shown
    assert len(shown) < 2000


def test_a_damaged_index_can_be_built_again(folder: Path) -> None:
    run(*BUILD)
    (folder / "x.crossknn" / "manifest.json").write_text("{")
    assert "build the index again" in run(*SEARCH, "red", exit_code=1).stderr
    run(*BUILD)
    assert "thing" in run(*SEARCH, "red").output


def test_a_cache_answers_what_was_asked_before(folder: Path) -> None:
    run(*BUILD, "--queries", "train.csv", "--cache", "scores.sqlite")
    run(*SEARCH, "small red", "--cache", "scores.sqlite", "--budget", "20")
    before = run("cache", "info", "scores.sqlite").output
    assert "function:words-in-common" in before
    (folder / "my_scorer.py").write_text(SCORER.replace("time.sleep", "raise SystemExit"))
    sys.modules.pop("my_scorer")
    again = run(*SEARCH, "small red", "--cache", "scores.sqlite", "--budget", "20", "-k", "2").output
    assert "small red thing" in again
    assert run("cache", "info", "scores.sqlite").output == before
    forgotten = int(run("cache", "clear", "scores.sqlite", "--model", "function:words-in-common").output.split()[1])
    assert f"{forgotten} scores" in before.replace(",", "")
    assert "0 scores" in run("cache", "info", "scores.sqlite").output
    assert "no score cache" in run("cache", "info", "nowhere.sqlite", exit_code=1).stderr


def test_verify_finds_a_flipped_bit_in_any_file(folder: Path) -> None:
    run(*BUILD, "--queries", "train.csv")
    assert "is whole: 42 items, 3 train queries" in run("verify", "x.crossknn").output
    files = [path for path in (folder / "x.crossknn").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
        assert "damaged" in run("verify", "x.crossknn", exit_code=1).stderr
        path.write_bytes(content)
    run("verify", "x.crossknn")


def test_the_longest_input_may_stand_behind_a_model(folder: Path, tiny: Any) -> None:
    spec = f"{tiny.cross_encoder(folder / 'ce').name}#max_length=20"
    assert open_scorer(spec).fingerprint.model.endswith("max_length=20")
    assert absolute(spec) == str(folder.resolve() / spec)
    for wrong, message in (("max_length=7", "8 or more"), ("max_length=x", "8 or more"), ("float16", "exported in")):
        with pytest.raises(InputError, match=message):
            open_scorer(f"ce#{wrong}")


@pytest.mark.parametrize(
    ("spec", "api"),
    [
        ("vllm:http://host:8000#bge", VLLM("http://host:8000", model="bge")),
        ("cohere:rerank-v3.5", Cohere(model="rerank-v3.5")),
        ("jina:m0", Jina(model="m0")),
    ],
)
def test_services_are_named_by_kind_and_model(spec: str, api: RerankAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSKNN_API_KEY", "sk-secret")
    scorer = open_scorer(spec)
    assert scorer.fingerprint == HTTPScorer(api).fingerprint
    assert scorer._client.api.api_key == "sk-secret"  # type: ignore[attr-defined]


def test_a_key_is_not_sent_to_an_address_that_only_an_index_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSKNN_API_KEY", "sk-secret")
    scorer = open_scorer("vllm:http://host:8000#bge", named=False)
    assert scorer._client.api.api_key is None  # type: ignore[attr-defined]


def test_a_service_needs_a_model_and_an_address() -> None:
    for spec, message in (("vllm:http://host:8000", "name of the model"), ("tei:localhost", "url must be like")):
        with pytest.raises(InputError, match=message):
            open_scorer(spec)


def test_any_method_of_the_library_may_be_named(folder: Path) -> None:
    told = run("evaluate", "--help").output.replace("\n", " ")
    assert all(name in told for name in METHODS)
    run(*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5")
    methods = ("rerank", "axn-r5", "axn", "gar-r3")
    chosen = [part for name in methods for part in ("--method", name)]
    asked = (*EVALUATE, "--queries", "test.jsonl", "--out", "r", *chosen, "--budget", "10", "-k", "1", "--json")
    assert list(dict.fromkeys(cell["method"] for cell in json.loads(run(*asked).stdout)["cells"])) == list(methods)
    assert "no method 'best'" in run(*SEARCH, "red", "--method", "best", exit_code=1).output
    run(*SEARCH, "red", "--method", "gar", "--rounds", "3")
    assert (
        "rerank has no rounds to set" in run(*SEARCH, "red", "--method", "rerank", "--rounds", "3", exit_code=1).output
    )


BENCHMARK = ("benchmark", "items.jsonl", "--scorer", "python:my_scorer:scorer", "--first-stage", "bm25", "--out", "b")
FILES = ("--train-queries", "train.csv", "--queries", "test.jsonl")


def test_benchmark_pays_once_and_tells_offline_costs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = ("--system", "rerank", "--system", "adacur:cur@2")
    args = (*BENCHMARK, *FILES, *systems, "-k", "1", "--budget", "5", "--budget", "10")
    first = json.loads(run(*args, "--json").stdout)
    assert [cell["method"] for cell in first["cells"]] == ["rerank", "adacur:cur@2"] * 2
    assert first["offline"]["adacur:cur@2"]["calls"] == 2 * 42
    assert set(first["exact_task"]) == {"accuracy"}
    page = (folder / "b" / "report.html").read_text()
    assert "What the index cost" in page
    assert "after 84 calls offline" in page
    assert f"{(2 + 2) * 42} scores" in run("cache", "info", "b/scores.sqlite").output
    monkeypatch.setitem(os.environ, "SLEEP", "100")  # a call would be noticed
    again = json.loads(run(*args, "--json").stdout)
    assert [cell["recall"] for cell in again["cells"]] == [cell["recall"] for cell in first["cells"]]


def test_benchmark_and_evaluate_of_judged_queries(folder: Path) -> None:
    pytest.importorskip("ir_measures")
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text((folder / "items.jsonl").read_text().replace('"id"', '"_id"'))
    (beir / "queries.jsonl").write_text(
        "".join(f'{{"_id": "q{n}", "text": "{text}"}}\n' for n, text in enumerate(["small red", "blue", "big round"]))
    )
    for split, judged in (("other", ["q0\ti36\t1"]), ("test", ["q1\ti12\t2", "q2\ti33\t1", "q2\ti0\t0"])):
        (beir / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")
    args = ("benchmark", str(beir), *BENCHMARK[2:], "-k", "1", "--budget", "42", "--json", "--system", "rerank")
    assert len(json.loads(run(*args).stdout)["cells"]) == 1  # needs no train queries
    assert "there are 0" in run(*args, "--system", "adacur:cur@1", exit_code=1).stderr
    report = json.loads(run(*args, "--system", "adacur:cur@1", "--train-split", "other").stdout)
    assert report["n_queries"] == 2
    assert report["context"]["data"]["name"] == "beir"  # no folder of the machine
    assert set(report["exact_task"]) == {"nDCG@10", "R@100"}
    assert report["exact_task"]["R@100"]["mean"] == 1.0
    assert report["cells"][1]["task"] == report["exact_task"]  # it scored everything

    run(*BUILD)
    (folder / "qrels.txt").write_text("q1 0 i12 2\nq2 0 i33 1\n")
    asked = (*EVALUATE, "--out", "e", "-k", "1", "--budget", "42", "--qrels", "qrels.txt", "--json")
    (folder / "asked.jsonl").write_text("".join((beir / "queries.jsonl").read_text().splitlines(keepends=True)[1:]))
    assert json.loads(run(*asked, "--queries", "asked.jsonl").stdout)["exact_task"] == report["exact_task"]
    assert "nothing relevant to the query 'q0'" in run(*asked, "--queries", "beir/queries.jsonl", exit_code=1).stderr
    assert "has no id" in run(*asked, "--queries", "train.csv", exit_code=1).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*BENCHMARK, "--queries", "test.jsonl"), "a file needs --train-queries and --queries"),
        (("benchmark", "icd10cm-10k", *BENCHMARK[2:], *FILES), "has queries of its own"),
        (("benchmark", "icd10cm-10k", *BENCHMARK[2:], "--split", "index_train"), "there are dev and test"),
        (("benchmark", "icd10cm-10k", *BENCHMARK[2:], "--train-split", "test"), "there are index_train and dev"),
        ((*BENCHMARK, *FILES, "--system", "axn mf"), "'axn mf' is no system"),
        ((*BENCHMARK, *FILES, "--system", "axn:distilled@2"), "must be a sentence-transformers model"),
        ((*BENCHMARK, *FILES, "--system", "axn", "-k", "1"), "axn needs item vectors; give it a learner"),
        (
            (*BENCHMARK, *FILES, "--system", "axn/random:mf@1"),
            "axn/random:mf@1 needs the vectors of a dense first stage",
        ),
        ((*BENCHMARK, *FILES, "--compare", "axn", "-k", "1"), "name two systems with a comma between"),
        ((*BENCHMARK, *FILES, "--system", "rerank", "--compare", "axn,rerank"), "is to be compared, and is not among"),
    ],
)
def test_benchmarks_that_cannot_be_run_say_why(folder: Path, args: tuple[str, ...], message: str) -> None:
    pytest.importorskip("simple_icd_10_cm")
    assert message in run(*args, exit_code=1).stderr


def test_a_service_is_closed_to_the_world_unless_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("crossknn.server.process.run_server", lambda folder, read, *settings: started.append(settings))
    monkeypatch.delenv("CROSSKNN_TOKEN", raising=False)
    run(*BUILD)
    run("serve", "x.crossknn", *SCORED)
    options, host, port, examples, _ = started.pop()
    assert (host, port, examples, options) == ("127.0.0.1", 8080, None, ServerOptions())
    assert options.allow_origins == ()
    monkeypatch.setenv("CROSSKNN_TOKEN", "sesame")
    told = ("--host", "0.0.0.0", "--port", "1", "--queue", "7", "--max-budget", "9", "--deadline", "3", "--batch", "5")
    run("serve", "x.crossknn", *SCORED, *told, "--wait", "4", "--allow-origin", "https://a.example", "--example", "red")
    options, host, port, examples, _ = started.pop()
    assert (host, port, examples) == ("0.0.0.0", 1, ["red"])
    assert options == ServerOptions(
        token="sesame",
        queue=7,
        max_budget=9,
        deadline_seconds=3,
        batch_pairs=5,
        wait_ms=4,
        allow_origins=("https://a.example",),
    )


def test_an_address_that_is_taken_or_is_none_is_said_in_one_line(folder: Path) -> None:
    pytest.importorskip("uvicorn")
    run(*BUILD)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = run("serve", "x.crossknn", *SCORED, "--port", port, exit_code=1).stderr
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in said
    assert "try another --port or --host" in said
    assert (
        "cannot listen at no.such.host"
        in run("serve", "x.crossknn", *SCORED, "--host", "no.such.host", exit_code=1).stderr
    )


@pytest.mark.torch
def test_a_precision_is_part_of_a_scorers_name(folder: Path, tiny_torch: Any) -> None:
    pytest.importorskip("sentence_transformers")
    named = f"st:{tiny_torch.cross_encoder(folder / 'ce').name}#bfloat16"
    run("build", "items.jsonl", "--scorer", named, "--first-stage", "bm25", "--out", "x.crossknn")
    config = storage.read_manifest(Path("x.crossknn"))["config"]
    assert config["notes"]["scorer"] == f"st:{folder.resolve()}/{named.removeprefix('st:')}"
    assert "bfloat16" in str(config)
    assert "red" in run("search", "x.crossknn", "red thing", "--budget", "20").output
    (folder / "ce").rename(folder / "ce#1")  # a folder's own name is no precision
    assert "float32" in open_scorer(f"st:{folder / 'ce#1'}").fingerprint.model
    (folder / "ce#1").rename(folder / "ce")
    with pytest.raises(InputError, match=r"in abacus8: "):
        open_scorer(named.replace("bfloat16", "abacus8"))


@pytest.mark.parametrize(
    ("spec", "before", "encoder"),
    [
        ("bm25", "", "bm25"),
        ("st:A", "", "st:A"),
        ("states:hybrid:st:A", "states:hybrid:", "st:A"),
        ("late:states:st:A", "late:st:A+states:", "st:A"),
        ("late:st:A+hybrid:st:B", "late:st:A+hybrid:", "st:B"),
    ],
)
def test_the_encoder_of_a_first_stage_and_what_stands_before_it(spec: str, before: str, encoder: str) -> None:
    assert around_encoder(spec) == (before, encoder)


@pytest.mark.torch
def test_a_distilled_encoder_is_a_first_stage(folder: Path, tiny_torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("sentence_transformers")
    encoder = tiny_torch.encoder(folder)
    run(*BUILD, "--first-stage", f"st:{encoder}", "--queries", "train.csv", "--top", "5", "--uniform", "5")
    said = run("distill", "x.crossknn", *SCORED, "--out", "tuned", "--epochs", "2").output
    assert "--first-stage st:tuned" in said
    assert not (folder / "tuned" / "distillation.pt").exists()
    before, after = (library.SentenceTransformer(str(p), device="cpu").encode("red thing") for p in (encoder, "tuned"))
    assert abs(before - after).max() > 1e-6
    run("build", "items.jsonl", *SCORED, "--first-stage", "st:tuned", "--out", "y.crossknn")
    run("search", "y.crossknn", *SCORED, "red")
    again = ("distill", "x.crossknn", *SCORED, "--out", "again", "--index", "z.crossknn", "--max-length", "5")
    with monkeypatch.context() as full:
        full.setattr("crossknn.index.Index.save", lambda *_: (_ for _ in ()).throw(WriteError("the disk is full")))
        assert "the disk is full" in run(*again, exit_code=1).output
    said = run(*again).output
    assert not (folder / "again" / "distillation.pt").exists()
    assert "learned z.crossknn from the same scores" in said
    run("search", "z.crossknn", *SCORED, "red")
    assert storage.read_manifest(Path("z.crossknn"))["config"]["notes"]["first_stage"] == f"st:{folder / 'again'}"
    same = ("distill", "x.crossknn", *SCORED, "--out", "enc", "--index")
    for taken in ("x.crossknn", "enc"):
        assert "choose a folder of its own" in run(*same, taken, exit_code=1).output
    assert not (folder / "enc").exists()
    assert "holds a model already" in run("distill", "x.crossknn", *SCORED, "--out", "tuned", exit_code=1).output
    assert "no scores to learn from" in run("distill", "y.crossknn", *SCORED, "--out", "z", exit_code=1).output
    pytest.importorskip("sklearn")
    run(*BUILD, "--first-stage", f"hybrid:st:{encoder}", "--queries", "train.csv", "--top", "5", "--uniform", "5")
    assert "--first-stage hybrid:st:beside" in run("distill", "x.crossknn", *SCORED, "--out", "beside").output
    run(*BUILD, "--first-stage", f"late:st:{encoder}", "--queries", "train.csv", "--top", "5", "--uniform", "5")
    assert "red thing" in run(*SEARCH, "red thing", "--budget", "20").output
    said = run("distill", "x.crossknn", *SCORED, "--out", "both", "--index", "late.crossknn").output
    assert "learned late.crossknn" in said
    told = storage.read_manifest(Path("late.crossknn"))["config"]["notes"]["first_stage"]
    assert told == f"late:st:{encoder}+st:{folder / 'both'}"
    assert "red thing" in run("search", "late.crossknn", *SCORED, "red thing", "--budget", "20").output
    two = f"late:st:{encoder}+hybrid:st:{encoder}"
    run(*BUILD, "--first-stage", two, "--queries", "train.csv", "--top", "5", "--uniform", "5")
    assert storage.read_manifest(Path("x.crossknn"))["config"]["notes"]["first_stage"] == two
    assert "red thing" in run(*SEARCH, "red thing", "--budget", "20").output
    run(*BUILD, "--queries", "train.csv", "--top", "5", "--uniform", "5")
    assert "name it as st:NAME, not bm25" in run("distill", "x.crossknn", *SCORED, "--out", "z", exit_code=1).output
    assert not (folder / "z").exists()
