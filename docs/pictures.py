"""Makes the pictures of the README from the synthetic world: `make pictures`. Needs Chromium."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

import edge
from tests.support.chromium import Chromium
from tests.support.ports import free_tcp_port

IMAGES = Path(__file__).parent / "images"
SOURCE = "synthetic:11:960x540:220"
OVERLAY_FRAME = 66
PAGE_S = 7
"""How long the live page runs before its picture is taken, in seconds; the flight takes 22 s."""
JPEG_QUALITY = 82
RUN = (sys.executable, "-m", "edge", "run", "--fov", "70")


def write(name: str, picture: np.ndarray) -> None:
    """Write a picture as JPEG and say how large it is."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / name
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    print(f"{path}: {path.stat().st_size // 1000} kB")


def record_flight(path: Path) -> None:
    """Write the synthetic flight as a video, since rendering it takes longer than the live page waits."""
    source = edge.open_source(SOURCE)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), source.fps or 10, (960, 540))
    for frame in source:
        writer.write(np.asarray(frame.image))
    writer.release()


def overlay(flight: Path) -> np.ndarray:
    """Return one frame of the flight under its saliency map, as `aerogaze run --overlay` draws it."""
    video = flight.with_name("overlay.mp4")
    subprocess.run([*RUN, str(flight), "--overlay", str(video)], check=True)
    capture = cv2.VideoCapture(str(video))
    for _ in range(OVERLAY_FRAME):
        capture.grab()
    read, picture = capture.read()
    assert read
    return picture


def live_page(flight: Path) -> np.ndarray:
    """Return a screenshot of the live page after some seconds of the flight."""
    port = free_tcp_port()
    command = [*RUN, flight.name, "--realtime", "--http", f":{port}"]
    browser = Chromium(flight.with_name("chromium"))
    run: subprocess.Popen[bytes] | None = None
    try:
        browser.screen(1280, 720)
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        run = subprocess.Popen(command, cwd=flight.parent, stdout=subprocess.DEVNULL)
        for _ in range(60):  # until the run has started its server
            browser.open(f"http://127.0.0.1:{port}/")
            time.sleep(0.5)
            if browser.value("document.getElementById('stream')?.naturalWidth > 0"):
                break
        browser.wait("document.querySelectorAll('#regions li').length > 0")
        time.sleep(PAGE_S)
        picture = cv2.imdecode(np.frombuffer(browser.picture(), np.uint8), cv2.IMREAD_COLOR)
    finally:
        browser.close()
        if run:
            run.terminate()
            run.wait()
    assert picture is not None
    return picture


def main() -> None:
    """Make both pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        flight = Path(temporary) / "flight.avi"
        record_flight(flight)
        write("overlay.jpg", overlay(flight))
        write("live-page.jpg", live_page(flight))


if __name__ == "__main__":
    main()
