"""Live runs that are killed while they record: what survives is found at the next start, and can be read."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from contextlib import closing
from pathlib import Path

import cv2
import pytest

from edge.sources.factory import open_source
from tests.support.live_runs import start_run, write_long_clip
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("KILLS", "30"))
"""Number of kills; the environment variable `KILLS` sets another one."""


@pytest.mark.long
def test_recordings_survive_kills_at_random(tmp_path: Path) -> None:
    pytest.importorskip("mcap.reader", reason="mcap is not installed: pip install 'aerogaze[bags]'")
    rng = random.Random(KILLS)  # noqa: S311
    clip, log = write_long_clip(tmp_path / "clip.mp4", 600), tmp_path / "log"
    folder = tmp_path / "flights"
    folder.mkdir()
    names = ["o.mkv", "o.jsonl", "maps", "o.mcap"]
    options = [
        part
        for option, name in zip(("--overlay", "--jsonl", "--maps", "--mcap"), names, strict=True)
        for part in (option, folder / name)
    ]

    recording = 0
    for _ in range(KILLS):
        before = set(folder.glob(".o.*.jsonl"))
        run = start_run(log, clip, "--realtime", *options)
        try:
            if rng.random() < 0.8:
                assert wait_until(lambda: _is_recording(folder, before), 300), log.read_text()  # noqa: B023
                recording += 1
            time.sleep(rng.uniform(0, 4))
        finally:
            run.kill()
            run.communicate()
        assert run.returncode == -signal.SIGKILL
    run = start_run(log, clip, "--realtime", "--max-frames", "5", *options)
    run.communicate()
    assert run.returncode == 0, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    counts = dict.fromkeys(names, 0)
    for name in names:
        for path in folder.glob(f"{Path(name).stem}.recovered-*{Path(name).suffix}"):
            assert f"recovered {path} of a killed run" in text
            counts[name] += 1
            assert count_frames(path) > 0, path
    left = [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]
    unplayable = re.findall(r"a killed run left (\S+), which cannot be played", text)
    print(f"{KILLS} kills; recovered: {counts}; cannot be played: {len(set(unplayable))}; hidden: {left}")
    assert {f"{folder}/{name}" for name in left} == set(unplayable)
    assert counts["o.jsonl"] >= recording


def _is_recording(folder: Path, before: set[Path]) -> bool:
    """Return whether a run that started with these leftovers has written a line."""
    return any(path.stat().st_size for path in set(folder.glob(".o.*.jsonl")) - before)


def count_frames(path: Path) -> int:
    """Read a recovered recording to its end; the last line, picture or message may be cut off."""
    if path.is_dir():
        pictures = sorted(path.iterdir())
        assert all(cv2.imread(str(picture), cv2.IMREAD_UNCHANGED) is not None for picture in pictures[:-1])
        return len(pictures)
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        assert [row["frame"] for row in rows] == sorted({row["frame"] for row in rows})
        return len(rows)
    name = f"bag:{path}#/saliency/overlay" if path.suffix == ".mcap" else str(path)
    with closing(open_source(name)) as source:
        return len(list(source))
