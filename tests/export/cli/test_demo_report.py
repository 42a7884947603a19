"""Tests of the demo's report page, on a summary of a measured profile and a made clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.release.manifest import SHIPPED_RELEASES
from export.cli.demo_report import STAGES, render_report
from tests.support.chromium import CHROMIUM, Chromium

PROFILE = Path(__file__).parents[2] / "system" / "version_0_1" / "latency.json"
NO_OVERFLOW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
CUT_OFF = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
TEXT_HEIGHTS = """[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)
    .filter(height => height > 0)"""
TEXT_COLOURS = "[...new Set([...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill))]"


@pytest.fixture
def summary(tmp_path: Path) -> dict[str, Any]:
    """A summary, with its clip and training in `tmp_path`."""
    clip = cv2.VideoWriter(str(tmp_path / "overlay.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 36))
    for grey in (50, 100, 150):
        clip.write(np.full((36, 64, 3), grey, np.uint8))
    clip.release()
    for stage in STAGES:
        (tmp_path / "training" / stage).mkdir(parents=True)
        (tmp_path / "training" / stage / "metrics.csv").write_text("step,loss\n0,6.5\n60,2.5\n")
    manifest = json.loads((SHIPPED_RELEASES / "skd-32" / "release.json").read_text())
    manifest["calibrated"]["source"] = "flight.mp4"
    engine = {"graph": "stream.int8.tensorrt.onnx", "version": "1.7", "size_bytes": 400_000, "seconds": 4.5}
    return {
        "source": "flight.mp4",
        "seconds": {"train": 60.0, "export": 30.0},
        "release": {key: manifest[key] for key in ("name", "student", "calibrated", "graphs")},
        "engines": [engine],
        "profile": json.loads(PROFILE.read_text()),
        "frames": 3,
    }


def test_busy_machine_is_named_above_the_latencies(summary: dict[str, Any], tmp_path: Path) -> None:
    summary["profile"]["conditions"]["load_average_before"] = 0.1
    assert "Busy machine" not in render_report(summary, tmp_path)
    summary["profile"]["conditions"]["load_average_before"] = 9.0
    page = render_report(summary, tmp_path)
    assert "Busy machine: load 9.0 on 2 cores during the measurement" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_page_is_legible_and_whole_at_both_widths(summary: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(summary, tmp_path))
    browser = Chromium(tmp_path / "chromium")
    try:
        for width, dark, colour in ((1280, False, "rgb(91, 98, 109)"), (390, True, "rgb(154, 161, 172)")):
            browser.screen(width, 900, dark=dark, phone=width < 600)
            browser.open(page.as_uri())
            browser.wait("document.readyState === 'complete' && document.querySelectorAll('td').length > 0")
            assert browser.value(NO_OVERFLOW)
            assert browser.value(CUT_OFF) == 0
            heights = browser.value(TEXT_HEIGHTS)
            assert len(heights) > 20  # one variant of each plot
            assert min(heights) >= 12
            assert browser.value(TEXT_COLOURS) == [colour]
        assert not browser.errors
    finally:
        browser.close()
