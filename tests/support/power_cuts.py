"""Power cuts of virtual boards at chosen steps: disks are cloned while the board waits, and booted later."""

from __future__ import annotations

import json
import os
import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.virtual_board import Board, mounted, service_state
from tests.support.waiting import wait_until

STEPS_FILE = Path(__file__).with_name("announced_steps.py")
PYTHON_FOLDER = "usr/lib/python3/dist-packages"
START_S = 120.0
OWNED = re.compile(
    r"(state|trust|config)\.json|lock|slots|slots/[ab]"
    r"|slots/[ab]/(manifest\.json|signatures\.json|release|caches|engines|release/.+)"
)
"""What may lie in a board's folder when no command works on it."""


@dataclass(frozen=True)
class Cut:
    """What a power cut left.

    Attributes:
        step: The step that was about to happen.
        image: The disk.
    """

    step: str
    image: Path


@dataclass
class CutRecorder:
    """Clones a board's disk before each step that it announces.

    Attributes:
        board: The board.
        prefix: Start of the names of the clones.
        cuts: The clones so far, in order. Health checks change nothing: of a row of them the first is there.
    """

    board: Board
    prefix: str
    cuts: list[Cut] = field(default_factory=list)

    def see(self, step: str) -> None:
        """Clone the disk before a step."""
        if "is-active" not in step or not self.cuts or self.cuts[-1].step != step:
            self.cuts.append(Cut(step, self.board.clone_disk(f"{self.prefix}-{len(self.cuts)}.img")))


def install_steps(image: Path, place: Path) -> None:
    """Make every Python on a board's disk announce its steps, if the desk listens."""
    with mounted(image, place) as root:
        folder = root / PYTHON_FOLDER
        (folder / STEPS_FILE.name).write_text(STEPS_FILE.read_text())
        (folder / "announced_steps.pth").write_text("import announced_steps\n")


@contextmanager
def recorded_cuts(board: Board, prefix: str) -> Iterator[CutRecorder]:
    """Clone the board's disk before each of its steps until the block ends.

    A board that is off must be started in the block, and one that is on stay on until its end.
    """
    recorder, stop = CutRecorder(board, prefix), threading.Event()
    board.shared.mkdir(exist_ok=True)
    pipes = [board.shared / name for name in ("steps", "go")]
    for pipe in pipes:
        os.mkfifo(pipe, 0o600)
    # Open for both directions: then neither end waits for the other to come.
    steps, go = (os.open(pipe, os.O_RDWR) for pipe in pipes)
    errors: list[Exception] = []

    def listen() -> None:
        pending = b""
        while not stop.is_set():
            if not select.select([steps], [], [], 0.1)[0]:
                continue
            *lines, pending = (pending + os.read(steps, 65536)).split(b"\n")
            for line in lines:
                try:
                    recorder.see(line.decode())
                except Exception as error:  # the board must not wait forever
                    errors.append(error)
                os.write(go, b".")

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield recorder
    finally:
        for pipe in pipes:
            pipe.unlink()  # a Python that starts from now on announces nothing
        stop.set()
        thread.join()
        os.write(go, b"." * 64)  # for a process that has just asked
        for descriptor in (steps, go):
            os.close(descriptor)
    if errors:
        raise errors[0]


def check_flown(board: Board, counters: set[int]) -> int:
    """Check a board that has booted after a cut: it flies a whole signed release, as a service.

    Returns:
        The counter of the release.
    """
    # On a busy machine systemd may have started it a second time.
    wait_until(lambda: service_state(board, "ActiveState") == ["active"], START_S)
    state, process = service_state(board, "ActiveState", "MainPID")
    status = json.loads(board.ssh("sudo", "/opt/aerogaze/bin/aerogaze", "device", "status", "--json").stdout)
    assert (state, status["state"], status["health"]) == ("active", "good", "good"), status
    verified = board.ssh("sudo", "/opt/aerogaze/bin/aerogaze", "device", "verify").stdout
    assert (
        f"slot {status['slot']}: {status['release']} counter {status['counter']} is what was signed"
        in verified
    )
    assert status["counter"] in counters
    assert f"/slots/{status['slot']}/release" in board.script(f"cat /proc/{process}/cmdline")
    return int(status["counter"])


def find_orphans(board: Board) -> list[str]:
    """Return the files on a board that no release, runtime or setting owns; no command may work on it.

    What an interrupted flash has uploaded is not among them: the next flash of the same bundle resumes it.
    """
    names = board.script("cd /var/lib/aerogaze && find . -mindepth 1 -printf '%P\\n'").splitlines()
    left = [name for name in names if not OWNED.fullmatch(name)]
    runtimes = board.script("cd /opt && find . -mindepth 1 -maxdepth 2 -printf '%P %Y\\n'").splitlines()
    owned = re.compile(r"aerogaze d|aerogaze\.runtimes d|aerogaze\.runtimes/(lock f|[0-9a-f]{16} d)")
    left += [f"/opt/{name}" for name in runtimes if not owned.fullmatch(name)]
    return left
