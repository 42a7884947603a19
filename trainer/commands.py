"""`aerogaze train`."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from edge.errors import InputError
from edge.files import PendingFile
from trainer import distil
from trainer.models.student import parameter_count
from trainer.recipes import load_recipe


@click.command(epilog="Example: aerogaze train skd-64 --set network.steps=200 --out student.safetensors")
@click.argument("recipe")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The student: a .safetensors file.",
)
@click.option("--logs", type=click.Path(path_type=Path), help="A folder for CSV logs of the losses.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe, as network.steps=200.",
)
def train(recipe: str, out: Path, logs: Path | None, changes: tuple[str, ...]) -> None:
    """Distil a student as RECIPE says: a .toml file or a shipped recipe's name."""
    pairs = [change.partition("=") for change in changes]
    if bad := next((key for key, equals, _ in pairs if not equals), None):
        raise InputError(f"--set {bad}: expected KEY=VALUE, as network.steps=200")
    plan = load_recipe(recipe, {key: value for key, _, value in pairs})
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: expected a name ending in .safetensors")
    PendingFile(out).discard()  # a place that cannot be written is told now, not after the training
    started = time.perf_counter()
    console = Console(stderr=True)
    with Bar(
        TextColumn("train {task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        tasks = {
            stage: bar.add_task(f"{stage:8}", total=table.steps, loss=float("nan"), visible=False)
            for stage, table in (
                ("teachers", plan.teachers),
                ("students", plan.students),
                ("network", plan.network),
            )
        }

        def on_step(progress: distil.Progress) -> None:
            task = tasks[progress.stage]
            bar.update(task, completed=progress.step, loss=progress.loss, visible=True)

        student = distil.distil(plan, logs, on_step)
    student = replace(student, trained={**student.trained, "commit": _commit()})
    student.save(out)
    print(
        f"{student.name}: {parameter_count(student.network):,} parameters, "
        f"trained in {time.perf_counter() - started:.0f} s; wrote {out}"
    )


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
