"""First command of the README, on a short clip."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.cli.main import invoke
from export.cli import demo
from tests.conftest import Outcome
from tests.support.training import set_options

FEW_STEPS = {"teachers.steps": "2", "students.steps": "4", "network.steps": "8"}
"""Changes to the demo's recipe: each stage of the training runs, but for seconds instead of a minute."""


def train_for_few_steps(words: list[str]) -> None:
    invoke([*words, *set_options(FEW_STEPS)] if words[0] == "train" else words)


@pytest.mark.first
@pytest.mark.parametrize("few_steps", [True, pytest.param(False, marks=pytest.mark.long)])
def test_demo_writes_all_its_outputs(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_steps: bool
) -> None:
    if few_steps:
        monkeypatch.setattr(demo, "invoke", train_for_few_steps)
    outcome = command("demo", "--source", "synthetic:4:320x180:16", "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    out = tmp_path / "demo"
    for name in ("report.html", "summary.json", "overlay.mp4", "saliency.jsonl"):
        assert (out / name).stat().st_size > 1000, name
    assert len(list((out / "maps").iterdir())) == 16
    assert (out / "release" / "release.json").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == 16
    assert {row["precision"] for row in summary["profile"]["latencies"]} == {"fp32", "fp16", "int8"}
    page = (out / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page)  # self-contained
    assert "data:image/webp" in page


def test_missing_source_is_reported_before_the_training(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = command("demo", "--source", "missing.mp4", "--out", tmp_path / "demo")
    assert outcome.code == 2
    assert "no source 'missing.mp4'" in outcome.err
    assert not (tmp_path / "demo").exists()
