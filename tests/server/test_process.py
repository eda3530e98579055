"""The service as a process: the command, the client, kill -9, and SIGTERM in the middle."""

from __future__ import annotations

import json
import os
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

from crossknn.client import Client, ServiceError
from crossknn.errors import InputError

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

    def start() -> tuple[subprocess.Popen[str], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve = [*command, "serve", "x.crossknn", *MODELS, "--port", str(port)]
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
