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
from edge.cli.options import FILE, FOLDER, range_option
from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import Convention
from trainer.datasets.factory import READERS, open_dataset
from trainer.evaluation.contact_sheet import contact_sheet
from trainer.evaluation.motion_twins import CLIPS, TwinScores, twin_scores
from trainer.evaluation.scores import METRICS, RESAMPLES, Evaluation, evaluate_predictor
from trainer.inference.predictor import DEFAULT_FPS, Predictor


@click.command(
    epilog="Example: aerogaze evaluate skd-64 --dataset dhf1k --root DHF1K --split val --json scores.json"
)
@click.argument("maps", metavar="STUDENT|RELEASE|MAPS")
@click.option(
    "--dataset",
    "kind",
    type=click.Choice([*READERS, "twins"]),
    required=True,
    help="Layout of the data set; or twins: simulated clips that test whether the model uses motion.",
)
@click.option("--root", type=FOLDER, help="Folder of the data set; not for twins.")
@range_option
@click.option("--split", metavar="NAME", help="Evaluate only this split: train, val or test (default: all).")
@click.option(
    "--precision",
    metavar="NAME",
    help="Precision of a release (default: the fastest this machine computes natively).",
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    metavar="FPS",
    default=DEFAULT_FPS,
    show_default=True,
    help="Frame rate of the clips, for students that look back by seconds.",
)
@click.option(
    "--convention",
    type=click.Choice(get_args(Convention)),
    default="pysaliency",
    show_default=True,
    help="Convention of the metrics: exact, or as the Matlab code of the MIT benchmark and DHF1K.",
)
@click.option(
    "--max-frames",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score only this many first frames of each clip.",
)
@click.option("--json", "json_path", type=FILE, help="Write the scores, also per video, as JSON.")
@click.option("--picture", type=FILE, help="Write a .png of the best and the worst frames.")
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
    """Score saliency maps against human gaze.

    The maps come from a STUDENT (a .safetensors file), a RELEASE (a folder), or a folder of saved MAPS
    (<clip>/000000.png and so on). A shipped name means the release if there is one, else the student.
    """
    from trainer.inference.predictors import open_predictor  # imports torch, which the help does not need

    if picture and picture.suffix.lower() != ".png":
        raise InputError(f"cannot write {picture}: expected a name ending in .png")
    if kind == "twins":
        if any(value is not None for value in (root, split, max_frames, picture)):
            raise click.UsageError("--dataset twins takes no --root, --split, --max-frames or --picture")
        _evaluate_twins(open_predictor(maps, precision, NOMINAL_FPS), json_path)
        return
    if root is None:
        raise click.UsageError(f"--dataset {kind} needs --root, the folder that holds the data set")
    dataset = open_dataset(kind, root, split)
    predictor = open_predictor(maps, precision, fps)
    with ExitStack() as stack:
        # Opened before the work, so that a path that cannot be written fails at once.
        json_file = stack.enter_context(atomic_file(json_path)) if json_path else None
        picture_file = stack.enter_context(atomic_file(picture)) if picture else None
        bar = stack.enter_context(progress_bar("evaluate"))
        labelled = [len(clip) for clip in dataset.clips if clip.label_kinds]
        total = sum(min(length, max_frames or length) for length in labelled)
        task = bar.add_task(kind, total=total)
        evaluation = evaluate_predictor(dataset, predictor, max_frames, lambda: bar.advance(task), convention)
        if json_file:
            json_file.write_text(json.dumps(evaluation.to_dict(dataset, max_frames), indent=1) + "\n")
        if picture_file and not cv2.imwrite(str(picture_file), contact_sheet(evaluation)):
            raise InputError(f"cannot write {picture}: is the disk full?")
    _print_scores(evaluation)
    print(dataset.summary())
    for path in filter(None, (json_path, picture)):
        print(f"wrote {path}")


def _evaluate_twins(predictor: Predictor, json_path: Path | None) -> None:
    with ExitStack() as stack:
        json_file = stack.enter_context(atomic_file(json_path)) if json_path else None
        bar = stack.enter_context(progress_bar("evaluate"))
        task = bar.add_task("twins", total=CLIPS)
        scores = twin_scores(predictor, on_clip=lambda: bar.advance(task))
        if json_file:
            document = {"schema": 1, "maps": predictor.description, **asdict(scores)}
            json_file.write_text(json.dumps(document, indent=1) + "\n")
    _print_twin_scores(predictor, scores)
    if json_path:
        print(f"wrote {json_path}")


def _print_twin_scores(predictor: Predictor, scores: TwinScores) -> None:
    table = Table(title=predictor.description, title_justify="left")
    for column in ("", "in motion", "last frame held", "chance"):
        table.add_column(column, justify="right" if column else "left")
    for name, moving, frozen in (
        ("mover first, over a second", scores.moving, scores.frozen),
        ("mover first, last map alone", scores.moving_once, scores.frozen_once),
    ):
        table.add_row(name, *(f"{share:.2f}" for share in (moving, frozen, scores.chance)))
    table.add_row("map off all twins, mover removed", f"{scores.off:.2f}", f"{scores.off_frozen:.2f}", "")
    Console().print(table)
    print(f"{scores.clips} held-out simulated clips of identical twins, of which one moves")


def _print_scores(evaluation: Evaluation) -> None:
    table = Table(title=evaluation.predictor, title_justify="left")
    for column in ("metric", "mean", "95 % interval", "better", "videos", "frames"):
        table.add_column(column, justify="left" if column in ("metric", "better") else "right")
    skipped: dict[str, list[str]] = {}
    for metric in METRICS:
        if reason := evaluation.skipped.get(metric.name):
            skipped.setdefault(reason, []).append(metric.title)
            continue
        s = evaluation.scores[metric.name]
        interval = "-" if s.low is None else f"{s.low:.3f} .. {s.high:.3f}"
        table.add_row(metric.title, f"{s.mean:.3f}", interval, metric.better, str(s.videos), str(s.frames))
    Console().print(table)
    print(f"convention {evaluation.convention} (see aerogaze evaluate --help)")
    print(f"frames averaged to videos, videos to the mean; bootstrap over videos, {RESAMPLES} resamples")
    for reason, titles in skipped.items():
        print(f"skipped {', '.join(titles)}: {reason}")
    if any(m.needs == "box" and m.name in evaluation.scores for m in METRICS):
        print("box metrics are a proxy: one tracked target per frame, not eye data")
