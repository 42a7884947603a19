"""History of the benchmark per machine, so that a regression shows."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge.core.atomic_files import cache_folder
from edge.hardware.gpu import detect_gpu
from edge.hardware.host import detect_machine
from tests.bench.measurement.conditions import Conditions
from tests.bench.measurement.verdict import Verdict

ROOT = Path(__file__).parents[3]


class Commit(NamedTuple):
    """State of the source folder.

    Attributes:
        name: Short hash; "unknown" without git.
        changed: Files have changes that are in no commit.
    """

    name: str
    changed: bool

    def __str__(self) -> str:
        return f"{self.name} with changes" if self.changed else self.name


def current_commit(root: Path = ROOT) -> Commit:
    """Return the commit of the source folder."""
    try:
        words = ["git", "-C", str(root)]
        name = subprocess.run([*words, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*words, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:
        return Commit("unknown", False)
    return Commit(name.stdout.strip() or "unknown", bool(status.stdout.strip()))


def describe_machine() -> str:
    """Return the name of this machine."""
    host, gpu = detect_machine(), detect_gpu()
    return f"{host.cpu}, {host.cores} cores" + (f", {gpu.name}" if gpu else "")


class History:
    """Lines of JSON in the cache folder, one per verdict, in a file per machine.

    A machine is its processor, instruction sets, cores and operating system.

    Args:
        folder: Folder of the files; None for that in the cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        host, name = detect_machine(), describe_machine()
        fingerprint = f"{name} {host.architecture} {sorted(host.flags)} {host.system}"
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
        folder = folder or cache_folder() / "bench"
        self.path = folder / f"{slug}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:8]}.jsonl"
        self._earlier = self._read()

    def append(self, commit: Commit, theme: str, verdicts: Sequence[Verdict], conditions: Conditions) -> None:
        """Append verdicts. A line is written at once, so that two benchmarks do not mix theirs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for verdict in verdicts:
                line = {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "commit": commit.name,
                    "changed": commit.changed,
                    "theme": theme,
                    **verdict.to_document(),
                    "conditions": vars(conditions),
                    "disturbed": bool(conditions.disturbance),
                }
                file.write(json.dumps(line) + "\n")
                file.flush()

    def compare(self, theme: str, verdict: Verdict, conditions: Conditions) -> str:
        """Return how a verdict differs from the latest one of an undisturbed earlier run, if it does.

        It differs if their intervals do not overlap. Nothing is said about a disturbed run.
        """
        earlier = self._earlier.get((theme, verdict.label, verdict.unit))
        if earlier is None or conditions.disturbance:
            return ""
        low, high = earlier["low"], earlier["high"]
        if verdict.low <= high and low <= verdict.high:
            return ""
        is_better = (verdict.low > high) == verdict.at_least
        commit = Commit(earlier["commit"], earlier["changed"])
        return f"{'better' if is_better else 'WORSE'} than {low:.3g} to {high:.3g} at {commit}"

    def _read(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """Return the latest undisturbed line of each row; lines that are cut off are left out."""
        latest = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
                key = entry["theme"], entry["what"], entry["unit"]
                if not entry["disturbed"] and None not in (entry["low"], entry["high"]):
                    latest[key] = entry
            except (ValueError, KeyError, TypeError):  # noqa: PERF203 - a kill cut off a line
                continue
        return latest
