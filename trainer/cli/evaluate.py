"""`aerogaze evaluate`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click
import cv2
from rich.console import Console
from rich.table import Table

from edge.cli.console import progress_bar
from edge.core.atomic_files import written_file
from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import Convention
from trainer.datasets.factory import READERS, open_dataset
from trainer.evaluation.contact_sheet import contact_sheet
from trainer.evaluation.motion_twins import CLIPS, twin_scores
from trainer.evaluation.scores import METRICS, RESAMPLES, Evaluation
from trainer.evaluation.scores import evaluate as score
from trainer.inference.predictors import FPS, Predictor, open_predictor


@click.command(
    epilog="Example: aerogaze evaluate skd-64 --dataset dhf1k --root DHF1K --split val --json scores.json"
)
@click.argument("maps", metavar="STUDENT|RELEASE|MAPS")
@click.option(
    "--dataset",
    "kind",
    type=click.Choice([*READERS, "twins"]),
    required=True,
    help="The layout; or twins, made clips that tell whether motion counts.",
)
@click.option(
    "--root", type=click.Path(path_type=Path), help="The folder that holds the data set; none for twins."
)
@click.option("--split", help="train, val or test (default: all that is there).")
@click.option("--precision", help="A release's (default: the fastest this machine runs natively).")
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    default=FPS,
    show_default=True,
    help="The clips' frame rate, for students that look back by seconds.",
)
@click.option(
    "--convention",
    type=click.Choice(get_args(Convention)),
    default="pysaliency",
    show_default=True,
    help="Of the metrics: exact, or the MIT benchmark's and DHF1K's Matlab code.",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Only this many first frames of each clip.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write the scores, of each video too."
)
@click.option(
    "--picture", type=click.Path(path_type=Path), help="Write a .png of the best and the worst frames."
)
def evaluate(
    maps: str,
    kind: str,
    root: Path | None,
    split: str | None,
    precision: str | None,
    fps: float,
    convention: Convention,
    max_frames: int | None,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Score saliency maps against where viewers looked.

    The maps are a STUDENT's (a .safetensors file), a RELEASE's (a folder), or MAPS made before (a
    folder with <clip>/000000.png and on). A shipped name is the release, else the student.
    """
    if picture and picture.suffix.lower() != ".png":
        raise InputError(f"cannot write {picture}: expected a name ending in .png")
    if kind == "twins":
        if any(given is not None for given in (root, split, max_frames, picture)):
            raise click.UsageError("--dataset twins takes no --root, --split, --max-frames or --picture")
        _twins(open_predictor(maps, precision, NOMINAL_FPS), json_path)
        return
    if root is None:
        raise click.UsageError(f"--dataset {kind} needs --root, the folder that holds the data set")
    dataset = open_dataset(kind, root, split)
    predictor = open_predictor(maps, precision, fps)
    with ExitStack() as stack:
        json_file = stack.enter_context(written_file(json_path)) if json_path else None
        picture_file = stack.enter_context(written_file(picture)) if picture else None
        bar = stack.enter_context(progress_bar("evaluate"))
        labelled = [len(clip) for clip in dataset.clips if clip.truths]
        total = sum(min(length, max_frames or length) for length in labelled)
        task = bar.add_task(kind, total=total)
        found = score(dataset, predictor, max_frames, lambda: bar.advance(task), convention)
        if json_file:
            json_file.write_text(json.dumps(found.document(dataset, max_frames), indent=1) + "\n")
        if picture_file and not cv2.imwrite(str(picture_file), contact_sheet(found)):
            raise InputError(f"cannot write {picture}: is the disk full?")
    _print_scores(found)
    print(dataset.summary())
    for place in filter(None, (json_path, picture)):
        print(f"wrote {place}")


def _twins(predictor: Predictor, json_path: Path | None) -> None:
    with ExitStack() as stack:
        json_file = stack.enter_context(written_file(json_path)) if json_path else None
        bar = stack.enter_context(progress_bar("evaluate"))
        task = bar.add_task("twins", total=CLIPS)
        found = twin_scores(predictor, on_clip=lambda: bar.advance(task))
        if json_file:
            document = {"schema": 1, "maps": predictor.description, **asdict(found)}
            json_file.write_text(json.dumps(document, indent=1) + "\n")
    table = Table(title=predictor.description, title_justify="left")
    for column in ("", "in motion", "last frame held", "chance"):
        table.add_column(column, justify="right" if column else "left")
    for what, moving, frozen in (
        ("mover first, over a second", found.moving, found.frozen),
        ("mover first, last map alone", found.moving_once, found.frozen_once),
    ):
        table.add_row(what, *(f"{share:.2f}" for share in (moving, frozen, found.chance)))
    table.add_row("map off all twins, mover gone", f"{found.off:.2f}", f"{found.off_frozen:.2f}", "")
    Console().print(table)
    print(f"{found.clips} held-out made clips of identical twins, of which one moves")
    if json_path:
        print(f"wrote {json_path}")


def _print_scores(found: Evaluation) -> None:
    table = Table(title=found.predictor, title_justify="left")
    for column in ("metric", "mean", "95 % interval", "better", "videos", "frames"):
        table.add_column(column, justify="left" if column in ("metric", "better") else "right")
    reasons: dict[str, list[str]] = {}
    for metric in METRICS:
        if why := found.skipped.get(metric.name):
            reasons.setdefault(why, []).append(metric.title)
            continue
        s = found.scores[metric.name]
        between = "-" if s.low is None else f"{s.low:.3f} .. {s.high:.3f}"
        table.add_row(metric.title, f"{s.mean:.3f}", between, metric.better, str(s.videos), str(s.frames))
    Console().print(table)
    print(f"convention {found.convention}; see docs/metrics.md")
    print(f"frames averaged to videos, videos to the mean; bootstrap over videos, {RESAMPLES} resamples")
    for why, titles in reasons.items():
        print(f"skipped {', '.join(titles)}: {why}")
    if any(m.needs == "box" and m.name in found.scores for m in METRICS):
        print("box metrics are a proxy: one tracked target a frame, not eye data")
