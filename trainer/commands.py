"""`aerogaze train`."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from torch import nn

from edge.errors import InputError
from edge.files import PendingFile
from trainer.fit import Progress, Run, processes
from trainer.models.describe import multiply_accumulates
from trainer.models.skd import SpatialStudent, SpatiotemporalNetwork, TemporalStudent, Trunk
from trainer.models.student import parameter_count
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes import Recipe, SkdRecipe, load_recipe
from trainer.train import train as train_student

MUCH = 0.3
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
@click.option("--describe", is_flag=True, help="Print what the recipe's networks cost, and train nothing.")
def train(
    recipe: str,
    out: Path | None,
    folder: Path | None,
    interval: int,
    changes: tuple[str, ...],
    describe: bool,
) -> None:
    """Distil a student as RECIPE says: a .toml file or a shipped recipe's name.

    Started by torchrun or srun, all processes train together.
    """
    pairs = [change.partition("=") for change in changes]
    if bad := next((key for key, equals, _ in pairs if not equals), None):
        raise InputError(f"--set {bad}: expected KEY=VALUE, as network.steps=200")
    plan = load_recipe(recipe, {key: value for key, _, value in pairs})
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
    with Bar(
        TextColumn("train {task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not (console.is_terminal and leader),
    ) as bar:
        tasks = {
            stage: bar.add_task(f"{stage:8}", total=table.steps, loss=float("nan"), visible=False)
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
    print(f"trained on {student.trained['data']}")
    for stage, share in waits.items():
        if share > MUCH:
            console.print(
                f"{stage}: {share:.0%} of the time went to waiting for data; "
                f"set workers above {plan.workers} if cores are idle"
            )


def _describe(recipe: Recipe) -> None:
    """Print size and work of each network of the recipe; nothing is computed but shapes."""
    table = Table(title=recipe.name, title_justify="left")
    for heading in ("stage", "network", "frame", "parameters", "GMAC/frame"):
        table.add_column(heading, justify="left" if heading in ("stage", "network") else "right")
    with torch.device("meta"):
        for stage, name, network, (height, width) in _networks(recipe):
            frame = torch.empty(1, 3, height, width)
            work = multiply_accumulates(network, frame, frame) / 1e9
            size = f"{parameter_count(network):,}"
            table.add_row(stage, name, f"{height} x {width}", size, f"{work:.3f}")
    Console().print(table)
    print("GMAC/frame: 10^9 multiply-accumulates for a map, from a frame and its neighbour")


def _networks(recipe: Recipe) -> list[tuple[str, str, nn.Module, tuple[int, int]]]:
    """Return stage, name, network and input's (height, width) for each network that takes part."""
    assert isinstance(recipe, SkdRecipe), recipe
    large = recipe.large[::-1]
    small = recipe.student.resolution, recipe.student.resolution
    networks: list[tuple[str, str, nn.Module, tuple[int, int]]] = []
    if recipe.teachers.steps:
        networks += [
            ("teachers", "spatial", SpatialTeacher(), large),
            ("teachers", "temporal", TemporalTeacher(), large),
        ]
    if recipe.students.steps:
        trunk = Trunk()
        networks += [
            ("students", "spatial", SpatialStudent(trunk), small),
            ("students", "temporal", TemporalStudent(trunk), small),
        ]
    return [*networks, ("network", "spatiotemporal", SpatiotemporalNetwork(), small)]


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
