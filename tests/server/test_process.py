"""The service as a process: the command, the client, kill -9, and SIGTERM in the middle."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from rich.console import Console

from crossknn import Index
from crossknn.client import Client, ServiceError
from crossknn.errors import IndexFileError, InputError
from crossknn.scorers import cache_entries
from crossknn.server import ServerOptions
from crossknn.server.process import _Follower
from crossknn.server.service import Service

SCORER = """
import time
from crossknn import FunctionScorer

def score(pairs):
    time.sleep(0.3 if any("slow" in query for query, _ in pairs) else 0)
    return [len(set(query.split()) & set(item.split())) - 0.01 * len(item) for query, item in pairs]

scorer = FunctionScorer(score, name="words-in-common", batch_size=50)
"""
MODELS = ("--scorer", "python:my_scorer:scorer", "--first-stage", "bm25")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Builds an index and serves it, as often as asked."""
    words = ["red", "green", "blue", "round", "square", "big", "small", "slow"]
    items = [f"{a} {b} thing" for a in words for b in words if a != b]
    rows = "".join(json.dumps({"id": f"i{n}", "text": t}) + "\n" for n, t in enumerate(items))
    (tmp_path / "items.jsonl").write_text(rows)
    (tmp_path / "my_scorer.py").write_text(SCORER)
    (tmp_path / "train.csv").write_text("text\nred round\nblue big\ngreen\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "CROSSKNN_TOKEN": "sesame"}
    command = [sys.executable, "-c", "from crossknn.cli.entry import main; main()"]
    build = [*command, "build", "items.jsonl", "--queries", "train.csv", *MODELS, "--out", "x.crossknn"]
    subprocess.run(build, cwd=tmp_path, env=environment, check=True, capture_output=True)
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> tuple[subprocess.Popen[str], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve = [*command, "serve", "x.crossknn", *MODELS, "--port", str(port), *options]
        process = subprocess.Popen(serve, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        running.append(process)
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.1).close()
                return process, f"http://127.0.0.1:{port}"
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end
                time.sleep(0.05)

    yield start
    for process in running:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_a_client_searches_and_a_kill_9_loses_nothing(served: Any, tmp_path: Path) -> None:
    process, url = served()
    client = Client(url, token="sesame")
    found = client.search("small red", k=3, budget=12)
    assert [hit.text for hit in found][:2] == ["red small thing", "small red thing"]
    assert (found.calls, sum(cost.calls for cost in found.trace)) == (12, 12)
    assert client.search("red", k=2, budget=40, target_recall=0.2).expected_recall >= 0.2
    assert client.rerank("small red", ["blue", "small red", "red"])[0][0] == 1
    assert client.info()["items"] == 56
    with pytest.raises(InputError, match="answered 422: budget is 2, but k=10"):
        client.search("red", k=10, budget=2)
    with pytest.raises(InputError, match="answered 401"):
        Client(url).search("red")
    whole = {path: path.read_bytes() for path in (tmp_path / "x.crossknn").rglob("*") if path.is_file()}
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with pytest.raises(ServiceError, match="cannot be reached"):
        Client(url, token="sesame", retries=0).search("red")
    again = Client(served()[1], token="sesame").search("small red", k=3, budget=12)
    assert again.hits == found.hits
    assert {path: path.read_bytes() for path in (tmp_path / "x.crossknn").rglob("*") if path.is_file()} == whole


def test_a_kill_9_in_the_middle_of_a_search_keeps_the_scores_it_paid_for(served: Any, tmp_path: Path) -> None:
    cached = ("--cache", "scores.sqlite")
    process, url = served(*cached)
    client = Client(url, token="sesame", retries=0)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            client.search("slow", budget=56)
        except ServiceError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    end = time.monotonic() + 30
    while _kept(tmp_path / "scores.sqlite") == 0:  # some of its ten rounds of 0.3 seconds
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    asking.join(10)
    assert failed
    again = Client(served(*cached)[1], token="sesame")
    found = again.search("slow", k=5, budget=56)
    assert found.hits == Client(served()[1], token="sesame").search("slow", k=5, budget=56).hits
    metrics = urllib3.request("GET", again._url + "/metrics", headers={"Authorization": "Bearer sesame"}).data.decode()
    hits, misses = (
        float(re.search(rf"^crossknn_cache_{n} (\S+)", metrics, re.MULTILINE)[1]) for n in ("hits", "misses")
    )
    assert hits + misses == 56
    assert hits > 0


def _kept(cache: Path) -> int:
    return sum(entry.n_scores for entry in cache_entries(cache)) if cache.exists() else 0


def test_an_index_that_is_cut_short_while_it_is_served_does_no_harm(served: Any, tmp_path: Path) -> None:
    process, url = served()
    client = Client(url, token="sesame")
    before = client.search("small red", k=3, budget=12)
    cut = list((tmp_path / "x.crossknn").rglob("*.npy"))
    assert cut
    for path in cut:
        os.truncate(path, 10)
    assert client.search("small red", k=3, budget=12).hits == before.hits
    process.terminate()
    process.wait(20)
    command = [sys.executable, "-c", "from crossknn.cli.entry import main; main()", "serve", "x.crossknn", *MODELS]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "damaged: 10 bytes instead of" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_index_that_replaces_it_is_served_and_one_that_cannot_be_changes_nothing(
    served: Any, tmp_path: Path
) -> None:
    process, url = served()
    client, said = Client(url, token="sesame"), list[str]()
    assert client.info()["items"] == 56
    new = json.dumps({"id": "new", "text": "small red dwarf thing"}) + "\n"
    (tmp_path / "more.jsonl").write_text((tmp_path / "items.jsonl").read_text() + new)
    command = [sys.executable, "-c", "from crossknn.cli.entry import main; main()"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*args: str) -> None:
        subprocess.run([*command, *args], cwd=tmp_path, env=environment, check=True, capture_output=True)

    run("build", "more.jsonl", *MODELS, "--out", "x.crossknn")
    _until(lambda: client.info()["items"] == 57)
    assert "new" in [hit.id for hit in client.search("small red dwarf", k=3, budget=12)]
    (tmp_path / "other.py").write_text(SCORER.replace("words-in-common", "another"))
    run("build", "more.jsonl", "--scorer", "python:other:scorer", "--first-stage", "bm25", "--out", "x.crossknn")
    told = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")), daemon=True)
    told.start()
    _until(lambda: any("cannot be served" in line for line in said))
    assert client.info()["items"] == 57
    assert "new" in [hit.id for hit in client.search("small red dwarf", k=3, budget=12)]
    process.kill()
    told.join(10)  # before what it reads is closed


class Folder:
    """A folder whose index is what it is told to be, and a follower of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, index: Index) -> None:
        self.version: str | Exception = "first"
        self.holds: Index | Exception = index
        self.service, self.said = Service(index, ServerOptions()), io.StringIO()
        monkeypatch.setattr("crossknn.server.process.version_of", lambda folder: _given(self.version))
        notes = Console(file=self.said, width=40)
        self.follower = _Follower(Path("codes[v2]"), "first", lambda: _given(self.holds), self.service, notes)

    def look(self, version: str | Exception, holds: Index | Exception) -> int:
        """How many items are served then."""
        self.version, self.holds = version, holds
        self.follower.look()
        return len(self.service.now.index)


def _given(what: Any) -> Any:
    if isinstance(what, Exception):
        raise what
    return what


def test_a_folder_is_followed_whatever_is_put_there(monkeypatch: pytest.MonkeyPatch, index: Index) -> None:
    n, smaller = len(index), index.updated(remove=index.item_ids[:5])
    folder = Folder(monkeypatch, index)
    assert folder.look("first", AssertionError("nothing is read where nothing has changed")) == n
    assert folder.look(IndexFileError("there is no index"), smaller) == n
    assert "there is no index; what was read before is served" in folder.said.getvalue()
    assert folder.service.stale
    assert folder.look(PermissionError(13, "denied"), smaller) == n
    assert folder.look("second", smaller) == n - 5
    assert b"crossknn_index_stale 0.0" in folder.service.metrics.text()
    assert "35 items, read again" in folder.said.getvalue()
    refused = IndexFileError("it was built with the scorer model [/opt/ce]")
    assert folder.look("third", refused) == n - 5
    assert "[/opt/ce]" in folder.said.getvalue()
    assert "what is at codes[v2] now cannot be served" in folder.said.getvalue()
    assert folder.look("third", index) == n - 5  # not tried again
    assert b"crossknn_index_stale 1.0" in folder.service.metrics.text()
    assert folder.look("fourth", OSError(24, "Too many open files")) == n - 5
    assert folder.follower.pause == 4.0
    assert folder.look("fourth", index) == n  # tried again
    assert folder.follower.pause == 2.0
    folder.service.scheduler.close(5)


def test_looking_ends_while_a_reading_is_under_way(monkeypatch: pytest.MonkeyPatch, index: Index) -> None:
    folder, reading, go = Folder(monkeypatch, index), threading.Event(), threading.Event()
    folder.version, folder.follower.pause = "second", 0.01
    folder.follower._read = lambda: reading.set() or (go.wait(30) and index)  # type: ignore[func-returns-value]
    folder.follower.start()
    assert reading.wait(10)
    folder.follower.end()
    assert folder.follower.daemon  # what is still read holds up no exit
    go.set()
    folder.follower.join(10)
    assert not folder.follower.is_alive()
    folder.service.scheduler.close(5)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_more_queries_than_a_request_may_have(served: Any) -> None:
    client = Client(served()[1], token="sesame")
    queries = [f"red {n}" for n in range(130)]
    found = client.search_batch(queries, k=1, budget=2, trace=False)
    assert [result.query for result in found] == queries
    assert found[0].trace == ()


def test_what_was_taken_is_finished_before_it_stops(served: Any) -> None:
    process, url = served()
    results: list[Any] = []
    asking = threading.Thread(target=lambda: results.append(Client(url, token="sesame").search("slow", budget=20)))
    asking.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    asking.join(20)
    assert results[0].calls == 20
    assert process.wait(20) in (0, -signal.SIGTERM)
    assert "Traceback" not in process.stderr.read()
