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

from edge.cli.console import progress_bar
from edge.core.atomic_files import PendingFile
from edge.core.errors import InputError
from trainer.models.describe import multiply_accumulates
from trainer.models.mobilenet3d import CLIP
from trainer.models.skd import SpatialStudent, SpatiotemporalNetwork, TemporalStudent, Trunk
from trainer.models.student import parameter_count
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes.loader import QatRecipe, Recipe, SkdRecipe, TinyHDRecipe, load_recipe
from trainer.training import tinyhd
from trainer.training.loop import Progress, Run, processes
from trainer.training.run import train as train_student

MIN_DATA_WAIT = 0.3
"""Share of a stage's time spent on data that is worth a word."""


@click.command(epilog="Example: aerogaze train skd-64 --set network.steps=200 --out student.safetensors")
@click.argument("recipe")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The student: a .safetensors file.",
)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for checkpoints and logs; a training that is found there goes on.",
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
    help="Change the recipe, as network.steps=200.",
)
@click.option(
    "--qat",
    "release",
    metavar="RELEASE",
    help="Tune a student, named instead of a recipe, to int8 as its RELEASE rounds it.",
)
@click.option("--describe", is_flag=True, help="Print what the recipe's networks cost, and train nothing.")
def train(
    recipe: str,
    out: Path | None,
    folder: Path | None,
    interval: int,
    changes: tuple[str, ...],
    release: str | None,
    describe: bool,
) -> None:
    """Distil a student as RECIPE says: a .toml file or a shipped recipe's name.

    With --qat, RECIPE is a student: quantisation-aware distillation from its own fp32 maps.

    Started by torchrun or srun, all processes train together.
    """
    pairs = [change.partition("=") for change in changes]
    if bad := next((key for key, equals, _ in pairs if not equals), None):
        raise InputError(f"--set {bad}: expected KEY=VALUE, as network.steps=200")
    told = {key: value for key, _, value in pairs}
    if release is not None:
        told |= {"student.weights": json.dumps(recipe), "student.release": json.dumps(release)}
    plan = load_recipe("qat" if release is not None else recipe, told)
    if describe:
        _describe(plan)
        return
    if out is None:
        raise click.UsageError("missing --out: expected a name for the student, as student.safetensors")
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: expected a name ending in .safetensors")
    PendingFile(out).discard()  # a place that cannot be written is told now, not after the training
    started = time.perf_counter()
    waits: dict[str, float] = {}
    console = Console(stderr=True)
    leader = processes().rank == 0
    loss_column = TextColumn("loss {task.fields[loss]:.3f}")
    with progress_bar("train", columns=[loss_column], shown=leader, transient=False) as bar:
        tasks = {
            stage: bar.add_task(
                f"{stage:{max(map(len, plan.stages))}}", total=table.steps, loss=float("nan"), visible=False
            )
            for stage, table in plan.stages.items()
        }

        def on_step(progress: Progress) -> None:
            task = tasks[progress.stage]
            bar.update(task, completed=progress.step, loss=progress.loss, visible=True)
            waits[progress.stage] = progress.wait

        student = train_student(plan, Run(folder, interval, on_step))
    if not leader:
        return
    replace(student, trained={**student.trained, "commit": _commit()}).save(out)
    print(
        f"{student.name}: {parameter_count(student.network):,} parameters, "
        f"trained in {time.perf_counter() - started:.0f} s; wrote {out}"
    )
    if isinstance(plan, QatRecipe):
        tuned = student.trained["qat"]
        print(
            f"KLD of int8 maps to fp32's, on windows not trained on ({tuned['data']}): "
            f"{tuned['kld_before']:.2e} before, {tuned['kld_after']:.2e} after"
        )
        print(f"next: aerogaze export {out} --frames SOURCE --out RELEASE")
    else:
        print(f"trained on {student.trained['data']}")
    for stage, share in waits.items():
        if share > MIN_DATA_WAIT:
            console.print(
                f"{stage}: {share:.0%} of the time went to waiting for data; "
                f"set workers above {plan.workers} if cores are idle"
            )


class _Described(NamedTuple):
    stage: str
    name: str
    network: nn.Module
    inputs: tuple[Tensor, ...]
    maps: int = 1


def _describe(recipe: Recipe) -> None:
    """Print size and work of each network of the recipe; nothing is computed but shapes."""
    if isinstance(recipe, QatRecipe):
        raise InputError("--describe tells of a recipe's networks, and --qat tunes one that is there")
    table = Table(title=recipe.name, title_justify="left")
    for heading in ("stage", "network", "input", "parameters", "GMAC", "maps"):
        table.add_column(heading, justify="left" if heading in ("stage", "network") else "right")
    with torch.device("meta"):
        networks = _tinyhd(recipe) if isinstance(recipe, TinyHDRecipe) else _skd(recipe)
        for stage, name, network, inputs, maps in networks:
            work = multiply_accumulates(network, *inputs) / 1e9
            size = " x ".join(map(str, inputs[0].shape[2:]))
            table.add_row(stage, name, size, f"{parameter_count(network):,}", f"{work:.3f}", str(maps))
    Console().print(table)
    what = "a clip" if isinstance(recipe, TinyHDRecipe) else "a frame with its neighbour"
    print(f"GMAC: 10^9 multiply-accumulates for {what}, of which a network makes so many maps")


def _skd(recipe: Recipe) -> list[_Described]:
    assert isinstance(recipe, SkdRecipe), recipe
    large = (torch.empty(1, 3, *recipe.large[::-1]),) * 2
    small = (torch.empty(1, 3, recipe.student.resolution, recipe.student.resolution),) * 2
    networks: list[_Described] = []
    if recipe.teachers.steps:
        networks += [
            _Described("teachers", "spatial", SpatialTeacher(), large),
            _Described("teachers", "temporal", TemporalTeacher(), large),
        ]
    if recipe.students.steps:
        trunk = Trunk()
        networks += [
            _Described("students", "spatial", SpatialStudent(trunk), small),
            _Described("students", "temporal", TemporalStudent(trunk, recipe.student.align), small),
        ]
    network = SpatiotemporalNetwork(recipe.student.align)
    return [*networks, _Described("network", "spatiotemporal", network, small)]


def _tinyhd(recipe: TinyHDRecipe) -> list[_Described]:
    clip = (torch.empty(1, 3, CLIP, recipe.student.height, recipe.student.width),)
    return [
        _Described(stage, type(network).__name__, network, clip, maps)
        for stage, network, maps in tinyhd.networks(recipe)
    ]


def _commit() -> str | None:
    """Return the commit of the code at work, if it runs from a checkout."""
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
        )
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
