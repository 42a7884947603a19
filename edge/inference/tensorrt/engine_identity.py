"""What an engine is: which TensorRT made it, for which GPU, from which graph; and whether it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import sha256
from edge.hardware.board import read_board_facts
from edge.hardware.gpu import detect_gpu
from edge.inference.tensorrt.api import BUILDER_SETTINGS, tensorrt_version
from edge.inference.tensorrt.build_target import BuildTarget

SCHEMA = 1
ENGINE_SUFFIX = ".engine"
RTX_DEFAULT_CAPABILITIES = "8.0 and later"
"""Compute capabilities of an engine of TensorRT for RTX for which none were named."""
_WORDS = {
    "kind": "TensorRT",
    "version": "TensorRT",
    "compute_capabilities": "compute capability",
    "gpu": "GPU",
    "board": "board",
    "jetpack": "JetPack",
    "onnx_sha256": "graph",
    "builder": "builder settings",
}
"""What must agree for an engine to fit, and what it is called."""


@dataclass(frozen=True)
class EngineIdentity:
    """Everything that decides whether an engine fits, and how it came to be.

    `gpu`, `board` and `jetpack` are those of the machine for target `local`, and None for others: these
    engines are for any machine of their compute capabilities. `timing_cache_sha256`: of the cache as it was
    after the build; None where the builder has none.
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
        """Write it beside the engine."""
        place = identity_path(folder / self.file)
        place.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")


def identity_path(engine: Path) -> Path:
    """Return where an engine's identity is: `stream.fp32.engine.json` beside `stream.fp32.engine`."""
    return engine.with_name(engine.name + ".json")


def expected_identity(graph: Path, target: BuildTarget) -> EngineIdentity:
    """Return what an engine of an ONNX file would be, built here and now, but for what only the build tells.

    Raises:
        InputError: the target's TensorRT is not installed.
    """
    local = target.kind == "tensorrt"
    gpu, board = (detect_gpu(), read_board_facts()) if local else (None, None)
    at_hand = (gpu.compute_capability,) if gpu else ()
    return EngineIdentity(
        file=graph.with_suffix(ENGINE_SUFFIX).name,
        graph=graph.name,
        target=str(target),
        kind=target.kind,
        version=tensorrt_version(target.kind),
        compute_capabilities=at_hand if local else target.capabilities or (RTX_DEFAULT_CAPABILITIES,),
        gpu=gpu.name if gpu else None,
        board=board.model if board else None,
        jetpack=board.jetpack_or_l4t if board else None,
        onnx_sha256=sha256(graph),
        builder=BUILDER_SETTINGS,
    )


def find_mismatches(folder: Path, wanted: EngineIdentity) -> list[str]:
    """Return what keeps the engine in `folder` from being `wanted`, in words; none if it fits."""
    engine = folder / wanted.file
    if not engine.is_file():
        return ["not built"]
    try:
        found = json.loads(identity_path(engine).read_text())
        if found["schema"] != SCHEMA:
            return [f"identity of schema {found['schema']}, expected {SCHEMA}"]
        differing = [
            _said(key, found[key], value)
            for key, value in json.loads(json.dumps(asdict(wanted))).items()
            if key in _WORDS and found[key] != value
        ]
        plan = str(found["plan_sha256"])
    except FileNotFoundError:
        return [f"no {identity_path(engine).name} beside it"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{identity_path(engine).name} cannot be read"]
    return differing or ([] if sha256(engine) == plan else ["its file is not the one that was built"])


def _said(key: str, found: object, wanted: object) -> str:
    if key == "onnx_sha256":
        return f"built from another graph ({str(found)[:8]}, here {str(wanted)[:8]})"
    return f"{_WORDS[key]} {_text(found)}, here {_text(wanted)}"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return "none" if value is None else str(value)
