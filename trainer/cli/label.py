"""`aerogaze label`."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import click
import cv2
from rich.progress import TimeRemainingColumn

from edge.cli.console import progress_bar
from edge.core.atomic_files import PendingFile, written_file
from edge.core.errors import InputError
from edge.core.frames import parse_size
from edge.hardware.host import this_machine
from trainer.data.map_shards import SCHEMA, LabelledMaps, Plan
from trainer.datasets.factory import READERS, open_dataset
from trainer.inference.predictors import FPS, fingerprint, open_predictors
from trainer.inference.pseudo_labels import clips_sha256
from trainer.inference.pseudo_labels import label as write_shards
from trainer.training.loop import processes

MAX_NAMED_CLIPS = 3
"""Clips at fault that are named on the screen; all are in the JSON."""


@click.command(
    epilog="Example: aerogaze label run/teachers --dataset videos --root kinetics400 --out maps --stride 5"
)
@click.argument("model", metavar="TEACHERS|STUDENT|RELEASE|MAPS")
@click.option("--dataset", "kind", type=click.Choice(list(READERS)), required=True, help="The layout.")
@click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="The folder that holds the data set."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder of shards; what is there by the same command is gone on with.",
)
@click.option("--split", help="train, val or test (default: all that is there).")
@click.option("--precision", help="A release's (default: the fastest this machine runs natively).")
@click.option("--size", default="64x64", show_default=True, help="The maps' WIDTHxHEIGHT.")
@click.option(
    "--stride", type=click.IntRange(min=1), default=1, show_default=True, help="Label every so many frames."
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    default=FPS,
    show_default=True,
    help="The clips' frame rate, for models that look back by seconds.",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Only this many first frames of each clip.")
@click.option(
    "--clips-per-shard", type=click.IntRange(min=1), default=100, show_default=True, help="Clips in a file."
)
@click.option("--shard", "share", metavar="I/N", help="Do share I of N, counted from 0, and no more.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write what the folder holds then."
)
def label(
    model: str,
    kind: str,
    root: Path,
    out: Path,
    split: str | None,
    precision: str | None,
    size: str,
    stride: int,
    fps: float,
    max_frames: int | None,
    clips_per_shard: int,
    share: str | None,
    json_path: Path | None,
) -> None:
    """Write a model's saliency maps of each video, to train from.

    The model is a run's TEACHERS (RUN/teachers, or one: RUN/teachers/spatial), a STUDENT, a RELEASE, or
    MAPS made before. Started by torchrun or srun, the processes share the work.
    """
    width, height = parse_size(size, "--size", 8, 1024)
    part, parts = _share(share)
    if json_path:
        PendingFile(json_path).discard()  # a place that cannot be written is told now
    dataset = open_dataset(kind, root, split)
    _take_my_part_of_the_machine(part)
    predictors = open_predictors(model, precision, fps)
    plan = Plan(
        model=model,
        sha256=fingerprint(model),
        precision=precision,
        dataset=kind,
        split=split,
        clips=len(dataset.clips),
        clips_sha256=clips_sha256(dataset),
        maps=tuple(predictors),
        width=width,
        height=height,
        stride=stride,
        max_frames=max_frames,
        clips_per_shard=clips_per_shard,
        fps=fps,
    )
    started = time.perf_counter()
    mine = sum(
        min(clips_per_shard, plan.clips - number * clips_per_shard)
        for number in range(part, plan.shards, parts)
    )
    with progress_bar("label", columns=[TimeRemainingColumn()], shown=part == 0) as bar:
        task = bar.add_task("clips", total=mine)
        written = write_shards(
            dataset, predictors, plan, out, part, parts, lambda clips: bar.advance(task, clips)
        )
    maps = LabelledMaps(out)
    told = _told(maps)
    if json_path:
        with written_file(json_path) as pending:
            pending.write_text(json.dumps(told, indent=1) + "\n")
    print(
        f"wrote {written} of {plan.shards} shards in {time.perf_counter() - started:.0f} s; {out} holds "
        f"{maps.shards}: {len(maps.clips)} clips, {told['frames']} frames, {maps.bytes / 1e6:.1f} MB"
    )
    if faults := maps.faults:
        named = "; ".join(why for whys in list(faults.values())[:MAX_NAMED_CLIPS] for why in whys[:1])
        more = f" and {len(faults) - MAX_NAMED_CLIPS} more" if len(faults) > MAX_NAMED_CLIPS else ""
        print(f"{len(faults)} clip{'s' * (len(faults) > 1)} at fault: {named}{more}")
    if json_path:
        print(f"wrote {json_path}")


def _told(maps: LabelledMaps) -> dict[str, object]:
    clips = maps.clips
    return {
        "schema": SCHEMA,
        "plan": asdict(maps.plan),
        "shards": maps.plan.shards,
        "shards_done": maps.shards,
        "clips_done": len(clips),
        "frames": sum(clips.values()),
        "bytes": maps.bytes,
        "seconds": round(maps.seconds, 3),
        "faults": maps.faults,
    }


def _share(words: str | None) -> tuple[int, int]:
    team = processes()
    if words is None:
        return team.rank, team.world
    if team.world > 1:
        raise InputError("--shard was given, but torchrun or srun shares the work already: leave it out")
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", words)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if part >= parts:
        raise InputError(f"--shard {words}: expected I/N with I from 0 to N - 1, as 0/4")
    return part, parts


def _take_my_part_of_the_machine(part: int) -> None:
    """Share cores and GPUs with the processes beside this one."""
    import torch

    beside = processes().local_world
    torch.set_num_threads(max(1, this_machine().cores // beside))
    if beside > 1:
        cv2.setNumThreads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(part % torch.cuda.device_count())
