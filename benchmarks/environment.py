"""Where a benchmark ran: part of every result."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import numpy
import onnxruntime


def environment() -> dict[str, object]:
    """Machine, versions and commit."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = os.environ.get("CROSSKNN_COMMIT") or git.stdout.strip()  # where the code is no clone
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "onnxruntime": onnxruntime.__version__,
        "commit": commit,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
