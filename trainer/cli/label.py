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

from edge.cli.console import print_next_step, progress_bar
from edge.cli.options import FILE, FOLDER, FolderType, range_option
from edge.core.atomic_files import PendingFile, atomic_file
from edge.core.errors import InputError
from edge.core.frames import parse_size
from edge.sources.pixel_range import describe_range
from trainer.data.map_shards import SCHEMA, LabellingPlan, ShardedMaps
from trainer.datasets.clips import pluralize
from trainer.datasets.factory import READERS, open_dataset
from trainer.inference.predictor import DEFAULT_FPS
from trainer.inference.pseudo_labels import clips_sha256, write_shards
from trainer.training.distributed import process_group, share_cores

MAX_NAMED_CLIPS = 3
"""Clips at fault that are named on the screen; the JSON names all."""


@click.command(
    epilog="Example: aerogaze label run/teachers --dataset videos --root kinetics400 --out maps --stride 5"
)
@click.argument("model", metavar="TEACHERS|STUDENT|RELEASE|MAPS")
@click.option(
    "--dataset", "kind", type=click.Choice(list(READERS)), required=True, help="Layout of the data set."
)
@click.option("--root", type=FOLDER, required=True, help="Folder of the data set.")
@click.option(
    "--out",
    type=FolderType(file_okay=False),
    required=True,
    help="Folder for the shards. Resumes if the same command started it.",
)
@range_option
@click.option("--split", metavar="NAME", help="Label only this split: train, val or test (default: all).")
@click.option(
    "--precision",
    metavar="NAME",
    help="Precision of a release (default: the fastest this machine computes natively).",
)
@click.option("--size", metavar="WxH", default="64x64", show_default=True, help="Size of the maps.")
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Label every Nth frame.",
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    metavar="FPS",
    default=DEFAULT_FPS,
    show_default=True,
    help="Frame rate of the clips, for models that look back by seconds.",
)
@click.option(
    "--max-frames",
    type=click.IntRange(min=1),
    metavar="N",
    help="Label only this many first frames of each clip.",
)
@click.option(
    "--clips-per-shard",
    type=click.IntRange(min=1),
    metavar="N",
    default=100,
    show_default=True,
    help="Clips per file.",
)
@click.option("--shard", "share", metavar="I/N", help="Do only share I of N of the work, counted from 0.")
@click.option(
    "--json",
    "json_path",
    type=FILE,
    help="Write what the folder holds when the command ends, as JSON.",
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
    """Write the saliency maps of a model for each video, to train from.

    The model is a run's TEACHERS (RUN/teachers, or one of them: RUN/teachers/spatial), a STUDENT, a RELEASE,
    or a folder of MAPS. Started by torchrun or srun, the processes share the work.
    """
    from trainer.inference.predictors import fingerprint, open_predictors  # imports torch, the help does not

    width, height = parse_size(size, "--size", 8, 1024)
    part, parts = _parse_share(share)
    if json_path:
        PendingFile(json_path).discard()  # fails now, not after the work, if the file cannot be written
    dataset = open_dataset(kind, root, split)
    _divide_machine(part)
    predictors = open_predictors(model, precision, fps)
    plan = LabellingPlan(
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
        pixel_range=describe_range(),
    )
    started = time.perf_counter()
    with progress_bar("label", columns=[TimeRemainingColumn()], shown=part == 0) as bar:
        task = bar.add_task("clips", total=_count_clips(plan, part, parts))
        written = write_shards(
            dataset, predictors, plan, out, part, parts, lambda clips: bar.advance(task, clips)
        )
    _report(out, root, written, time.perf_counter() - started, json_path)


def _count_clips(plan: LabellingPlan, part: int, parts: int) -> int:
    """Return the number of clips in a share of the work; the last shard may hold fewer than the others."""
    return sum(
        min(plan.clips_per_shard, plan.clips - shard * plan.clips_per_shard)
        for shard in range(part, plan.shards, parts)
    )


def _report(out: Path, root: Path, written: int, seconds: float, json_path: Path | None) -> None:
    maps = ShardedMaps(out)
    summary = _summarize(maps)
    if json_path:
        with atomic_file(json_path) as pending:
            pending.write_text(json.dumps(summary, indent=1) + "\n")
    print(
        f"wrote {written} of {pluralize(maps.plan.shards, 'shard')} in {seconds:.0f} s; {out} holds "
        f"{maps.shards}: {pluralize(len(maps.clips), 'clip')}, {summary['frames']} frames, "
        f"{maps.bytes / 1e6:.1f} MB"
    )
    if faults := maps.faults:
        first = "; ".join(reasons[0] for reasons in list(faults.values())[:MAX_NAMED_CLIPS] if reasons)
        rest = f" and {len(faults) - MAX_NAMED_CLIPS} more" if len(faults) > MAX_NAMED_CLIPS else ""
        print(f"{pluralize(len(faults), 'clip')} at fault: {first}{rest}")
    if json_path:
        print(f"wrote {json_path}")
    if maps.shards == maps.plan.shards:
        data = f"--set data.kind={maps.plan.dataset} --set data.root={root}"
        key = "students.maps" if len(maps.plan.maps) > 1 else "data.maps"
        print_next_step(f"aerogaze train RECIPE {data} --set {key}={out} --out student.safetensors")
    else:
        print_next_step("the other shares, or the same command again, until all shards are written")


def _summarize(maps: ShardedMaps) -> dict[str, object]:
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


def _parse_share(text: str | None) -> tuple[int, int]:
    """Return index and number of shares: from --shard, else from torchrun or srun."""
    group = process_group()
    if text is None:
        return group.rank, group.world_size
    if group.world_size > 1:
        raise InputError("--shard was given, but torchrun or srun already shares the work: leave it out")
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if part >= parts:
        raise InputError(f"--shard {text}: expected I/N with I from 0 to N - 1, as 0/4")
    return part, parts


def _divide_machine(part: int) -> None:
    """Take this process's share of the cores and GPUs that it shares with the others on this machine."""
    import torch  # here, since the help does not need it

    local_processes = process_group().local_world_size
    share_cores()
    if local_processes > 1:
        cv2.setNumThreads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(part % torch.cuda.device_count())
