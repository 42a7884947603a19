"""Trial of engines on the board: they are built there, compared with the golden maps and timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
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
from edge.release.release import Release
from jetson.device.precision_policy import PrecisionMeasurement, is_finite

RUNS = 300
WARM_UP = 50
THREADS = 1
"""The same as the default of `aerogaze run`, which leaves cores for decoding and output."""
LogLine = Callable[[str], None]


class EngineBackend(Protocol):
    """Inference engine that the board runs a release with.

    Attributes:
        name: onnxruntime or tensorrt.
        fallback_reason: Why it is not TensorRT, although the board has it; empty if that does not apply.
    """

    @property
    def name(self) -> str:
        """Return the name."""

    @property
    def fallback_reason(self) -> str:
        """Return the reason."""

    def build(self, release: Release, folder: Path, log: LogLine) -> Mapping[str, str]:
        """Compile the graphs of a release into a folder, which stays empty if there is nothing to compile.

        Returns:
            The compiler's reason by precision, for precisions that it refuses. The others are compiled.

        Raises:
            InputError: The compiler is missing.
        """

    def measure(
        self, release: Release, folder: Path, log: LogLine, refused: Mapping[str, str]
    ) -> list[PrecisionMeasurement]:
        """Run the golden set and measure the latency, for each precision of the release.

        A precision that `build` refused is not run; its row says why.
        """


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU, which runs the graphs without compiling them."""

    name, fallback_reason = "onnxruntime", ""

    def build(self, release: Release, folder: Path, log: LogLine) -> Mapping[str, str]:
        """Do nothing: there is nothing to compile."""
        return {}

    def measure(
        self, release: Release, folder: Path, log: LogLine, refused: Mapping[str, str]
    ) -> list[PrecisionMeasurement]:
        """Measure each precision in stream form at batch 1. The latency is that of the engine's call."""
        measurements = []
        for precision in release.precisions("stream", "onnxruntime"):
            log(f"trying {precision} on {self.name}")
            measurements.append(_measure(release, precision, "onnxruntime", log))
        return measurements


class TensorRTBackend:
    """TensorRT, which compiles each graph on the board. Not yet verified on a Jetson board.

    Args:
        target: Build target as `BuildTarget.parse` takes it.
    """

    name, fallback_reason = "tensorrt", ""

    def __init__(self, target: str = "local") -> None:
        self._target = target

    def build(self, release: Release, folder: Path, log: LogLine) -> Mapping[str, str]:
        """Compile each graph, with the timing caches of this board and of the bundle."""
        from export.engines.build import TIMING_CACHE, build_engines
        from export.engines.build_source import release_engine_source

        # Caches of both slots: the engines of the other slot were built on the same GPU.
        board_caches = folder.parents[1].glob(f"*/engines/{TIMING_CACHE}")
        caches = [*sorted(board_caches), *sorted((folder.parent / "caches").glob("*"))]
        source, target = release_engine_source(release), BuildTarget.parse(self._target)
        precisions = {
            release.path(release.graph(precision, "stream", "tensorrt")): precision
            for precision in release.precisions("stream", "tensorrt")
        }
        refused: dict[str, str] = {}

        def add_refused(graph: Path, reason: str) -> None:
            log(f"cannot build {reason}")
            if graph in precisions:  # a graph in clip form does not fly
                refused[precisions[graph]] = reason

        for engine, _ in build_engines(source, target, folder, caches=caches, on_refused=add_refused):
            log(f"built {engine.file} in {engine.seconds:.1f} s")
        return refused

    def measure(
        self, release: Release, folder: Path, log: LogLine, refused: Mapping[str, str]
    ) -> list[PrecisionMeasurement]:
        """Measure each precision in stream form at batch 1. The latency includes GPU copies."""
        measurements = []
        for precision in release.precisions("stream", "tensorrt"):
            if precision in refused:
                measurements.append(PrecisionMeasurement(precision, 0.0, 0.0, 0.0, refused[precision]))
                continue
            log(f"trying {precision} on {self.name}")
            measurements.append(_measure(release, precision, "tensorrt", log))
        return measurements


class AutomaticBackend:
    """TensorRT, or ONNX Runtime if no engine of TensorRT can be built or run on this board."""

    def __init__(self) -> None:
        self._backend: EngineBackend = TensorRTBackend()
        self.fallback_reason = ""

    @property
    def name(self) -> str:
        """Return the name of the engine in use."""
        return self._backend.name

    def build(self, release: Release, folder: Path, log: LogLine) -> Mapping[str, str]:
        """Compile each graph with TensorRT."""
        self._backend, self.fallback_reason = TensorRTBackend(), ""
        try:
            return self._backend.build(release, folder, log)
        except InputError as error:
            self._fall_back(str(error), log)
            return {}

    def measure(
        self, release: Release, folder: Path, log: LogLine, refused: Mapping[str, str]
    ) -> list[PrecisionMeasurement]:
        """Measure each precision, on ONNX Runtime if TensorRT runs none."""
        measurements = self._backend.measure(release, folder, log, refused)
        if self.fallback_reason or not all(measurement.refused for measurement in measurements):
            return measurements
        self._fall_back("; ".join(f"{each.precision}: {each.refused}" for each in measurements), log)
        return self._backend.measure(release, folder, log, {})

    def _fall_back(self, reason: str, log: LogLine) -> None:
        self._backend, self.fallback_reason = OnnxRuntimeBackend(), reason or "no graph for TensorRT"
        log(f"onnxruntime instead of tensorrt: {self.fallback_reason}")


def select_backend(name: str) -> EngineBackend:
    """Return a backend by its name; auto tries TensorRT if its Python module is installed.

    Raises:
        InputError: The name is unknown.
    """
    backends: dict[str, Callable[[], EngineBackend]] = {
        "onnxruntime": OnnxRuntimeBackend,
        "tensorrt": TensorRTBackend,
    }
    if name == "auto":
        return AutomaticBackend() if find_spec("tensorrt") else OnnxRuntimeBackend()
    if name not in backends:
        raise InputError(f"unknown engine {name!r}; expected auto or one of {', '.join(backends)}")
    return backends[name]()


def _find_meter() -> EnergyMeter | None:
    meter = find_energy_meter(Path("/"), Nvml.open())
    return None if isinstance(meter, str) else meter


def _measure(release: Release, precision: str, engine: EngineChoice, log: LogLine) -> PrecisionMeasurement:
    started_s = time.perf_counter()
    try:
        model = SaliencyModel(release, precision, THREADS, engine)  # compares its output with the golden maps
        open_s = time.perf_counter() - started_s
        if engine == "tensorrt":  # ONNX Runtime opens in a moment
            log(f"opened {precision} and checked its golden maps in {open_s:.1f} s")
        try:
            frames, expected = release.load_golden()
            maps = compute_clip_maps(model, frames)
        finally:
            model.close()
        latency = measure_latency(release, precision, engine, THREADS, RUNS, WARM_UP, _find_meter())
    except InputError as error:
        return PrecisionMeasurement(precision, 0.0, 0.0, 0.0, str(error))
    lowest_cc = min(cc(map_, golden) for map_, golden in zip(maps, expected, strict=True))
    measurement = PrecisionMeasurement(
        precision,
        float(lowest_cc),
        latency["p50_ms"],
        latency["p99_ms"],
        power_w=latency.get("power_w"),
        open_s=open_s,
    )
    if not is_finite(measurement) or math.isclose(measurement.p50_ms, 0.0):
        return PrecisionMeasurement(precision, 0.0, 0.0, 0.0, "gives no finite numbers on its golden set")
    return measurement
