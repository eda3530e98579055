"""``crossknn demo`` from end to end, on a few hundred codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crossknn.cli import demo
from crossknn.cli.app import app
from crossknn.datasets.icd10cm import load_icd10cm

pytest.importorskip("crossknn_demo")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_icd10cm()
    kept = [i for split in ("index_train", "test") for i in _with_label(whole, split)[:60]]
    kept += [i for i, text in whole.items.items() if "Hydrocephalus" in text]
    monkeypatch.setattr(demo, "load_icd10cm", lambda: whole.subset(kept, "small"))
    monkeypatch.setattr(demo, "PHRASES", ("water on the brain",))
    monkeypatch.setattr(demo, "_TRAIN_QUERIES", 4)
    monkeypatch.setattr(demo, "_TEST_QUERIES", 3)


def _with_label(data: Any, split: str) -> list[str]:
    return list(dict.fromkeys(query.item_id for query in data.queries[split]))


@pytest.mark.usefixtures("small")
def test_the_demo_builds_answers_and_measures(tmp_path: Path) -> None:
    command = ["demo", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    printed = " ".join(shown.stdout.split())
    assert '"water on the brain", 100 cross-encoder calls each' in printed
    assert "ydrocephalus" in printed
    places = shown.stderr.splitlines()[-1]
    assert all(str(tmp_path / "out" / name) in places for name in ("report.html", "recall.png"))
    again = CliRunner().invoke(app, [*command, "--json"])
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    (answer,) = told["answers"]
    assert "ydrocephalus" in answer["found"]["hits"][0]["text"]
    assert answer["found"]["calls"] == answer["reranked"]["calls"] == 100
    assert told["report"] == json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["report"]["n_queries"] == 3
