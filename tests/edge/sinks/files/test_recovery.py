from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edge.sinks.files.jsonl import JsonlSink
from edge.sinks.files.recovery import LockedFile, OutputLock, recover_outputs
from tests.conftest import Outcome

RECORD = """
import os, sys, cv2, numpy as np
from pathlib import Path
from edge.core.frames import Frame
from edge.postprocessing.result import Result
from edge.sinks.files.jsonl import JsonlSink
from edge.sinks.files.map_images import MapsSink
from edge.sinks.files.overlay_video import OverlaySink

class Source:
    name, width, height, fps, length = "noise", 640, 360, 10.0, None

folder = Path(sys.argv[1])
sinks = [OverlaySink(folder / sys.argv[2], Source(), is_live=True), JsonlSink(folder / "o.jsonl")]
sinks.append(MapsSink(folder / "maps"))
random = np.random.default_rng(0)
for index in range(int(sys.argv[3])):
    image = random.integers(0, 256, (360, 640, 3), np.uint8)
    for sink in sinks:
        sink.write(Result(Frame(index, index / 10, image), np.ones((8, 8), np.float32), 1.0))
print("recorded", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def record(tmp_path: Path) -> Callable[[str, int], subprocess.Popen[str]]:
    def start(video: str, frames: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RECORD, tmp_path, video, str(frames)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        return process

    return start


def _kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_killed_recording_is_recovered_and_named_at_the_next_start(
    record: Callable[[str, int], subprocess.Popen[str]], tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    process = record("o.mkv", 40)
    targets = [tmp_path / "o.mkv", tmp_path / "o.jsonl", tmp_path / "maps"]
    assert [recover_outputs(target) for target in targets] == [[], [], []]  # it still runs
    _kill(process)
    options = ["--realtime", "--overlay", tmp_path / "o.mp4", "--jsonl", targets[1], "--maps", targets[2]]
    outcome = command("run", "synthetic:3:160x96:3", *options, "--precision", "fp32")
    assert outcome.code == 0, outcome.err
    for name in ("o.recovered-1.mkv", "o.recovered-1.jsonl", "maps.recovered-1"):
        assert f"recovered {tmp_path / name} of a killed run" in outcome.err
    assert f"recording to {tmp_path / 'o.mkv'}" in outcome.err
    assert f"wrote {tmp_path / 'o.mkv'}" in outcome.out
    assert len((tmp_path / "o.recovered-1.jsonl").read_text().splitlines()) == 40
    assert len(list((tmp_path / "maps.recovered-1").iterdir())) == 40
    capture = cv2.VideoCapture(str(tmp_path / "o.recovered-1.mkv"))
    frames = 0
    while capture.grab():
        frames += 1
    assert frames >= 25  # a second may be missing
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_unreadable_leftovers_are_named_and_kept(
    record: Callable[[str, int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    _kill(record("o.mp4", 40))
    (line,) = recover_outputs(tmp_path / "o.mp4")
    assert "which cannot be played" in line
    assert len(list(tmp_path.glob(".o.*.mp4"))) == 1


def test_mcap_file_without_a_whole_chunk_is_named_and_kept(tmp_path: Path) -> None:
    header = b"\x89MCAP0\r\n" + bytes([1]) + (16).to_bytes(8, "little") + bytes(16)
    chunk = bytes([6]) + (40).to_bytes(8, "little") + bytes(40)
    left = tmp_path / ".o.abcdefgh.mcap"
    for content in (header[:12], header, header + chunk[:-1]):
        left.write_bytes(content)
        (line,) = recover_outputs(tmp_path / "o.mcap")
        assert "which cannot be played" in line
    left.write_bytes(header + chunk)
    (line,) = recover_outputs(tmp_path / "o.mcap")
    assert line.endswith("82 bytes")
    assert (tmp_path / "o.recovered-1.mcap").exists()


@pytest.mark.parametrize("is_folder", [False, True])
def test_output_that_another_run_removed_before_it_was_locked_is_made_again(
    tmp_path: Path, is_folder: bool
) -> None:
    path = tmp_path / (".maps.abcdefgh" if is_folder else ".o.abcdefgh.jsonl")
    target = tmp_path / ("maps" if is_folder else "o.jsonl")
    path.mkdir() if is_folder else path.touch()
    assert recover_outputs(target) == []
    assert not path.exists()
    lock = OutputLock(path, is_folder)
    assert path.is_dir() == is_folder
    assert path.exists()
    assert recover_outputs(target) == []
    assert path.exists(), "it is locked"
    lock.release()


def test_lock_waits_for_the_check_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / ".o.abcdefgh.jsonl"
    path.touch()
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    locks: list[OutputLock] = []
    thread = threading.Thread(target=lambda: locks.append(OutputLock(path)))
    thread.start()
    path.unlink()  # the other run takes it for a leftover
    os.close(handle)
    thread.join(20)
    assert len(locks) == 1
    assert path.exists()
    locks[0].release()


def test_empty_leftover_is_removed_and_files_of_others_stay(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "o.jsonl")
    for name in (".o.abcdefgh.jsonl", ".o.mine.jsonl", ".other.abcdefgh.jsonl"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".o.abcdefg1.jsonl")
    assert recover_outputs(tmp_path / "o.jsonl") == []
    assert not (tmp_path / ".o.abcdefgh.jsonl").exists()
    assert (tmp_path / ".o.mine.jsonl").exists()
    assert (tmp_path / ".other.abcdefgh.jsonl").exists()
    sink.finish()
    sink.commit()
    assert (tmp_path / "o.jsonl").exists()


REWRITE = """
import json, sys
from pathlib import Path
from edge.sinks.files.recovery import LockedFile

pending, content = LockedFile(Path(sys.argv[1])), [list(range(300_000)), list(range(20_000))]
pending.replace_content(json.dumps(content[0]).encode())
print("written", flush=True)
while True:
    for each in content:
        pending.replace_content(json.dumps(each).encode())
"""


def test_content_that_is_replaced_is_complete_after_a_kill(tmp_path: Path) -> None:
    target = tmp_path / "places.geojson"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    process = subprocess.Popen(
        [sys.executable, "-c", REWRITE, target], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    assert recover_outputs(target) == [], "it is in use"
    process.kill()
    process.communicate()
    (line,) = recover_outputs(target)
    assert "recovered-1.geojson" in line
    assert [path.name for path in tmp_path.iterdir()] == ["places.recovered-1.geojson"]
    assert len(json.loads((tmp_path / "places.recovered-1.geojson").read_bytes())) in (20_000, 300_000)


def test_content_that_was_never_complete_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".places.abcdefgh.geojson.new").write_text('{"type": "Feat')
    assert recover_outputs(tmp_path / "places.geojson") == []
    assert list(tmp_path.iterdir()) == []


def test_content_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    pending = LockedFile(tmp_path / "places.geojson")
    pending.replace_content(b"old")
    (tmp_path / f"{pending.path.name}.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        pending.replace_content(b"new")
    assert pending.path.read_bytes() == b"old"
    pending.discard()
