"""Processor time that other processes use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edge.profiler.measurement.machine_load import OtherLoad


def write_stat(root: Path, busy_s: float) -> None:
    (root / "proc").mkdir(exist_ok=True)
    ticks = round(busy_s * os.sysconf("SC_CLK_TCK"))
    (root / "proc/stat").write_text(f"cpu  {ticks} 0 0 99 9 0 0 0 0 0\ncpu0 1 2 3\n")


def test_cores_of_other_processes_are_counted_without_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    own = os.times_result((1.0, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(os, "times", lambda: own)
    write_stat(tmp_path, 1000.0)
    load = OtherLoad(tmp_path)
    now_s, own = 110.0, os.times_result((9.0, 1.0, 0.0, 0.0, 0.0))  # 9 s of our own in 10 s
    write_stat(tmp_path, 1024.0)
    assert load.cores() == pytest.approx(1.5)
    write_stat(tmp_path, 1009.0)
    assert load.cores() == 0.0


@pytest.mark.parametrize("text", ["", "cpu 1 2", "cpu a b c d e f g h"])
def test_load_is_unknown_where_it_cannot_be_read(tmp_path: Path, text: str) -> None:
    assert OtherLoad(tmp_path).cores() is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    assert OtherLoad(tmp_path).cores() is None
