"""Engines on the board: built there, held to the golden set, timed, before anything is switched."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from edge.core.errors import InputError
from edge.hardware.energy_meters import EnergyMeter, find_energy_meter
from edge.hardware.nvml import Nvml
from edge.inference.engine_selection import EngineChoice
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.inference.tensorrt.build_target import BuildTarget
from edge.metrics.saliency import cc
from edge.profiler.measurement.sampler import measure_latency
from edge.release.manifest import Release
from jetson.device.precision_policy import PrecisionMeasurement, is_finite

RUNS = 300
WARM_UP = 50
THREADS = 1
"""As `aerogaze run` has it: decoding and output want cores too."""
LogLine = Callable[[str], None]


class EngineBackend(Protocol):
    """How a board runs a release."""

    name: str

    def build(self, release: Release, folder: Path, say: LogLine) -> None:
        """Compile what is run into a folder (which may stay empty).

        Raises:
            InputError: the compiler is missing or refuses a graph.
        """

    def measure(self, release: Release, folder: Path, say: LogLine) -> list[PrecisionMeasurement]:
        """Open each precision, run the golden set on it, and time it."""


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU: opens the graphs as they are."""

    name = "onnxruntime"

    def build(self, release: Release, folder: Path, say: LogLine) -> None:
        """Nothing to compile."""

    def measure(self, release: Release, folder: Path, say: LogLine) -> list[PrecisionMeasurement]:
        """Measure every precision in stream form, at batch 1; latency is the engine's call."""
        found = []
        for precision in release.precisions("stream", "onnxruntime"):
            say(f"trying {precision} on {self.name}")
            found.append(_measure(release, precision))
        return found


class TensorRTBackend:
    """TensorRT: compiles each graph on the board, and runs what it compiled. Never yet seen on a board."""

    name = "tensorrt"

    def __init__(self, target: str = "local") -> None:
        self._target = target

    def build(self, release: Release, folder: Path, say: LogLine) -> None:
        """Compile each graph for TensorRT, by what this board timed before, or the bundle carries."""
        from export.engines.build import TIMING_CACHE, build_engines
        from export.engines.build_source import release_engine_source

        learnt = folder.parents[1].glob(f"*/engines/{TIMING_CACHE}")
        caches = [*sorted(learnt), *sorted((folder.parent / "caches").glob("*"))]
        graphs, target = release_engine_source(release), BuildTarget.parse(self._target)
        for built, _ in build_engines(graphs, target, folder, caches=caches):
            say(f"built {built.file} in {built.seconds:.1f} s")

    def measure(self, release: Release, folder: Path, say: LogLine) -> list[PrecisionMeasurement]:
        """Measure every precision in stream form, at batch 1; latency has the copies to the GPU and back."""
        found = []
        for precision in release.precisions("stream", "tensorrt"):
            say(f"trying {precision} on {self.name}")
            found.append(_measure(release, precision, "tensorrt"))
        return found


def select_backend(name: str) -> EngineBackend:
    """Return a kind of engines by its name; auto is TensorRT where its Python module is there.

    Raises:
        InputError: there is none of that name.
    """
    kinds: dict[str, Callable[[], EngineBackend]] = {
        "onnxruntime": OnnxRuntimeBackend,
        "tensorrt": TensorRTBackend,
    }
    if name == "auto":
        name = "tensorrt" if find_spec("tensorrt") else "onnxruntime"
    if name not in kinds:
        raise InputError(f"unknown engine {name!r}; expected auto or one of {', '.join(kinds)}")
    return kinds[name]()


def _meter() -> EnergyMeter | None:
    found = find_energy_meter(Path("/"), Nvml.open())
    return None if isinstance(found, str) else found


def _measure(release: Release, precision: str, engine: EngineChoice = "onnxruntime") -> PrecisionMeasurement:
    try:
        model = SaliencyModel(release, precision, THREADS, engine)  # which holds it to its golden maps
        try:
            frames, expected = release.load_golden()
            maps = compute_clip_maps(model, frames)
        finally:
            model.close()
        latency = measure_latency(release, precision, engine, THREADS, RUNS, WARM_UP, _meter())
    except InputError as error:
        return PrecisionMeasurement(precision, 0.0, 0.0, 0.0, str(error))
    likeness = min(cc(a, b) for a, b in zip(maps, expected, strict=True))
    power = latency.get("power_w")
    found = PrecisionMeasurement(
        precision, float(likeness), latency["p50_ms"], latency["p99_ms"], power_w=power
    )
    if not is_finite(found) or math.isclose(found.p50_ms, 0.0):
        return PrecisionMeasurement(precision, 0.0, 0.0, 0.0, "gives no number on its golden set")
    return found
