"""Which engine runs a release here: TensorRT where one was built that fits, else ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from edge.core.atomic_files import cache_folder, translate_write_errors
from edge.core.errors import InputError
from edge.hardware.gpu import Gpu, detect_gpu
from edge.hardware.host import detect_machine
from edge.inference.tensorrt.build_target import BuildTarget, TensorRTKind
from edge.inference.tensorrt.engine_identity import (
    ENGINE_SUFFIX,
    RTX_DEFAULT_CAPABILITIES,
    EngineIdentity,
    expected_identity,
    find_mismatches,
    identity_path,
)
from edge.release.manifest import Form, Graph, Release

EngineChoice = Literal["auto", "onnxruntime", "tensorrt"]
ENGINE_CHOICES: tuple[EngineChoice, ...] = get_args(EngineChoice)
ENGINES_FOLDER = "engines"
"""The folder of a release's engines: inside it, or beside it as in a board's slots."""
MAX_PLAN_BYTES = 1 << 32
TRUSTED_PLANS_FOLDER = "plans"
"""In the cache folder: a file for each plan that the user built, named by its hash."""
NOT_BUILT_HERE = "was not built by you on this machine, and an engine is code"


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that fits, by its identity: where it is, whose it is, and its hash."""

    path: Path
    kind: TensorRTKind
    plan_sha256: str


@dataclass(frozen=True)
class SelectedEngine:
    """What runs a graph: the plan that was built of it, or, without one, ONNX Runtime.

    `fallback_reason`: why it is not TensorRT, on a machine that has engines of the release.
    """

    graph: Graph
    plan: BuiltPlan | None = None
    fallback_reason: str = ""


def select_engine(
    release: Release, precision: str | None, form: Form, choice: EngineChoice = "auto"
) -> SelectedEngine:
    """Return the engine for a release.

    "auto" takes TensorRT where there is an engine that fits, else ONNX Runtime. No precision: on TensorRT
    the first there is of fp16, int8, fp32 (nobody knows beforehand whether int8 is faster); on ONNX Runtime
    the fastest that the processor computes itself.

    Raises:
        InputError: the release has no such graph; or TensorRT is asked for and cannot be: why, and what
            mends it.
    """
    fallback_reason = ""
    if choice == "tensorrt" or (choice == "auto" and any(_folders(release)) and detect_gpu()):
        have = release.precisions(form, "tensorrt")
        wanted = [precision] if precision else [p for p in ("fp16", "int8", "fp32") if p in have]
        for one in wanted or ["fp32"]:
            try:
                return _built(release, release.graph(one, form, "tensorrt"))
            except InputError as error:  # noqa: PERF203 - three at most
                fallback_reason = fallback_reason or str(error)
        if choice == "tensorrt":
            raise InputError(fallback_reason)
    precision = precision or fastest_precision(release, form)
    return SelectedEngine(release.graph(precision, form), fallback_reason=fallback_reason)


def fastest_precision(release: Release, form: Form) -> str:
    """Return the fastest precision of the release that this machine's processor computes natively."""
    have = release.precisions(form, "onnxruntime")
    machine = detect_machine()
    for precision in ("int8", "fp16", "fp32"):
        if precision in have and machine.computes_natively(precision):
            return precision
    raise InputError(f"release {release.name} has no fp32 graph in {form} form: export it again")


def trust_plan(digest: str) -> None:
    """Remember that this user built a plan here: no file that came with a release can say so."""
    place = cache_folder() / TRUSTED_PLANS_FOLDER / digest
    with translate_write_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.touch(0o600)


def read_plan(engine: Path, digest: str) -> bytes:
    """Return a plan that may be loaded: it is code, so it must be the very bytes that were built here.

    By this user (`trust_plan`), or, as on boards, by root: what a user unpacks is never root's.

    Raises:
        InputError: it was not built here, others may write the file or its folder, or it was changed.
    """
    if not _built_here(engine, digest):
        raise InputError(f"{engine} {NOT_BUILT_HERE}: build it again, with --rebuild")
    for place in (engine.parent, engine, identity_path(engine)):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            raise InputError(
                f"{place} belongs to another user, or everybody may write it, and an engine is code: "
                "build it again, or chown it and chmod o-w it"
            )
    with engine.open("rb") as file:
        plan = file.read(MAX_PLAN_BYTES)
    if hashlib.sha256(plan).hexdigest() != digest:
        raise InputError(f"{engine} is not the file that was built (its hash differs): build it again")
    return plan


def _built_here(engine: Path, digest: str) -> bool:
    by_root = engine.stat().st_uid == 0 != os.geteuid()
    return by_root or (cache_folder() / TRUSTED_PLANS_FOLDER / digest).is_file()


def _folders(release: Release) -> Iterator[Path]:
    """Yield the folders that have engines of the release."""
    for place in (release.folder / ENGINES_FOLDER, release.folder.parent / ENGINES_FOLDER):
        for folder in (place, *sorted(place.glob("*"))):
            if any(folder.glob("*" + ENGINE_SUFFIX)):
                yield folder


def _built(release: Release, graph: Graph) -> SelectedEngine:
    """Return the first engine of a graph that fits this machine, full TensorRT's before that for RTX."""
    gpu, misfits, target = detect_gpu(), [], BuildTarget("rtx" if find_spec("tensorrt_rtx") else "tensorrt")
    if gpu is None:
        raise InputError(
            "there is no NVIDIA GPU here, or no driver for one, so no TensorRT engine runs: "
            "take --engine onnxruntime"
        )
    name = Path(graph.file).with_suffix(ENGINE_SUFFIX).name
    for folder in _folders(release):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(identity_path(path).read_text())
            target = BuildTarget.parse(str(found["target"]))
            wanted, plan = expected_identity(release.path(graph), target), str(found["plan_sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            misfits.append(f"{path}: its identity {identity_path(path).name} cannot be read")
            continue
        except InputError as error:
            misfits.append(f"{path}: {error}")
            continue
        differs = [*find_mismatches(folder, wanted), *_unfit(wanted, gpu)]
        if differs:
            misfits.append(f"{path} does not fit: {'; '.join(differs)}")
        elif not _built_here(path, plan):
            misfits.append(f"{path} {NOT_BUILT_HERE}")
        else:
            return SelectedEngine(graph, BuiltPlan(path, target.kind, plan))
    why = misfits[0] if misfits else f"no engine of {graph.file} was built for {gpu.name}"
    raise InputError(f"{why}; aerogaze build {release.folder} --target {target} --rebuild makes one")


def _unfit(identity: EngineIdentity, gpu: Gpu) -> list[str]:
    """Return what keeps a GPU from running an engine for RTX; one for `local` was compared already."""
    fits, here = identity.compute_capabilities, gpu.compute_capability
    if (
        identity.kind == "tensorrt"
        or here in fits
        or (fits == (RTX_DEFAULT_CAPABILITIES,) and float(here) >= 8.0)
    ):
        return []
    return [f"compute capability {', '.join(fits)}, this GPU has {here}"]
