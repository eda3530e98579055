"""`crossknn serve` under load: clients at once against one client, and requests that make no sense.

    python benchmarks/serving_load.py --seconds 60 --index demo-output/icd10cm.crossknn

The service runs as a process on the loopback interface. Two scorers: one that takes 20 ms for a call whatever its batch
(what a GPU or a rerank service is like), over 2,000 items made up; and, with `--index`, the demo's own. In turns, three
times: one client that waits for each answer, then 32 at once, each for a third of the seconds; medians of the rates,
latencies of all. Afterwards 10,000 malformed requests, and the memory of the process before and after.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from environment import environment

CLIENTS, TURNS, MALFORMED, SEED = 32, 3, 10_000, 0
SCORER = """
import time
from crossknn import FunctionScorer

def score(pairs):
    time.sleep(0.02)
    return [(hash((q, i)) % 1000) / 100 + len(set(q.split()) & set(i.split())) for q, i in pairs]

scorer = FunctionScorer(score, name="20 ms a call", batch_size=100_000)
"""
COMMAND = [sys.executable, "-c", "from crossknn.cli.entry import main; main()"]


@contextmanager
def service(folder: Path, index: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a service that runs as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", "PYTHONHASHSEED": "0"}
    command = [*COMMAND, "serve", index, *arguments, "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        for _ in range(600):
            time.sleep(0.1)
            try:
                if ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/ready")[0] == 200:
                    break
            except OSError:
                continue
        else:
            raise SystemExit((folder / "log").read_text())
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, str, bytes]:
    """(status, content type, body)."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, content, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.getheader("content-type", ""), answer.read()


def load(
    port: int, queries: list[str], clients: int, seconds: float, budget: int
) -> tuple[float, list[float], Counter]:
    """(searches per second, seconds of each, statuses) of so many clients, each asking again once it is answered."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        rng = random.Random(SEED + number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < end:
            start = time.perf_counter()
            status, *_ = ask(connection, "POST", "/search", {"query": rng.choice(queries), "budget": budget})
            times.append(time.perf_counter() - start)
            statuses[status] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / (time.perf_counter() - start), times, statuses


def measured(port: int, queries: list[str], seconds: float, budget: int) -> dict[str, Any]:
    """One client against many, in turns."""
    load(port, queries, CLIENTS, 2, budget)
    alone, together, times, statuses = [], [], [], Counter[int]()
    for _ in range(TURNS):
        alone.append(load(port, queries, 1, seconds / TURNS, budget)[0])
        rate, some, codes = load(port, queries, CLIENTS, seconds / TURNS, budget)
        together.append(rate)
        times += some
        statuses += codes
    times.sort()
    p50, p95 = (times[int(q * (len(times) - 1))] for q in (0.5, 0.95))
    return {
        "budget": budget,
        "clients": CLIENTS,
        "searches": len(times),
        "statuses": dict(statuses),
        "p50_ms": 1000 * p50,
        "p95_ms": 1000 * p95,
        "p95_to_p50": p95 / p50,
        "searches_per_second": median(together),
        "searches_per_second_one_client": median(alone),
        "throughput_ratio": median(t / a for t, a in zip(together, alone, strict=True)),
    }


def nonsense(rng: random.Random) -> tuple[str, str, bytes]:
    """A request that no service should take."""
    deep = b'{"query":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    bodies = [
        *(b"", b"{", b"\xff\xfe", b"null", b"[]", b'"query"', b'{"query": NaN}', b'{"query": ""}', b'{"query": []}'),
        *(b'{"query": {"a": 1}}', b'{"query": "a", "k": -1}', b'{"query": "a", "k": 1e400}', b'{"query": "a\\ud800"}'),
        *(b'{"query": "a", "budget": 10000000000}', b'{"query": "a", "method": "axn-r0"}', b"a" * 100_000, deep),
        *(b'{"query": "a", "surprise": 1}', b'{"query": "a", "ids": {"only": ["none"]}}', b'{"query": "\\u0000"}'),
        *(b'{"query": "a", "documents": [1]}', b'{"query": "a", "texts": []}', b"x" * 3_000_000),
    ]
    method = rng.choice(["POST"] * 6 + ["GET", "PUT", "DELETE", "PATCH"])
    path = rng.choice(
        ["/search"] * 4 + ["/rerank", "/search/stream", "/items/none", "/none", "/items/../../etc", "/%00"]
    )
    return method, path, rng.choice(bodies)


def malformed(port: int, process: int) -> dict[str, Any]:
    """What is answered to nonsense, and what it costs in memory."""
    rng = random.Random(SEED)
    statuses: Counter[int] = Counter()
    bad: list[str] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    before = 0
    for n in range(MALFORMED + MALFORMED // 10):
        if n == MALFORMED // 10:
            before = resident(process)
            statuses.clear()
        request = nonsense(rng)
        try:
            status, kind, body = ask(connection, *request)
        except (http.client.HTTPException, OSError) as error:
            status, kind, body = 0, str(error), b""
        if status in (0, 413):
            connection.close()
        statuses[status] += 1
        if b"Traceback" in body or (status >= 500 and "problem+json" not in kind):
            bad.append(f"{status} {kind} to {request[0]} {request[1]} {request[2][:60]!r}")
    after = resident(process)
    return {
        "requests": MALFORMED,
        "statuses": dict(sorted(statuses.items())),
        "without_a_problem_document": bad[:20],
        "memory_mb_before": before / 1e6,
        "memory_mb_after": after / 1e6,
        "growth": after / before - 1,
    }


def resident(process: int) -> int:
    """Bytes of memory that a process holds (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--index", type=Path, help="one made with the demo's models")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving_load.json")
    args = parser.parse_args()
    words = [
        f"{a}{b}" for a in ("red", "blue", "big", "small", "old", "new") for b in ("stone", "tree", "house", "bird")
    ]
    rng = random.Random(SEED)
    result: dict[str, Any] = {"environment": environment(), "seed": SEED}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "slow_scorer.py").write_text(SCORER)
        texts = [" ".join(rng.choices(words, k=4)) + f" {n}" for n in range(2_000)]
        rows = "".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts))
        (folder / "items.jsonl").write_text(rows)
        models = ("--scorer", "python:slow_scorer:scorer", "--first-stage", "bm25")
        environ = os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
        build = [*COMMAND, "build", "items.jsonl", *models, "--out", "x.crossknn"]
        subprocess.run(build, cwd=folder, env=environ, check=True, capture_output=True)
        queries = [" ".join(rng.choices(words, k=3)) for _ in range(500)]
        with service(folder, "x.crossknn", *models) as (port, process):
            result["fixed latency"] = measured(port, queries, args.seconds, 100)
            result["malformed"] = malformed(port, process)
        if args.index is not None:
            phrases = [
                f"{a} of the {b}"
                for a in ("pain", "fracture", "infection", "cancer", "burn", "loss", "swelling")
                for b in ("hand", "eye", "brain", "knee", "liver", "skin", "ear", "lung", "heart", "nose")
            ]
            with service(folder, str(args.index.resolve())) as (port, _):
                result["demo model"] = measured(port, phrases, args.seconds, 100)
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
