"""`make bench`: speed and memory of the project, as ratios of medians measured in one run.

Each row is printed as soon as it is measured. `out/bench.json` keeps the last rows of each theme. Themes that
are named on the command line are measured alone: `python -m tests.bench students`, `--gpu`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from tests.bench.calibration import calibration_rows
from tests.bench.engines import engine_rows, streaming_rows
from tests.bench.flash import flash_rows
from tests.bench.fleet import fleet_rows
from tests.bench.flight import decoding_rows, pipeline_rows, process_rows, write_clip
from tests.bench.gpu import gpu_rows
from tests.bench.live import live_rows, long_rows
from tests.bench.metrics import metric_rows
from tests.bench.profiler import profiler_rows
from tests.bench.rows import BenchRow
from tests.bench.simulation import simulation_rows
from tests.bench.sinks import sink_rows
from tests.bench.students import student_rows
from tests.bench.training import training_rows

OUT = Path("out/bench.json")
Rows = Iterator[BenchRow]


def all_engine_rows(folder: Path) -> Rows:
    """Yield the rows of the engines, of pairs and of streams."""
    yield from engine_rows(folder)
    yield from streaming_rows(folder)


def flight_rows(folder: Path) -> Rows:
    """Yield the rows that are measured on a clip of 1280x720."""
    clip = write_clip(folder / "clip.mp4")
    yield from pipeline_rows(clip, folder)
    yield from decoding_rows(folder)
    yield from process_rows(clip, folder)


THEMES: dict[str, Callable[[Path], Rows]] = {
    "students": lambda folder: student_rows(),
    "engines": all_engine_rows,
    "calibration": calibration_rows,
    "flight": flight_rows,
    "live": live_rows,
    "metrics": lambda folder: metric_rows(),
    "profiler": lambda folder: profiler_rows(),
    "sinks": sink_rows,
    "simulation": lambda folder: simulation_rows(),
    "flash": flash_rows,
    "training": lambda folder: training_rows(),
    "gpu": gpu_rows,
}
LONG_THEMES: dict[str, Callable[[Path], Rows]] = {"long": long_rows, "fleet": fleet_rows}
"""Themes that are measured only by name, because they take long."""


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
                for row in {**THEMES, **LONG_THEMES}[theme](Path(folder)):
                    print(f"  {row.describe()}", flush=True)
                    rows[theme].append(row)
            print(f"  rows: {len(rows[theme])}, seconds: {time.monotonic() - start_s:.0f}", flush=True)
            progress.advance(task)
    return rows


def save(rows: dict[str, list[BenchRow]], machine: str) -> None:
    """Replace the rows of the measured themes in `OUT`."""
    OUT.parent.mkdir(exist_ok=True)
    saved = json.loads(OUT.read_text()).get("themes", {}) if OUT.is_file() else {}
    for theme, theme_rows in rows.items():
        saved[theme] = {"machine": machine, "rows": [row.to_document() for row in theme_rows]}
    OUT.write_text(json.dumps({"themes": saved}, indent=1) + "\n")
    print(f"wrote {OUT}")


def main() -> None:
    """Measure, print and save the rows; exit with 1 if a bound is broken."""
    themes = parse_themes(sys.argv[1:])
    host, gpu = detect_machine(), detect_gpu()
    machine = f"{host.cpu}, {host.cores} cores" + (f", {gpu.name}" if gpu else "")
    print(machine, flush=True)
    rows = measure(themes)
    broken = [row for theme_rows in rows.values() for row in theme_rows if not row.is_within_bound]
    print(f"all rows: {sum(map(len, rows.values()))}, broken bounds: {len(broken)}")
    for row in broken:
        print(f"  {row.describe()}")
    save(rows, machine)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
