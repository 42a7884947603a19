"""`aerogaze train`."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.console import ERR_CONSOLE, print_next_step
from edge.cli.options import FILE, FolderType, range_option
from edge.core.atomic_files import PendingFile
from edge.core.errors import InputError
from trainer.training.distributed import process_group

if TYPE_CHECKING:
    # These import torch, which only the work of the command needs.
    from trainer.models.student import Student
    from trainer.recipes.loader import Recipe

MIN_DATA_WAIT = 0.3
"""Share of a stage's time spent waiting for data from which on it is reported."""


@click.command(epilog="Example: aerogaze train skd-64 --set network.steps=200 --out student.safetensors")
@click.argument("recipe")
@range_option
@click.option(
    "--out",
    type=FILE,
    help="Write the student to this .safetensors file.",
)
@click.option(
    "--run",
    "folder",
    type=FolderType(file_okay=False),
    help="Folder for checkpoints and logs. Resumes the run in it, if there is one.",
)
@click.option(
    "--pool",
    type=FolderType(file_okay=False),
    help="Folder of the rendered scenes; made if it is missing. Default: in the cache.",
)
@click.option(
    "--interval",
    type=click.IntRange(min=1),
    metavar="N",
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
    pool: Path | None,
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
        from trainer.cli.describe import describe_networks

        describe_networks(loaded)
        return
    if out is None:
        raise click.UsageError("missing --out: expected a name for the student, as student.safetensors")
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: expected a name ending in .safetensors")
    PendingFile(out).discard()  # fails now, not after the training, if the file cannot be written
    started = time.perf_counter()
    is_leader = process_group().rank == 0
    student, wait_shares = _run_training(loaded, folder, pool, interval, is_leader)
    if not is_leader:
        return
    student = replace(student, name=out.stem, trained={**student.trained, "commit": _commit()})
    student.save(out)
    _print_summary(student, out, time.perf_counter() - started)
    for stage, share in wait_shares.items():
        if share > MIN_DATA_WAIT:
            ERR_CONSOLE.print(
                f"{stage}: {share:.0%} of the time was spent waiting for data; "
                f"set workers above {loaded.workers} if cores are idle"
            )
    print_next_step(f"aerogaze export {out} --frames SOURCE --out RELEASE")


def _print_summary(student: Student, out: Path, seconds: float) -> None:
    from trainer.data.scene_pool import SYNTHETIC_DATA
    from trainer.models.student import parameter_count

    def shown(data: str) -> str:
        return "the simulated world" if data == SYNTHETIC_DATA else data

    print(
        f"{student.name}: {parameter_count(student.network):,} parameters, "
        f"trained in {seconds:.0f} s; wrote {out}"
    )
    if qat := student.trained.get("qat"):
        print(
            f"KLD of int8 maps to fp32's, on windows not trained on ({shown(qat['data'])}): "
            f"{qat['kld_before']:.2e} before, {qat['kld_after']:.2e} after"
        )
    else:
        print(f"trained on {shown(student.trained['data'])}")


def _load_recipe(name: str, changes: tuple[str, ...], release: str | None) -> Recipe:
    from trainer.recipes.loader import load_recipe

    pairs = [change.partition("=") for change in changes]
    if malformed := next((key for key, equals, _ in pairs if not equals), None):
        raise InputError(f"--set {malformed}: expected KEY=VALUE, as network.steps=200")
    values = {key: value for key, _, value in pairs}
    if release is None:
        return load_recipe(name, values)
    values |= {"student.weights": json.dumps(name), "student.release": json.dumps(release)}
    return load_recipe("qat", values)


def _run_training(
    recipe: Recipe, folder: Path | None, pool: Path | None, interval: int, is_leader: bool
) -> tuple[Student, dict[str, float]]:
    """Train, and show the progress.

    Returns:
        The student, and each stage's share of time spent waiting for data.
    """
    from trainer.cli.progress import report_training
    from trainer.training.loop import TrainingRun
    from trainer.training.run import train as train_student

    steps = {stage: table.steps for stage, table in recipe.stages.items()}
    with report_training(steps, shown=is_leader) as reporter:
        run = TrainingRun(
            folder,
            interval,
            reporter.on_step,
            reporter.on_interrupt,
            pool,
            reporter.on_pool,
            reporter.on_labels,
        )
        student = train_student(recipe, run)
    return student, reporter.wait_shares


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
