"""`aerogaze annotate` from end to end: in a browser, resumed, and ended by Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Outcome
from tests.support.chromium import CHROMIUM, Chromium
from trainer.cli.annotate import clip_name

SAVED = "document.getElementById('saved').textContent === 'saved'"


class Annotating:
    """The command in a process, with the URL that it printed."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "edge", "annotate", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.first = self.process.stdout.readline()
        match = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/\?token=\S+)\n", self.process.stdout.readline())
        assert match, self.process.communicate()
        self.url = match[1]

    def interrupt(self) -> tuple[int, str, str]:
        """Send Ctrl-C; return the exit code and what was printed."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextmanager
def annotating(*arguments: str | Path) -> Iterator[Annotating]:
    opened = Annotating(*arguments)
    try:
        yield opened
    finally:
        if opened.process.poll() is None:
            opened.process.kill()
            opened.process.communicate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    opened = Chromium(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


class Hand:
    """Draws on the page with a mouse or a finger, in pixels of the frame."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser

    def drag(self, start: tuple[float, float], end: tuple[float, float], touch: bool = False) -> None:
        """Drag from one pixel of the frame to another, and wait until the box is saved."""
        left, top, scale = self.browser.value(
            "(area => [area.left, area.top, area.width / clip.width])"
            "(document.getElementById('view').getBoundingClientRect())"
        )
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        points = [(left + x * scale, top + y * scale) for x, y in (start, middle, end)]
        if touch:
            for kind, (x, y) in zip(("touchStart", "touchMove", "touchMove"), points, strict=True):
                self.browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
            self.browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            steps = zip(("mousePressed", "mouseMoved", "mouseMoved"), points, strict=True)
            for kind, (x, y) in (*steps, ("mouseReleased", points[-1])):
                self.browser.call(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
                )
        self.browser.wait(SAVED)

    def press(self, key: str) -> None:
        """Press a key, and wait until a change is saved."""
        for kind in ("keyDown", "keyUp"):
            self.browser.call("Input.dispatchKeyEvent", type=kind, key=key)
        self.browser.wait(SAVED)

    def open(self, url: str) -> None:
        """Open the page and wait for its first frame."""
        self.browser.open(url)
        self.browser.wait("document.getElementById('image')?.naturalWidth === 320")


def _rows(folder: Path) -> list[list[float]]:
    text = (folder / "flight" / "boxes.txt").read_text()
    return [[float(word) for word in line.split(",")] for line in text.splitlines()]


def test_drawn_boxes_are_interpolated_and_evaluate_scores_a_student_on_them(
    browser: Chromium, video: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    out, hand = tmp_path / "boxes", Hand(browser)
    with annotating(video, "--out", out, "--every", "4") as running:
        assert running.first == f"12 frames in {out}/flight, 0 of them annotated\n"
        browser.screen(1280, 800)
        hand.open(running.url)
        hand.drag((40, 30), (100, 90))
        hand.press("ArrowRight")
        hand.press("ArrowRight")
        hand.drag((120, 40), (220, 120))
        rows = _rows(out)
        assert [len(rows), rows[0], rows[8]] == [
            12,
            pytest.approx([40, 30, 60, 60], abs=1),
            pytest.approx([120, 40, 100, 80], abs=1),
        ]
        assert rows[2] == pytest.approx([60, 32.5, 70, 65], abs=1)
        assert [row[0] != row[0] for row in rows[9:]] == [True] * 3
        assert browser.errors == []
        code, printed, error = running.interrupt()
    assert (code, error) == (0, "")
    assert "2 frames annotated, 9 of 12 frames have a box" in printed
    assert f"next: aerogaze evaluate skd-64 --dataset boxes --root {out}" in printed
    assert not list(out.glob(".*"))
    scores = tmp_path / "scores.json"
    outcome = command("evaluate", "skd-32", "--dataset", "boxes", "--root", out, "--json", scores)
    assert outcome.code == 0, outcome.err
    assert json.loads(scores.read_text())["metrics"]["box_auc"]["frames"] == 9


def test_keys_touch_and_resuming(browser: Chromium, video: Path, tmp_path: Path) -> None:
    hand = Hand(browser)
    with annotating(video, "--out", tmp_path, "--every", "4") as running:
        browser.screen(390, 844, phone=True)
        hand.open(running.url)
        assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        hand.drag((40, 30), (100, 90), touch=True)
        hand.drag((70, 60), (80, 70), touch=True)  # inside the box: moves it
        assert _rows(tmp_path)[0] == pytest.approx([50, 40, 60, 60], abs=1.5)
        hand.press("ArrowRight")
        hand.press("Enter")  # keeps the last box
        assert _rows(tmp_path)[4] == _rows(tmp_path)[0]
        hand.press("ArrowRight")
        hand.press("n")
        assert running.interrupt()[0] == 0
    with annotating(video, "--out", tmp_path, "--every", "4") as running:
        assert "3 of them annotated" in running.first
        hand.open(running.url)
        browser.wait("now === 11")  # the first frame that is left to annotate
        hand.press("ArrowLeft")
        browser.wait("document.getElementById('unseen').getAttribute('aria-pressed') === 'true'")
        hand.press("Delete")
        assert "2 frames annotated" in running.interrupt()[1]


def test_change_that_cannot_be_saved_is_shown_and_taken_back(
    browser: Chromium, video: Path, tmp_path: Path
) -> None:
    hand = Hand(browser)
    with annotating(video, "--out", tmp_path) as running:
        browser.screen(1280, 800)
        hand.open(running.url)
        boxes = tmp_path / "flight" / "annotation.json"
        boxes.rename(boxes.with_suffix(".old"))
        boxes.mkdir()  # as a disk that is full: the file cannot be written
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="n")
        browser.wait("document.getElementById('saved').textContent === 'not saved'")
        browser.wait("document.getElementById('error').textContent.includes('cannot write')")
        browser.wait("document.getElementById('unseen').getAttribute('aria-pressed') === 'false'")
        boxes.rmdir()
        hand.press("n")
        assert browser.value("document.getElementById('error').hidden")
        assert "1 frame annotated" in running.interrupt()[1]


def test_playing_ends_at_the_last_frame_and_an_ended_command_is_shown(
    browser: Chromium, video: Path, tmp_path: Path
) -> None:
    hand = Hand(browser)
    with annotating(video, "--out", tmp_path) as running:
        browser.screen(1280, 800)
        hand.open(running.url)
        hand.press(" ")
        browser.wait("now === 11 && !playing")
        assert running.interrupt()[0] == 0
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="n")
        browser.wait("document.getElementById('error').textContent.includes('has ended')")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("synthetic:7:640x360:60", "synthetic-7-640x360-60"),
        ("/dev/video0:640x480", "dev-video0-640x480"),
        ("rtsp://user:secret@host/path", "rtsp-host-path"),
    ],
)
def test_name_of_a_clip_is_a_folder_and_has_no_password(source: str, name: str) -> None:
    assert clip_name(source) == name


def test_name_of_a_clip_is_that_of_its_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "car 10" / "frames").mkdir(parents=True)
    (tmp_path / "flight.one.mp4").touch()
    assert clip_name(f"{tmp_path}/car 10") == clip_name(f"{tmp_path}/car 10/frames") == "car-10"
    assert clip_name(f"{tmp_path}/flight.one.mp4") == "flight.one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4"], "no source 'missing.mp4'"),
        (["synthetic:7", "--every", "0"], "--every"),
        (["synthetic:7", "--port", "70000"], "--port"),
        ([], "Missing argument 'SOURCE'"),
    ],
)
def test_invalid_input_is_one_line_and_leaves_nothing(
    command: Callable[..., Outcome],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("annotate", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_other_source_or_number_of_frames_is_refused(
    command: Callable[..., Outcome], video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "boxes"
    with annotating(video, "--out", out, "--max-frames", "5") as running:
        busy = command("annotate", video, "--out", out)
        assert (busy.code, "being written by another aerogaze" in busy.err) == (2, True)
        running.interrupt()
    other = command("annotate", video, "--out", out, "--max-frames", "6")
    assert (other.code, "holds 5 frames; leave out --max-frames" in other.err) == (2, True)
    copy = tmp_path / "copy" / video.name
    copy.parent.mkdir()
    copy.write_bytes(video.read_bytes())
    foreign = command("annotate", copy, "--out", out)
    assert (foreign.code, f"holds frames of {video}" in foreign.err) == (2, True)
