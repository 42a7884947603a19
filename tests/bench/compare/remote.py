"""The worker of a commit, as the comparing process sees it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.compare.worktrees import ROOT, Checkout
from tests.bench.measurement.row import Contestant

END_S = 10.0
"""Time that a worker has to close what it opened."""


class WorkerError(Exception):
    """A request failed in the worker, which lives on."""


class WorkerEndError(WorkerError):
    """The worker ended."""


class Worker:
    """A process that runs the code of a commit.

    Args:
        checkout: The commit.
        bench: Folder with a copy of `tests`, see `copy_benchmarks`.
    """

    def __init__(self, checkout: Checkout, bench: Path) -> None:
        self.checkout, self.cpu_s = checkout, 0.0
        self._log = bench / f"{checkout.folder.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.compare.worker"],
                cwd=bench,
                env={**os.environ, "PYTHONPATH": str(checkout.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C ends the comparison, which ends its workers
            )
        try:
            packages = Path(self.request("locate")["edge"])
            if packages.parent.resolve() != checkout.folder.resolve():
                raise WorkerError(f"the worker of {checkout.name} runs {packages} instead of its own code")
        except BaseException:
            self.close()
            raise

    def open(self, theme: str, name: str) -> dict[str, Contestant]:
        """Open a benchmark in the worker and return its contestants that can be compared.

        Raises:
            WorkerError: The commit lacks what the benchmark needs.
        """
        contestants: Mapping[str, Any] = self.request("open", theme, name)["contestants"]
        return {
            key: Contestant(partial(self._take_turn, key), each["work"], each["repeats"])
            for key, each in contestants.items()
        }

    def request(self, do: str, *arguments: object) -> dict[str, Any]:
        """Send a request and return the reply.

        Raises:
            WorkerEndError: The worker ended.
            WorkerError: It replied with an error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerEndError(f"the worker of {self.checkout.name} {self._describe_end()}")
        reply: dict[str, Any] = json.loads(line)
        self.cpu_s = reply["cpu_s"]
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    @property
    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the worker: by the end of its input, or by a kill after some time."""
        try:
            self._process.communicate(timeout=END_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            if not self.has_ended:
                os.killpg(self._process.pid, signal.SIGKILL)  # with the processes that its benchmark started
            self._process.wait()

    def _take_turn(self, name: str, calls: int) -> float:
        return float(self.request("turn", name, calls)["value"])

    def _describe_end(self) -> str:
        code, lines = self._process.wait(), self._log.read_text(errors="replace").splitlines()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"{how}{f': {lines[-1]}' if lines else ''}"


def copy_benchmarks(folder: Path, root: Path = ROOT) -> None:
    """Copy the benchmarks and what they need of the tests: both workers run the copy, whatever is edited."""
    (folder / "tests").mkdir(parents=True)
    shutil.copy2(root / "tests/__init__.py", folder / "tests")
    for name in ("bench", "support"):
        ignored = shutil.ignore_patterns("__pycache__", "test_*.py")
        shutil.copytree(root / "tests" / name, folder / "tests" / name, ignore=ignored)
