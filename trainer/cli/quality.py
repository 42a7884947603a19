"""`aerogaze quality`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cv2
from rich.console import Console

from edge.cli.console import progress_bar
from edge.cli.options import FILE, FOLDER
from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.release.manifest import SHIPPED_RELEASES
from trainer.evaluation.protocol import Protocol, load_protocol

if TYPE_CHECKING:
    from trainer.evaluation.candidate_maps import Candidate
    from trainer.evaluation.quality import Effort, Quality

DATA_VARIABLE = "AEROGAZE_DATA"
SCHEMA = 1
MIN_WIDTH = 100
"""Columns of the tables where the terminal is narrower, or where there is none."""


@click.command(epilog="Example: aerogaze quality skd-64 skd-64-motion --data ../shared/data --json q.json")
@click.argument("candidates", metavar="[STUDENT|RELEASE]...", nargs=-1)
@click.option(
    "--data",
    type=FOLDER,
    envvar=DATA_VARIABLE,
    help=f"Folder of the real sequences (default: ${DATA_VARIABLE}); without, they are skipped.",
)
@click.option("--precision", metavar="NAME", help="Precision of the releases (default: the fastest here).")
@click.option("--quick", is_flag=True, help="A fifth of the work: every fourth frame and fewer made clips.")
@click.option("--json", "json_path", type=FILE, help="Write all measures as JSON.")
@click.option("--sheets", type=FOLDER, help="Write a .png of the worst frames for each candidate here.")
@click.option("--fit", is_flag=True, help="First fit the score of each release, and write it to the release.")
def quality(
    candidates: tuple[str, ...],
    data: Path | None,
    precision: str | None,
    quick: bool,
    json_path: Path | None,
    sheets: Path | None,
    fit: bool,
) -> None:
    """Judge students and releases side by side, by one protocol.

    Without names all shipped releases are judged. See docs/explanation/protocol.md.
    """
    # These import torch, which the help does not need.
    from trainer.evaluation.candidate_maps import Candidate
    from trainer.evaluation.quality import QUICK, Effort, measure_quality
    from trainer.evaluation.score_fitting import fit_scores, write_score

    if data is not None and not data.is_dir():
        raise InputError(f"no folder {data}; expected the real sequences (--data or ${DATA_VARIABLE})")
    if sheets and data is None:
        raise click.UsageError(f"--sheets needs the real sequences: --data or ${DATA_VARIABLE}")
    names = candidates or tuple(sorted(path.name for path in SHIPPED_RELEASES.glob("*") if path.is_dir()))
    protocol, effort = load_protocol(), QUICK if quick else Effort()
    with ExitStack() as stack:
        json_file = stack.enter_context(atomic_file(json_path)) if json_path else None
        bar = stack.enter_context(progress_bar("quality"))
        task = bar.add_task("open", total=None)

        def show(step: str) -> None:
            bar.update(task, description=step, advance=1)

        opened = [Candidate(name, precision) for name in names]
        if fit:
            calibrations = fit_scores(opened, on_clip=lambda: show("fit the score"))
            for candidate, calibration in zip(opened, calibrations, strict=True):
                write_score(candidate, calibration)
        results = measure_quality(opened, protocol, data, effort, show)
        if json_file:
            json_file.write_text(json.dumps(_document(results, protocol, effort), indent=1) + "\n")
        if sheets and data is not None:
            _write_sheets(opened, protocol, data, effort, sheets)
    _print(results, protocol, data)


def _write_sheets(
    candidates: Sequence[Candidate], protocol: Protocol, data: Path, effort: Effort, folder: Path
) -> None:
    from trainer.evaluation.quality_sheet import worst_frames_sheet

    folder.mkdir(parents=True, exist_ok=True)
    for candidate in candidates:
        path = folder / f"{candidate.label}.png"
        if not cv2.imwrite(str(path), worst_frames_sheet(candidate, protocol, data, effort)):
            raise InputError(f"cannot write {path}: is the disk full?")


def _document(results: Sequence[Quality], protocol: Protocol, effort: Effort) -> dict[str, Any]:
    """Return the content of the JSON file."""
    return {
        "schema": SCHEMA,
        "effort": asdict(effort),
        "places": {place.name: list(place.sequences) for place in protocol.places},
        "interval": "95 %, bootstrap over sequences",
        "candidates": [result.to_dict() for result in results],
    }


def _print(results: Sequence[Quality], protocol: Protocol, data: Path | None) -> None:
    from trainer.evaluation.quality_table import (
        alarm_table,
        main_table,
        place_table,
        reliability_table,
        sequence_table,
    )

    console = Console()
    console = Console(width=max(MIN_WIDTH, console.width))
    for result in results:
        console.print(f"{result.name}: {result.description}", highlight=False)
    console.print(main_table(results))
    console.print("False alarms", alarm_table(results), sep="\n", highlight=False)
    if data is None:
        print(f"skipped box proxy, gaze and views: no real sequences; give --data or ${DATA_VARIABLE}")
        return
    console.print("Places, each as its own fold", place_table(results, protocol), sep="\n", highlight=False)
    console.print(reliability_table(results))
    console.print("Sequences", sequence_table(results), sep="\n", highlight=False)
    found = {sequence.name for sequence in results[0].sequences}
    missing = [name for place in protocol.places for name in place.sequences if name not in found]
    if missing:
        print(f"skipped {', '.join(missing)}: not in {data}")
    if results[0].gaze is None:
        print(f"skipped gaze: no ucf-sports in {data}")
    print("box proxy: one tracked target per frame, not eye data; intervals: 95 %, bootstrap over sequences")
