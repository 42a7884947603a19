"""`make bench`: the project's speed and memory, as ratios of medians measured in one run.

Contenders take turns, so that a busy machine slows them alike. `out/bench.json` keeps the last numbers of
each theme. Themes named on the command line are measured alone: `python -m tests.bench students`, `--gpu`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge.hardware.gpu import this_gpu
from edge.hardware.host import this_machine
from tests.bench.calibration import calibration_rows
from tests.bench.engines import engine_rows, streaming_rows
from tests.bench.flash import flash_rows
from tests.bench.fleet import fleet_rows
from tests.bench.flight import decoding_rows, made_clip, pipeline_rows, process_rows
from tests.bench.gpu import gpu_rows
from tests.bench.live import live_rows, long_rows
from tests.bench.metrics import metric_rows
from tests.bench.rows import Row
from tests.bench.sinks import sink_rows
from tests.bench.students import student_rows
from tests.bench.training import training_rows

OUT = Path("out/bench.json")


def flight_rows(folder: Path) -> list[Row]:
    """What is measured on a clip of 1280x720."""
    clip = made_clip(folder / "clip.mp4")
    return [*pipeline_rows(clip, folder), *decoding_rows(folder), *process_rows(clip, folder)]


THEMES: dict[str, Callable[[Path], list[Row]]] = {
    "students": lambda folder: student_rows(),
    "engines": lambda folder: [*engine_rows(folder), *streaming_rows(folder)],
    "calibration": calibration_rows,
    "flight": flight_rows,
    "live": live_rows,
    "metrics": lambda folder: metric_rows(),
    "sinks": sink_rows,
    "flash": flash_rows,
    "training": lambda folder: training_rows(),
    "gpu": gpu_rows,
}
ASKED = {"long": long_rows, "fleet": fleet_rows}
"""Measured only where they are named: they take long."""


def main() -> None:
    """Measure, print one table, keep the numbers; exit 1 if a bound is broken."""
    rows: dict[str, list[Row]] = {}
    themes = [theme.removeprefix("--") for theme in sys.argv[1:]] or [*THEMES]
    if unknown := [theme for theme in themes if theme not in {**THEMES, **ASKED}]:
        sys.exit(f"no theme {', '.join(unknown)}; expected some of {', '.join({**THEMES, **ASKED})}")
    for theme in themes:
        with tempfile.TemporaryDirectory() as folder:
            rows[theme] = {**THEMES, **ASKED}[theme](Path(folder))
    machine = this_machine()
    gpu = this_gpu()
    where = f"{machine.cpu}, {machine.cores} cores" + (f", {gpu.name}" if gpu else "")
    table = Table(title=where, title_justify="left")
    for column in ("what", "measured", "bound", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    measured = [row for some in rows.values() for row in some]
    for row in measured:
        sign = "at least" if row.at_least else "at most"
        bound = "" if row.bound is None else f"{sign} {row.bound:g}"
        value = f"{row.value:.5f}" if not row.unit else f"{row.value:.2f} {row.unit}"
        table.add_row(row.what, value, bound, "" if row.held else "BROKEN")
    Console().print(table)
    OUT.parent.mkdir(exist_ok=True)
    themes_there = json.loads(OUT.read_text()).get("themes", {}) if OUT.is_file() else {}
    for theme, some in rows.items():
        themes_there[theme] = {"machine": where, "rows": [row._asdict() for row in some]}
    OUT.write_text(json.dumps({"themes": themes_there}, indent=1) + "\n")
    print(f"wrote {OUT}")
    sys.exit(not all(row.held for row in measured))


if __name__ == "__main__":
    main()
