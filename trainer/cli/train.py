"""`aerogaze train`."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import torch
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table
from torch import Tensor, nn

from edge.cli.console import ERR_CONSOLE, progress_bar
from edge.core.atomic_files import PendingFile
from edge.core.errors import InputError
from trainer.models.complexity import multiply_accumulates
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.skd import SpatialStudent, SpatiotemporalNetwork, TemporalStudent, Trunk
from trainer.models.student import Student, parameter_count
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes.loader import QatRecipe, Recipe, SkdRecipe, TinyHDRecipe, load_recipe
from trainer.training import tinyhd
from trainer.training.distributed import process_group
from trainer.training.loop import TrainingRun
from trainer.training.monitor import TrainingProgress
from trainer.training.run import train as train_student

MIN_DATA_WAIT = 0.3
"""Share of a stage's time spent waiting for data from which on it is reported."""


@click.command(epilog="Example: aerogaze train skd-64 --set network.steps=200 --out student.safetensors")
@click.argument("recipe")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the student to this .safetensors file.",
)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for checkpoints and logs. A run that is found there is resumed.",
)
@click.option(
    "--interval",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps between checkpoints.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the recipe, as network.steps=200. Can be repeated.",
)
@click.option(
    "--qat",
    "release",
    metavar="RELEASE",
    help="Fine-tune a student for the int8 rounding of its RELEASE. RECIPE names the student.",
)
@click.option("--describe", is_flag=True, help="Print the size and cost of the networks; do not train.")
def train(
    recipe: str,
    out: Path | None,
    folder: Path | None,
    interval: int,
    changes: tuple[str, ...],
    release: str | None,
    describe: bool,
) -> None:
    """Distil a student from RECIPE: a .toml file, or the name of a shipped recipe.

    With --qat, RECIPE is a student, which is fine-tuned on its own fp32 maps (quantization-aware training).

    Started by torchrun or srun, all processes train together.
    """
    loaded = _load_recipe(recipe, changes, release)
    if describe:
        _describe(loaded)
        return
    if out is None:
        raise click.UsageError("missing --out: expected a name for the student, as student.safetensors")
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: expected a name ending in .safetensors")
    PendingFile(out).discard()  # fails now, not after the training, if the file cannot be written
    started = time.perf_counter()
    is_leader = process_group().rank == 0
    student, wait_shares = _run_training(loaded, folder, interval, is_leader)
    if not is_leader:
        return
    replace(student, trained={**student.trained, "commit": _commit()}).save(out)
    print(
        f"{student.name}: {parameter_count(student.network):,} parameters, "
        f"trained in {time.perf_counter() - started:.0f} s; wrote {out}"
    )
    if isinstance(loaded, QatRecipe):
        qat = student.trained["qat"]
        print(
            f"KLD of int8 maps to fp32's, on windows not trained on ({qat['data']}): "
            f"{qat['kld_before']:.2e} before, {qat['kld_after']:.2e} after"
        )
        print(f"next: aerogaze export {out} --frames SOURCE --out RELEASE")
    else:
        print(f"trained on {student.trained['data']}")
    for stage, share in wait_shares.items():
        if share > MIN_DATA_WAIT:
            ERR_CONSOLE.print(
                f"{stage}: {share:.0%} of the time was spent waiting for data; "
                f"set workers above {loaded.workers} if cores are idle"
            )


def _load_recipe(name: str, changes: tuple[str, ...], release: str | None) -> Recipe:
    pairs = [change.partition("=") for change in changes]
    if malformed := next((key for key, equals, _ in pairs if not equals), None):
        raise InputError(f"--set {malformed}: expected KEY=VALUE, as network.steps=200")
    values = {key: value for key, _, value in pairs}
    if release is None:
        return load_recipe(name, values)
    values |= {"student.weights": json.dumps(name), "student.release": json.dumps(release)}
    return load_recipe("qat", values)


def _run_training(
    recipe: Recipe, folder: Path | None, interval: int, is_leader: bool
) -> tuple[Student, dict[str, float]]:
    """Train under a progress bar.

    Returns:
        The student, and each stage's share of time spent waiting for data.
    """
    wait_shares: dict[str, float] = {}
    loss_column = TextColumn("loss {task.fields[loss]:.3f}")
    with progress_bar("train", columns=[loss_column], shown=is_leader, transient=False) as bar:
        width = max(map(len, recipe.stages))
        tasks = {
            stage: bar.add_task(f"{stage:{width}}", total=table.steps, loss=float("nan"), visible=False)
            for stage, table in recipe.stages.items()
        }

        def on_step(progress: TrainingProgress) -> None:
            task = tasks[progress.stage]
            bar.update(task, completed=progress.step, loss=progress.loss, visible=True)
            wait_shares[progress.stage] = progress.data_wait

        student = train_student(recipe, TrainingRun(folder, interval, on_step))
    return student, wait_shares


class _NetworkRow(NamedTuple):
    stage: str
    name: str
    network: nn.Module
    inputs: tuple[Tensor, ...]
    maps: int = 1


def _describe(recipe: Recipe) -> None:
    """Print size and cost of each network of a recipe. Only shapes are computed."""
    if isinstance(recipe, QatRecipe):
        raise InputError(
            "--describe does not fit --qat, which fine-tunes an existing network; expected a recipe: "
            "leave --qat or --describe out"
        )
    table = Table(title=recipe.name, title_justify="left")
    for heading in ("stage", "network", "input", "parameters", "GMAC", "maps"):
        table.add_column(heading, justify="left" if heading in ("stage", "network") else "right")
    with torch.device("meta"):
        rows = _tinyhd_networks(recipe) if isinstance(recipe, TinyHDRecipe) else _skd_networks(recipe)
        for stage, name, network, inputs, maps in rows:
            gmac = multiply_accumulates(network, *inputs) / 1e9
            size = " x ".join(map(str, inputs[0].shape[2:]))
            table.add_row(stage, name, size, f"{parameter_count(network):,}", f"{gmac:.3f}", str(maps))
    Console().print(table)
    unit = "clip" if isinstance(recipe, TinyHDRecipe) else "frame with its neighbour"
    print(f"GMAC: 10^9 multiply-accumulates per {unit}; maps: number of maps that these compute")


def _skd_networks(recipe: Recipe) -> list[_NetworkRow]:
    assert isinstance(recipe, SkdRecipe), recipe
    large = (torch.empty(1, 3, *recipe.teacher_size[::-1]),) * 2
    small = (torch.empty(1, 3, recipe.student.resolution, recipe.student.resolution),) * 2
    rows: list[_NetworkRow] = []
    if recipe.teachers.steps:
        rows += [
            _NetworkRow("teachers", "spatial", SpatialTeacher(), large),
            _NetworkRow("teachers", "temporal", TemporalTeacher(), large),
        ]
    if recipe.students.steps:
        trunk = Trunk()
        rows += [
            _NetworkRow("students", "spatial", SpatialStudent(trunk), small),
            _NetworkRow("students", "temporal", TemporalStudent(trunk, recipe.student.align), small),
        ]
    network = SpatiotemporalNetwork(recipe.student.align)
    return [*rows, _NetworkRow("network", "spatiotemporal", network, small)]


def _tinyhd_networks(recipe: TinyHDRecipe) -> list[_NetworkRow]:
    clip = (torch.empty(1, 3, CLIP_FRAMES, recipe.student.height, recipe.student.width),)
    return [
        _NetworkRow(stage, type(network).__name__, network, clip, maps)
        for stage, network, maps in tinyhd.list_networks(recipe)
    ]


def _commit() -> str | None:
    """Return the commit of this code if it runs from a checkout, else None."""
    try:
        # An installed package can lie inside another project's checkout; only a tracked file counts.
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
        )
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
