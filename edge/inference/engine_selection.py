"""Selection of the engine for a release: TensorRT if a matching engine was built here, else ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from edge.core.atomic_files import cache_folder, translate_write_errors
from edge.core.errors import InputError
from edge.core.guarded_files import parse_json
from edge.hardware.gpu import Gpu, detect_gpu, find_gpu_problem
from edge.hardware.host import detect_machine
from edge.inference.tensorrt.build_target import BuildTarget, TensorRTKind
from edge.inference.tensorrt.engine_identity import (
    ENGINE_SUFFIX,
    RTX_DEFAULT_CAPABILITIES,
    EngineIdentity,
    expected_identity,
    find_mismatches,
    identity_path,
    runs_on_rtx_default,
)
from edge.release.release import Form, Graph, Release

EngineChoice = Literal["auto", "onnxruntime", "tensorrt"]
ENGINE_CHOICES: tuple[EngineChoice, ...] = get_args(EngineChoice)
ENGINES_FOLDER = "engines"
"""Folder with the engines of a release: in the release, or next to it as in the slots of a board."""
MAX_PLAN_BYTES = 1 << 32
TRUSTED_PLANS_FOLDER = "plans"
"""Folder in the cache with an empty file for each plan that this user built, named by the plan's hash."""
NOT_BUILT_HERE = "was not built by you on this machine, and an engine is code"


@dataclass(frozen=True)
class BuiltPlan:
    """A TensorRT plan that matches the graph and this machine.

    Attributes:
        path: The engine file.
        kind: The TensorRT that built it.
        plan_sha256: Its hash, as recorded when it was built.
    """

    path: Path
    kind: TensorRTKind
    plan_sha256: str


@dataclass(frozen=True)
class SelectedEngine:
    """The engine that runs a graph.

    Attributes:
        graph: The graph of the release.
        plan: The plan that TensorRT runs; None for ONNX Runtime.
        fallback_reason: Why ONNX Runtime was selected although there are engines of the release, or the
            machine has a GPU, a driver for one, or is a board with a GPU.
    """

    graph: Graph
    plan: BuiltPlan | None = None
    fallback_reason: str = ""


def select_engine(
    release: Release, precision: str | None, form: Form, choice: EngineChoice = "auto"
) -> SelectedEngine:
    """Select the engine for a release.

    Args:
        release: The release.
        precision: None selects one: on TensorRT the first that was built of fp16, int8 and fp32 (int8 is not
            always faster than fp16), on ONNX Runtime the fastest that the CPU computes natively.
        form: The form of the graph.
        choice: "auto" selects TensorRT if a matching engine exists, else ONNX Runtime.

    Raises:
        InputError: The release has no such graph, or `choice` is TensorRT and no engine matches.
    """
    fallback_reason = ""
    if choice == "tensorrt" or (choice == "auto" and _is_tensorrt_expected(release)):
        available = release.precisions(form, "tensorrt")
        candidates = [precision] if precision else [p for p in ("fp16", "int8", "fp32") if p in available]
        for candidate in candidates or ["fp32"]:
            try:
                return _find_built_engine(release, release.graph(candidate, form, "tensorrt"))
            except InputError as error:  # noqa: PERF203 - at most three iterations
                fallback_reason = fallback_reason or str(error)
        if choice == "tensorrt":
            raise InputError(fallback_reason)
    precision = precision or fastest_precision(release, form)
    return SelectedEngine(release.graph(precision, form), fallback_reason=fallback_reason)


def fastest_precision(release: Release, form: Form) -> str:
    """Return the fastest precision of the release that this machine's CPU computes natively."""
    available = release.precisions(form, "onnxruntime")
    machine = detect_machine()
    for precision in ("int8", "fp16", "fp32"):
        if precision in available and machine.computes_natively(precision):
            return precision
    raise InputError(f"release {release.name} has no fp32 graph in {form} form: export it again")


def trust_plan(plan_sha256: str) -> None:
    """Record that this user built a plan on this machine.

    The record is in the user's cache folder, so that no file in a release can claim trust for itself.
    """
    record = cache_folder() / TRUSTED_PLANS_FOLDER / plan_sha256
    with translate_write_errors(record):
        record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        record.touch(0o600)


def read_plan(engine: Path, plan_sha256: str) -> bytes:
    """Read a plan after checking that it may be loaded.

    A plan is code, so it must be unchanged since it was built on this machine: by this user (`trust_plan`)
    or, as on boards, by root. Files that a user unpacks never belong to root.

    Raises:
        InputError: The plan was not built here, other users can write the file or its folder, or the file
            has changed.
    """
    if not _is_built_here(engine, plan_sha256):
        raise InputError(f"{engine} {NOT_BUILT_HERE}: build it again, with --rebuild")
    for path in (engine.parent, engine, identity_path(engine)):
        status = path.stat()
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
            raise InputError(
                f"{path} belongs to another user, or everybody may write it, and an engine is code: "
                "build it again, or chown it and chmod o-w it"
            )
    # Read once: the hashed bytes are the bytes that will run, even if the file is replaced meanwhile.
    with engine.open("rb") as file:
        plan = file.read(MAX_PLAN_BYTES)
    if hashlib.sha256(plan).hexdigest() != plan_sha256:
        raise InputError(f"{engine} is not the file that was built (its hash differs): build it again")
    return plan


def _is_built_here(engine: Path, plan_sha256: str) -> bool:
    by_root = engine.stat().st_uid == 0 != os.geteuid()
    return by_root or (cache_folder() / TRUSTED_PLANS_FOLDER / plan_sha256).is_file()


def _is_tensorrt_expected(release: Release) -> bool:
    """Return whether running on the CPU needs a reason: there are engines, a GPU or a sign of one."""
    if any(_engine_folders(release)):
        return True
    problem = find_gpu_problem()
    return problem is None or problem.is_gpu_expected


def _engine_folders(release: Release) -> Iterator[Path]:
    """Yield the folders that contain engines of the release."""
    for root in (release.folder / ENGINES_FOLDER, release.folder.parent / ENGINES_FOLDER):
        for folder in (root, *sorted(root.glob("*"))):
            if any(folder.glob("*" + ENGINE_SUFFIX)):
                yield folder


def _find_built_engine(release: Release, graph: Graph) -> SelectedEngine:
    """Return the first engine of a graph that matches this machine.

    Folders are searched in alphabetical order, so engines of the full TensorRT ("local") come before those
    of TensorRT for RTX ("rtx").

    Raises:
        InputError: There is no GPU or no matching engine.
    """
    gpu, problems = detect_gpu(), []
    if gpu is None:
        missing = find_gpu_problem()
        text, remedy = (missing.text, missing.remedy) if missing else ("the GPU was not there", "")
        remedies = " or ".join(filter(None, (remedy, "take --engine onnxruntime")))
        raise InputError(f"{text}, so no TensorRT engine runs: {remedies}")
    target = BuildTarget("rtx" if find_spec("tensorrt_rtx") else "tensorrt")
    name = Path(graph.file).with_suffix(ENGINE_SUFFIX).name
    for folder in _engine_folders(release):
        path = folder / name
        if not path.is_file():
            continue
        try:
            identity = parse_json(identity_path(path).read_bytes())
            target = BuildTarget.parse(str(identity["target"]))
            expected = expected_identity(release.path(graph), target)
            plan_sha256 = str(identity["plan_sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            problems.append(f"{path}: its identity {identity_path(path).name} cannot be read")
            continue
        except InputError as error:
            problems.append(f"{path}: {error}")
            continue
        mismatches = [*find_mismatches(folder, expected), *_find_gpu_mismatch(expected, gpu)]
        if mismatches:
            problems.append(f"{path} does not fit: {'; '.join(mismatches)}")
        elif not _is_built_here(path, plan_sha256):
            problems.append(f"{path} {NOT_BUILT_HERE}")
        else:
            return SelectedEngine(graph, BuiltPlan(path, target.kind, plan_sha256))
    problem = problems[0] if problems else f"no engine of {graph.file} was built for {gpu.name}"
    raise InputError(f"{problem}; aerogaze build {release.folder} --target {target} --rebuild makes one")


def _find_gpu_mismatch(identity: EngineIdentity, gpu: Gpu) -> list[str]:
    """Return why a GPU cannot run an engine for RTX, or an empty list.

    Engines for `local` name their GPU, which `find_mismatches` compares.
    """
    supported, actual = identity.compute_capabilities, gpu.compute_capability
    runs_by_default = supported == (RTX_DEFAULT_CAPABILITIES,) and runs_on_rtx_default(actual)
    if identity.kind == "tensorrt" or actual in supported or runs_by_default:
        return []
    return [f"compute capability {', '.join(supported)}, this GPU has {actual}"]
