"""What installing takes, and how soon `make demo` answers: from a fresh clone, into fresh environments.

    python benchmarks/install.py

Sizes are of all that pip put there, without pip and setuptools themselves; neither environment may hold torch. The
time is from `make demo` to its first answer, downloads included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import environment

ROOT = Path(__file__).parent.parent


def megabytes(folder: Path) -> float:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def installed(clone: Path, *distributions: str) -> float:
    """Megabytes of a new environment with these distributions, less those of an empty one."""
    with tempfile.TemporaryDirectory() as name:
        venv = Path(name)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        empty = megabytes(venv)
        pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", "constraints.txt", *distributions], cwd=clone, check=True)
        if any(venv.rglob("site-packages/torch")):
            raise SystemExit(f"torch came with {distributions}")
        return megabytes(venv) - empty


def seconds_to_first_answer(clone: Path) -> tuple[float, float]:
    """Of `make demo`, and of all of it."""
    start, first = time.perf_counter(), None
    with subprocess.Popen(["make", "demo"], cwd=clone, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if first is None and line.startswith("└"):  # the first table is complete
                first = time.perf_counter() - start
    if process.returncode or first is None:
        raise SystemExit(f"make demo ended with {process.returncode}, first answer {first}")
    return first, time.perf_counter() - start


def main() -> None:
    """Measure, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "install.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "crossknn"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        first, whole = seconds_to_first_answer(clone)
        result = {
            "environment": environment(),
            "core_megabytes": installed(clone, "."),
            "demo_megabytes": installed(clone, ".", "./demo"),
            "make_demo_seconds": {"first_answer": first, "whole": whole},
        }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
