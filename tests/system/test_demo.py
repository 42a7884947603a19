"""First command of the README, on a short clip."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome


def test_demo_writes_all_its_outputs(command: Callable[..., Outcome], tmp_path: Path) -> None:
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
