"""Runs that fill the disk: on a real, small file system."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from tests.conftest import Outcome


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB, or of the size that a test asks for."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '256k')}", "none", str(path)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if result.returncode:
        pytest.skip(f"mounting is not permitted: {result.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)  # noqa: S607


def test_live_run_keeps_complete_maps_and_continues_its_other_sinks(
    command: Callable[..., Outcome], disk: Path, tmp_path: Path
) -> None:
    arguments = ["run", "synthetic:3:320x180:12", "--realtime", "--fps", "10", "--json"]
    (disk / "ballast").write_bytes(bytes(128 * 1024))  # leaves space for some of the twelve maps
    outcome = command(*arguments, "--maps", disk / "maps", "--jsonl", tmp_path / "o.jsonl")
    assert outcome.code == 1
    assert "not every output is complete: sink:maps: cannot write" in outcome.err
    assert outcome.err.count("sink:maps: cannot write") == 2, "when it happens, and at the end"
    summary = json.loads(outcome.out)
    assert summary["faults"] == {"sink:maps": 1}
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == summary["frames"] > 6
    maps = list((disk / "maps").iterdir())
    assert 0 < len(maps) < summary["frames"]
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in maps)


@pytest.mark.parametrize("disk", ["4m"], indirect=True)
def test_video_ends_before_the_disk_is_full_and_can_be_played(
    command: Callable[..., Outcome], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.sinks.files.overlay_video.RESERVED_BYTES", 1 << 20)
    monkeypatch.setattr("edge.sinks.files.overlay_video.DISK_CHECK_INTERVAL", 5)
    (disk / "ballast").write_bytes(bytes(2_500_000))  # the video fills what is left within some frames
    arguments = ["run", "synthetic:3:640x360:60", "--realtime", "--fps", "100", "--json"]
    outcome = command(
        *arguments, "--overlay", disk / "o.mp4", "--maps", disk / "maps"
    )  # the maps fill the rest
    summary = json.loads(outcome.out)
    assert outcome.code == 1
    assert "sink:overlay: the disk of" in outcome.err
    video = cv2.VideoCapture(str(disk / "o.mkv"))
    read = 0
    while video.read()[0]:
        read += 1
    assert 0 < read < summary["frames"]
    assert f"the video ends after {read} frames" in outcome.err


def test_run_over_a_file_continues_without_the_sink_whose_disk_is_full(
    command: Callable[..., Outcome], disk: Path, tmp_path: Path
) -> None:
    assert command("run", "synthetic:4:320x180:1", "--maps", disk / "maps").code == 0
    older = (disk / "maps" / "000000.png").read_bytes()
    (disk / "ballast").write_bytes(bytes(176 * 1024))
    arguments = ["run", "synthetic:3:320x180:12", "--maps", disk / "maps", "--jsonl", tmp_path / "o.jsonl"]
    outcome = command(*arguments)
    assert outcome.code == 1
    assert "not every output is complete: sink:maps: cannot write" in outcome.err
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 12
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "maps"]
    assert (disk / "maps" / "000000.png").read_bytes() == older, "the older maps are unchanged"
    assert f"wrote {tmp_path / 'o.jsonl'}" in outcome.out
    assert f"wrote {disk / 'maps'}" not in outcome.out


def test_json_lines_end_with_a_complete_line(
    command: Callable[..., Outcome], disk: Path, tmp_path: Path
) -> None:
    (disk / "ballast").write_bytes(bytes(252 * 1024))
    arguments = ["run", "synthetic:3:64x64:60", "--realtime", "--fps", "100", "--json"]
    outcome = command(*arguments, "--jsonl", disk / "o.jsonl")
    summary = json.loads(outcome.out)
    assert outcome.code == 1
    rows = [json.loads(line) for line in (disk / "o.jsonl").read_text().splitlines()]
    assert 0 < len(rows) < summary["frames"]


def test_run_over_a_file_leaves_no_incomplete_output(command: Callable[..., Outcome], disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(192 * 1024))
    outcome = command("run", "synthetic:3:320x180:12", "--maps", disk / "maps")
    assert outcome.code == 2
    assert "No space left" in outcome.err
    assert [path.name for path in disk.iterdir()] == ["ballast"]
