"""`make bench`: speed and memory of the project, as ratios of medians measured in one run.

Each row is printed as soon as it is measured. `out/bench.json` keeps the last rows of each theme. Themes that
are named on the command line are measured alone: `python -m tests.bench students`, `--gpu`.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from edge.hardware.gpu import detect_gpu
from edge.hardware.host import detect_machine
from tests.bench.rows import BenchRow

OUT = Path("out/bench.json")
Rows = Iterator[BenchRow]
THEMES: dict[str, tuple[str, ...]] = {
    "students": ("students:student_rows",),
    "engines": ("engines:engine_rows", "engines:streaming_rows"),
    "calibration": ("calibration:calibration_rows",),
    "flight": ("flight:flight_rows",),
    "live": ("live:live_rows",),
    "metrics": ("metrics:metric_rows",),
    "profiler": ("profiler:profiler_rows",),
    "sinks": ("sinks:sink_rows",),
    "simulation": ("simulation:simulation_rows",),
    "flash": ("flash:flash_rows",),
    "training": ("training:training_rows",),
    "gpu": ("gpu:gpu_rows",),
}
"""Modules and functions of each theme. A module is imported when it is measured: a board lacks what most of
them need, such as torch."""
LONG_THEMES: dict[str, tuple[str, ...]] = {"long": ("live:long_rows",), "fleet": ("fleet:fleet_rows",)}
"""Themes that are measured only by name, because they take long."""


def theme_rows(theme: str, folder: Path) -> Rows:
    """Yield the rows of a theme, measured in a folder."""
    for name in {**THEMES, **LONG_THEMES}[theme]:
        module, _, function = name.partition(":")
        yield from getattr(importlib.import_module(f"tests.bench.{module}"), function)(folder)


def parse_themes(words: list[str]) -> list[str]:
    """Return the themes that the command line names, or all that are not long; exit if one is unknown."""
    known = {**THEMES, **LONG_THEMES}
    themes = [word.removeprefix("--") for word in words] or [*THEMES]
    if unknown := [theme for theme in themes if theme not in known]:
        sys.exit(f"no theme {', '.join(unknown)}; expected some of {', '.join(known)}")
    return themes


def measure(themes: list[str]) -> dict[str, list[BenchRow]]:
    """Measure the themes, with a progress bar on a terminal, and print each row when it is measured."""
    rows: dict[str, list[BenchRow]] = {}
    console = Console()
    progress = Progress(
        SpinnerColumn(),
        TextColumn("bench {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task("", total=len(themes))
        for number, theme in enumerate(themes, 1):
            progress.update(task, description=theme)
            print(f"{theme} ({number} of {len(themes)})", flush=True)
            start_s = time.monotonic()
            rows[theme] = []
            with tempfile.TemporaryDirectory() as folder:
                for row in theme_rows(theme, Path(folder)):
                    print(f"  {row.describe()}", flush=True)
                    rows[theme].append(row)
            print(f"  rows: {len(rows[theme])}, seconds: {time.monotonic() - start_s:.0f}", flush=True)
            progress.advance(task)
    return rows


def save(rows: dict[str, list[BenchRow]], machine: str) -> None:
    """Replace the rows of the measured themes in `OUT`."""
    OUT.parent.mkdir(exist_ok=True)
    saved = json.loads(OUT.read_text()).get("themes", {}) if OUT.is_file() else {}
    for theme, measured in rows.items():
        saved[theme] = {"machine": machine, "rows": [row.to_document() for row in measured]}
    OUT.write_text(json.dumps({"themes": saved}, indent=1) + "\n")
    print(f"wrote {OUT}")


def main() -> None:
    """Measure, print and save the rows; exit with 1 if a bound is broken."""
    themes = parse_themes(sys.argv[1:])
    host, gpu = detect_machine(), detect_gpu()
    machine = f"{host.cpu}, {host.cores} cores" + (f", {gpu.name}" if gpu else "")
    print(machine, flush=True)
    rows = measure(themes)
    broken = [row for measured in rows.values() for row in measured if not row.is_within_bound]
    print(f"all rows: {sum(map(len, rows.values()))}, broken bounds: {len(broken)}")
    for row in broken:
        print(f"  {row.describe()}")
    save(rows, machine)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
