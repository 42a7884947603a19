"""What the items of an acceptance share: a folder, the result of an item, releases and engines to measure."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.hardware.gpu import find_gpu_problem
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.inference.tensorrt.api import load_tensorrt
from edge.inference.tensorrt.build_target import TensorRTKind
from edge.release.manifest import load_release, save_release
from edge.release.release import Form, Release

RELEASE = "skd-64"
"""The student that most items measure."""
TARGETS: Mapping[str, TensorRTKind] = {"local": "tensorrt", "rtx": "rtx"}
"""TensorRT by build target, the full one first."""


class UnavailableError(InputError):
    """This machine lacks what an item needs, such as a GPU."""


@dataclass(frozen=True)
class Workspace:
    """Settings of an acceptance.

    Attributes:
        folder: Folder for releases and engines; it is removed at the end.
        quick: Measure less.
        pairs: Release of SKD-32 in pair form; None to export one here.
    """

    folder: Path
    quick: bool = False
    pairs: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of an item.

    Attributes:
        text: The result in one line.
        values: Everything that was measured, as JSON types.
        goal: The goal in words; empty if there is none.
        is_met: Whether the goal is met; None if there is none.
    """

    text: str
    values: Mapping[str, Any] = field(default_factory=dict)
    goal: str = ""
    is_met: bool | None = None


def require_gpu() -> None:
    """Check that CUDA can use a GPU.

    Raises:
        UnavailableError: It cannot.
    """
    problem = find_gpu_problem()
    if problem is not None:
        raise UnavailableError(problem.text + (f": {problem.remedy}" if problem.remedy else ""))


def find_target(targets: Mapping[str, TensorRTKind] = TARGETS) -> str:
    """Return the build target of the first TensorRT that can be loaded.

    Args:
        targets: Build targets to choose from, each with its TensorRT.

    Raises:
        UnavailableError: None can.
    """
    reasons = []
    for target, kind in targets.items():
        try:
            load_tensorrt(kind)
        except InputError as error:  # noqa: PERF203 - two
            reasons.append(str(error))
        else:
            return target
    raise UnavailableError("; ".join(reasons))


def release_folder(workspace: Workspace, name: str, precision: str, form: Form = "stream") -> Path:
    """Return the folder of a release with the graph of one precision and form."""
    return workspace.folder / f"{name}-{form}-{precision}"


def copy_release(workspace: Workspace, source: Release, precision: str, form: Form = "stream") -> Path:
    """Copy a release with only the graph that TensorRT builds in a precision, so that it is built alone."""
    folder = release_folder(workspace, source.name, precision, form)
    graph = source.graph(precision, form, "tensorrt")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns(ENGINES_FOLDER))
    for file in folder.glob("*.onnx"):
        if file.name != graph.file:
            file.unlink()
    save_release(dataclasses.replace(source, folder=folder, graphs=(graph,)))
    return folder


def load_built(workspace: Workspace, name: str, precision: str) -> Release:
    """Return a release that an earlier item has built engines for.

    Raises:
        UnavailableError: No item has.
    """
    folder = release_folder(workspace, name, precision)
    if not any((folder / ENGINES_FOLDER).glob("*/*.engine")):
        raise UnavailableError(f"no engine of {name} in {precision} was built, see the item of its build")
    return load_release(folder)


def run_aerogaze(words: Sequence[str | Path]) -> str:
    """Run a command of aerogaze and return its standard output.

    Raises:
        InputError: It fails, with the last line of its errors.
    """
    process = subprocess.run(
        [sys.executable, "-m", "edge.cli.main", *map(str, words)], capture_output=True, text=True
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise InputError(f"aerogaze {words[0]}: {lines[-1].removeprefix('aerogaze: ')}")
    return process.stdout
