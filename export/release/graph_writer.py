"""Writer of a release's graphs: each is verified before it is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from calibration.inputs.calibration_frames import Windows
from calibration.inputs.graph_inputs import InputFeeder
from calibration.search.accuracy import compute_maps
from calibration.search.fp16_diagnostics import describe_weakest_node
from edge.metrics.saliency import cc
from edge.release.release import Form, Graph, Precision, TargetEngine
from export.release.parity import GoldenSet, Map, check_parity


@dataclass(frozen=True)
class GraphKind:
    """Form, precision, batch size (None: dynamic) and engine of a graph, as `Graph` describes them."""

    form: Form
    precision: Precision
    batch: int | None
    engine: TargetEngine = "any"

    @property
    def file(self) -> str:
        """Return the name of the graph's file."""
        suffix = "" if self.engine == "any" else f".{self.engine}"
        return f"{self.form}.{self.precision}{suffix}.onnx"

    def __str__(self) -> str:
        return f"{self.form} {self.precision}" + (f" for {self.engine}" if self.engine != "any" else "")


class GraphWriter:
    """Verifies graphs of a release against expected maps and saves them.

    Args:
        windows: Held-out windows.
        expected: The map of each window.
        golden: The golden set.
        on_step: Called with the name of each graph.
        peak: Peak of the maps' range, see `export.release.parity.check_parity`.

    Attributes:
        graphs: The graphs that were saved, as the release describes them.
        written: The same graphs: kind, graph, and its maps of the held-out windows.
    """

    def __init__(
        self,
        windows: Windows,
        expected: Sequence[Map],
        golden: GoldenSet,
        on_step: Callable[[str], None],
        peak: float = 1.0,
    ) -> None:
        self._windows, self._expected, self._golden, self.on_step = windows, expected, golden, on_step
        self._peak = peak
        self.graphs: list[Graph] = []
        self.written: list[tuple[GraphKind, onnx.ModelProto, Sequence[Map]]] = []

    def add(
        self,
        folder: Path,
        model: onnx.ModelProto,
        feeder: InputFeeder,
        kind: GraphKind,
        maps: Sequence[Map] | None = None,
    ) -> Sequence[Map]:
        """Verify a graph and save it.

        Args:
            folder: Folder of the release.
            model: The graph.
            feeder: Maps a window to the inputs of the graph.
            kind: What the graph is.
            maps: The graph's maps of the held-out windows; None to compute them.

        Returns:
            These maps.

        Raises:
            InputError: The expected maps are empty.
            CheckError: The maps differ from the expected ones by more than the tolerance.
        """
        self.on_step(str(kind))
        # ONNX Runtime would quantize the float16 biases of graphs for TensorRT by itself, and overflow.
        disable_qdq_fusion = kind.engine == "tensorrt"
        if maps is None:
            maps = compute_maps(model, feeder, self._windows, disable_qdq_fusion)
        verification = check_parity(
            f"{kind.precision} graph for {kind.engine} engines",
            kind.precision,
            maps,
            self._expected,
            lambda: describe_weakest_node(model, feeder, self._windows, disable_qdq_fusion),
            self._peak,
        )
        golden_maps = compute_maps(model, feeder, self._golden.windows, disable_qdq_fusion)
        golden_cc = min(map(cc, golden_maps, self._golden.maps))  # recorded, not checked
        onnx.save(model, folder / kind.file)
        self.graphs.append(
            Graph(
                file=kind.file,
                form=kind.form,
                precision=kind.precision,
                engine=kind.engine,
                batch=kind.batch,
                verified=dataclasses.replace(verification, golden_cc=golden_cc),
            )
        )
        self.written.append((kind, model, maps))
        return maps
