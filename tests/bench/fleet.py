"""A fleet of 1,000 boards as folders, of which a twentieth fails: the time and memory of its roll-out.

`python -m tests.bench fleet`. Boards install the smallest student in int8: most of what an install costs
here is the start of its two processes, as on a board; then come the trial's 350 calls and fsync.
"""

from __future__ import annotations

import resource
from pathlib import Path

from tests.bench.rows import Row
from tests.support.boards import copy_release
from tests.support.fleets import command, most_memory, simulation

BOARDS = 1000


def fleet_rows(folder: Path, count: int = BOARDS) -> list[Row]:
    """Roll out, and see that all ended as they should have."""
    tiny = copy_release(folder / "tiny", "int8", name="skd-32", student=Path("skd-32"))
    words, faults = simulation(folder, tiny, count)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, seconds, most_mb = most_memory(command(*words))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    failed = (folder / "report.json").read_text().count('"outcome": "failed"')
    assert (code, failed) == (1, len(faults))
    what = f"a fleet of {count} folders, {failed} failing"
    print(f"{what}: {cpu_s / count:.2f} s of a core and {seconds / count:.2f} s passed a board")
    return [
        Row(f"{what}: passed", seconds / 60, "min", 10, at_least=False),
        Row(f"{what}: of two cores' time", cpu_s / 60 / 2, "min"),
        Row(f"{what}: memory of all processes", most_mb, "MB", 500, at_least=False),
    ]
