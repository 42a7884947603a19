"""Time and memory of a roll-out to 1,000 boards as folders, of which a twentieth fails.

`python -m tests.bench fleet`. The boards install the smallest student in int8. Most of the time of an install
is the start of its two processes, as on a board; then come the 350 calls of the trial, and fsync.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from tests.bench.rows import BenchRow, print_note
from tests.support.boards import copy_release
from tests.support.fleets import aerogaze_command, make_fleet, measure_memory

BOARDS = 1000


def fleet_rows(folder: Path, count: int = BOARDS) -> Iterator[BenchRow]:
    """Roll out, check the outcome of all boards, and yield time and memory."""
    release = copy_release(folder / "tiny", "int8", name="skd-32", student=Path("skd-32"))
    words, faults = make_fleet(folder, release, count)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, seconds, peak_mb = measure_memory(aerogaze_command(*words))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    failed = (folder / "report.json").read_text().count('"outcome": "failed"')
    assert (code, failed) == (1, len(faults))
    label = f"a fleet of {count} folders, {failed} failing"
    print_note(f"{label}: {cpu_s / count:.2f} s of CPU time and {seconds / count:.2f} s per board")
    yield BenchRow(f"{label}: elapsed time", seconds / 60, "min", 10, at_least=False)
    yield BenchRow(f"{label}: CPU time per core, of two", cpu_s / 60 / 2, "min")
    yield BenchRow(f"{label}: memory of all processes", peak_mb, "MB", 500, at_least=False)
