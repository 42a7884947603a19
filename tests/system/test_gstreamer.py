"""GStreamer through the OpenCV of the system's Python, as on a Jetson."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.metrics.saliency import cc
from edge.sources.opencv_capture import has_backend
from tests.conftest import Outcome
from tests.support.pythons import ROOT, run

DEBIAN = "/usr/bin/python3"
CHECK = """
import sys, ensurepip, cv2
assert (3, 10) <= sys.version_info < (3, 14), "it is Python " + sys.version.split()[0]
from edge.sources.opencv_capture import has_backend
assert has_backend("GStreamer"), "its OpenCV has no GStreamer"
"""
PACKAGES = ("onnxruntime<1.24", "click", "rich", "markdown-it-py", "mdurl", "pygments", "tomli")
BALL = "gst:videotestsrc pattern=ball is-live=true ! video/x-raw,width=320,height=180,framerate=30/1"
SOON_OVER = """
import edge.sources.gstreamer
from edge.cli.main import main
edge.sources.gstreamer.OPEN_TIMEOUT_S = 1
main()
"""
"""The command, with a shorter time limit for a pipeline that never gives a frame."""

pytestmark = pytest.mark.xdist_group("gstreamer")  # its environment is made once


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Create the environment of docs/how-to/live.md: the system's OpenCV and the packages of a drone."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not Path(DEBIAN).exists():
        pytest.skip(f"no {DEBIAN}")
    check = subprocess.run([DEBIAN, "-c", CHECK], env=env, capture_output=True, text=True)
    if check.returncode:
        pytest.skip(f"{DEBIAN}: {check.stderr.splitlines()[-1]}: Debian's python3-opencv and python3-venv")
    env_folder = tmp_path_factory.mktemp("jetson") / "env"
    run(DEBIAN, "-m", "venv", "--system-site-packages", str(env_folder))
    run(str(env_folder / "bin" / "pip"), "install", "--quiet", "--no-deps", *PACKAGES)
    return str(env_folder / "bin" / "python")


def aerogaze(
    python: str, folder: Path, *arguments: str, program: Sequence[str] = ("-m", "edge.cli.main")
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_live_pipeline_runs_end_to_end(python: str, tmp_path: Path) -> None:
    result = aerogaze(python, tmp_path, "run", BALL, "--max-frames", "45", "--jsonl", "o.jsonl", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert summary["frames"] == len(rows) > 10
    assert summary["frames"] + summary["dropped"] == 45
    assert rows[-1]["capture_s"] - rows[0]["capture_s"] == pytest.approx(44 / 30, abs=0.5)
    assert 0 < summary["latency_p50_ms"] < 500


def test_maps_of_a_clip_are_the_same_from_every_source(
    python: str, command: Callable[..., Outcome], flight: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'aerogaze[train]'")
    skd = ["--release", "skd-64"]
    raw = ["--fuse-preprocess", "320x180", "--frames", "synthetic:7:320x180:16", "--out", tmp_path / "raw"]
    assert command("export", "skd-64", *raw).code == 0
    (tmp_path / "clip").mkdir()
    for index, frame in enumerate(flight):
        cv2.imwrite(str(tmp_path / "clip" / f"{index}.png"), frame)
    gst = "gst:multifilesrc location=clip/%d.png stop-index=11 caps=image/png,framerate=10/1 ! pngdec"
    paths = {
        "file": ["clip", *skd],
        "live": ["clip", "--realtime", *skd],
        "gst": [gst, "--every-frame", *skd],
        "fused": [gst, "--every-frame", "--release", "raw"],
    }
    for name, arguments in paths.items():
        result = aerogaze(python, tmp_path, "run", *arguments, "--maps", name, "--precision", "fp32")
        assert result.returncode == 0, result.stderr
    maps = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in paths}
    assert len(maps["file"]) == 12
    assert maps["file"] == maps["live"] == maps["gst"]
    for expected, fused in zip(maps["file"], maps["fused"], strict=True):
        assert cc(decode(expected), decode(fused)) > 0.995, (
            "the similarity that docs/reference/export.md states"
        )


def decode(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image.astype(np.float64)


def write_damaged_clip(folder: Path, flight: np.ndarray) -> str:
    """Write 60 JPEGs, three of them damaged; return the pipeline that plays them."""
    (folder / "clip").mkdir()
    for index in range(60):
        path = folder / "clip" / f"{index}.jpg"
        cv2.imwrite(str(path), flight[index % 12])
        if index in (20, 33, 34):
            path.write_bytes(path.read_bytes()[:200] + b"\xff" * 300)
    return "gst:multifilesrc location=clip/%d.jpg stop-index=59 caps=image/jpeg,framerate=30/1 ! jpegdec"


def test_damaged_jpegs_inside_a_stream_are_skipped(python: str, flight: np.ndarray, tmp_path: Path) -> None:
    gst = write_damaged_clip(tmp_path, flight)
    result = aerogaze(python, tmp_path, "run", gst, "--every-frame", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["frames"] >= 57


def test_damaged_jpegs_are_counted_by_the_time_stamps_of_the_others(
    python: str, flight: np.ndarray, tmp_path: Path
) -> None:
    gst = write_damaged_clip(tmp_path, flight)
    result = aerogaze(python, tmp_path, "run", f"{gst} ! identity sync=true", "--max-frames", "55", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["frames"] + summary["dropped"] == 55
    assert summary["dropped"] >= 3
    assert summary["faults"] == {"frames": 1}
    assert "were lost or could not be decoded" in result.stderr


def test_invalid_pipeline_is_one_clear_line(python: str, tmp_path: Path) -> None:
    arguments = ("run", "gst:nosuchelement ! fakesink", "--maps", "m")
    result = aerogaze(python, tmp_path, *arguments, program=("-c", SOON_OVER))
    assert result.returncode == 2
    assert "gives no frame; expected a GStreamer pipeline" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_opencv_without_gstreamer_names_the_remedy(tmp_path: Path) -> None:
    if has_backend("GStreamer"):
        pytest.skip("needs an OpenCV without GStreamer, such as that of PyPI")
    import sys

    result = aerogaze(sys.executable, tmp_path, "run", BALL)
    assert result.returncode == 2
    assert "needs an OpenCV with GStreamer" in result.stderr
