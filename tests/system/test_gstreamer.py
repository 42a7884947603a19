"""GStreamer through the OpenCV of the system's Python, which is how a Jetson runs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
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

pytestmark = pytest.mark.xdist_group("install")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment as docs/how-to/live.md makes it: the system's OpenCV, and what else a drone needs."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not Path(DEBIAN).exists():
        pytest.skip(f"no {DEBIAN}")
    seen = subprocess.run([DEBIAN, "-c", CHECK], env=env, capture_output=True, text=True)
    if seen.returncode:
        pytest.skip(f"{DEBIAN}: {seen.stderr.splitlines()[-1]}: Debian's python3-opencv and python3-venv")
    place = tmp_path_factory.mktemp("jetson") / "env"
    run(DEBIAN, "-m", "venv", "--system-site-packages", str(place))
    run(str(place / "bin" / "pip"), "install", "--quiet", "--no-deps", *PACKAGES)
    return str(place / "bin" / "python")


def aerogaze(python: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "edge.cli.main", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_live_pipeline_runs_end_to_end(python: str, tmp_path: Path) -> None:
    done = aerogaze(python, tmp_path, "run", BALL, "--max-frames", "45", "--jsonl", "o.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert summary["frames"] == len(rows) > 10
    assert summary["frames"] + summary["dropped"] == 45
    assert rows[-1]["capture_s"] - rows[0]["capture_s"] == pytest.approx(44 / 30, abs=0.5)
    assert 0 < summary["latency_p50_ms"] < 500


def test_the_maps_of_a_clip_are_the_same_by_every_path(
    python: str, command: Callable[..., Outcome], flight: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    raw = ["--fuse-preprocess", "320x180", "--frames", "synthetic:7", "--out", tmp_path / "raw"]
    assert command("export", "skd-64", *raw).code == 0
    (tmp_path / "clip").mkdir()
    for index, frame in enumerate(flight):
        cv2.imwrite(str(tmp_path / "clip" / f"{index}.png"), frame)
    gst = "gst:multifilesrc location=clip/%d.png stop-index=11 caps=image/png,framerate=10/1 ! pngdec"
    paths = {
        "file": ["clip"],
        "live": ["clip", "--realtime"],
        "gst": [gst, "--every-frame"],
        "fused": [gst, "--every-frame", "--release", "raw"],
    }
    for name, words in paths.items():
        done = aerogaze(python, tmp_path, "run", *words, "--maps", name, "--precision", "fp32")
        assert done.returncode == 0, done.stderr
    maps = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in paths}
    assert len(maps["file"]) == 12
    assert maps["file"] == maps["live"] == maps["gst"]
    for one, other in zip(maps["file"], maps["fused"], strict=True):
        assert cc(decoded(one), decoded(other)) > 0.995, "fusing keeps what docs/reference/export.md says"


def decoded(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image.astype(np.float64)


def damaged(folder: Path, flight: np.ndarray) -> str:
    """Write sixty JPEGs, three of them damaged; return the pipeline that plays them."""
    (folder / "clip").mkdir()
    for index in range(60):
        path = folder / "clip" / f"{index}.jpg"
        cv2.imwrite(str(path), flight[index % 12])
        if index in (20, 33, 34):
            path.write_bytes(path.read_bytes()[:200] + b"\xff" * 300)
    return "gst:multifilesrc location=clip/%d.jpg stop-index=59 caps=image/jpeg,framerate=30/1 ! jpegdec"


def test_damaged_jpegs_inside_a_stream_are_survived(python: str, flight: np.ndarray, tmp_path: Path) -> None:
    gst = damaged(tmp_path, flight)
    done = aerogaze(python, tmp_path, "run", gst, "--every-frame", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] >= 57


def test_damaged_jpegs_are_counted_by_the_stamps_of_the_others(
    python: str, flight: np.ndarray, tmp_path: Path
) -> None:
    gst = damaged(tmp_path, flight)
    done = aerogaze(python, tmp_path, "run", f"{gst} ! identity sync=true", "--max-frames", "55", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["frames"] + summary["dropped"] == 55
    assert summary["dropped"] >= 3
    assert summary["faults"] == {"frames": 1}
    assert "were lost or could not be decoded" in done.stderr


def test_a_pipeline_that_cannot_be_is_one_line(python: str, tmp_path: Path) -> None:
    done = aerogaze(python, tmp_path, "run", "gst:nosuchelement ! fakesink", "--maps", "m")
    assert done.returncode == 2
    assert "gives no frame; expected a GStreamer pipeline" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_pypis_opencv_says_what_to_do(tmp_path: Path) -> None:
    if has_backend("GStreamer"):
        pytest.skip("this OpenCV has GStreamer")
    import sys

    done = aerogaze(sys.executable, tmp_path, "run", BALL)
    assert done.returncode == 2
    assert "needs an OpenCV with GStreamer" in done.stderr
