"""Identity of an engine: the TensorRT, the GPU and the graph that it was built with, and checks of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import sha256
from edge.core.guarded_files import parse_json
from edge.hardware.board import read_board_facts
from edge.hardware.gpu import detect_gpu
from edge.inference.tensorrt.api import BUILDER_SETTINGS, tensorrt_version
from edge.inference.tensorrt.build_target import BuildTarget

SCHEMA = 1
ENGINE_SUFFIX = ".engine"
RTX_DEFAULT_CAPABILITIES = "8.0, 8.6, 8.9, 12.0 and later"
"""Recorded for engines of TensorRT for RTX that were built without a list of compute capabilities. Those of
boards and data centres in between, 8.7, 9.0, 10.0 and 11.0, are not among them."""
_LABELS = {
    "kind": "TensorRT",
    "version": "TensorRT",
    "compute_capabilities": "compute capability",
    "gpu": "GPU",
    "board": "board",
    "jetpack": "JetPack",
    "onnx_sha256": "graph",
    "builder": "builder settings",
}
"""Fields that must match for an engine to be used, with their names in messages."""


@dataclass(frozen=True)
class EngineIdentity:
    """Facts that decide whether an engine can be used, and a record of its build.

    The attributes are the keys of the JSON file next to the engine.

    Attributes:
        file: Name of the engine file.
        graph: Name of the ONNX file that it was built from.
        target: The build target, as `BuildTarget` prints it.
        kind: The TensorRT, as `BuildTarget.kind`.
        version: Version of this TensorRT.
        compute_capabilities: Compute capabilities that the engine runs on.
        gpu: Name of the GPU for target `local`; None for engines that run on any GPU of their capabilities.
        board: Model of the board for target `local`, else None.
        jetpack: Version of JetPack for target `local`, else None.
        onnx_sha256: Hash of the ONNX file.
        builder: Settings of the builder.
        plan_sha256: Hash of the engine file.
        size_bytes: Size of the engine file.
        timing_cache_sha256: Hash of the timing cache after the build; None if the builder has no cache.
        seconds: Duration of the build.
    """

    file: str
    graph: str
    target: str
    kind: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    board: str | None
    jetpack: str | None
    onnx_sha256: str
    builder: Mapping[str, Any]
    plan_sha256: str = ""
    size_bytes: int = 0
    timing_cache_sha256: str | None = None
    seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """Write the identity as JSON next to the engine."""
        path = identity_path(folder / self.file)
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")


def identity_path(engine: Path) -> Path:
    """Return the path of an engine's identity: `stream.fp32.engine.json` for `stream.fp32.engine`."""
    return engine.with_name(engine.name + ".json")


def runs_on_rtx_default(compute_capability: str) -> bool:
    """Return whether a GPU runs engines that were built with `RTX_DEFAULT_CAPABILITIES`."""
    return compute_capability in ("8.0", "8.6", "8.9") or float(compute_capability) >= 12.0


def expected_identity(graph: Path, target: BuildTarget) -> EngineIdentity:
    """Return the identity of an engine built from `graph` now, on this machine, without the build's results.

    Raises:
        InputError: The target's TensorRT is not installed.
    """
    is_local = target.kind == "tensorrt"
    gpu, board = (detect_gpu(), read_board_facts()) if is_local else (None, None)
    here = (gpu.compute_capability,) if gpu else ()
    return EngineIdentity(
        file=graph.with_suffix(ENGINE_SUFFIX).name,
        graph=graph.name,
        target=str(target),
        kind=target.kind,
        version=tensorrt_version(target.kind),
        compute_capabilities=here if is_local else target.capabilities or (RTX_DEFAULT_CAPABILITIES,),
        gpu=gpu.name if gpu else None,
        board=board.model if board else None,
        jetpack=board.jetpack_or_l4t if board else None,
        onnx_sha256=sha256(graph),
        builder=BUILDER_SETTINGS,
    )


def find_mismatches(folder: Path, expected: EngineIdentity) -> list[str]:
    """Return the reasons why the engine in `folder` is not `expected`; an empty list if it is."""
    engine = folder / expected.file
    if not engine.is_file():
        return ["not built"]
    try:
        actual = parse_json(identity_path(engine).read_bytes())
        if actual["schema"] != SCHEMA:
            return [f"identity of schema {actual['schema']}, expected {SCHEMA}"]
        mismatches = [
            _describe_mismatch(key, actual[key], value)
            for key, value in json.loads(json.dumps(asdict(expected))).items()
            if key in _LABELS and actual[key] != value
        ]
        plan_sha256 = str(actual["plan_sha256"])
    except FileNotFoundError:
        return [f"no {identity_path(engine).name} next to it"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{identity_path(engine).name} cannot be read"]
    if mismatches or sha256(engine) == plan_sha256:
        return mismatches
    return ["its file is not the one that was built"]


def _describe_mismatch(key: str, actual: object, expected: object) -> str:
    if key == "onnx_sha256":
        return f"built from another graph ({str(actual)[:8]}, here {str(expected)[:8]})"
    return f"{_LABELS[key]} {_format(actual)}, here {_format(expected)}"


def _format(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format(inner)}" for name, inner in value.items())
    return "none" if value is None else str(value)
