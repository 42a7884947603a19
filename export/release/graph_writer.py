"""Writer of a release's graphs: each is verified before it is saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from calibration.inputs.calibration_frames import Windows
from calibration.inputs.graph_inputs import InputFeeder
from edge.release.release import Form, Graph, Precision, TargetEngine
from export.release.parity import GoldenSet, Map, OpenedGraph, verify_graph


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
        graphs: The graphs that were saved.
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

    def add(self, folder: Path, model: onnx.ModelProto, feeder: InputFeeder, kind: GraphKind) -> None:
        """Verify a graph and save it.

        Raises:
            InputError: The expected maps are empty.
            CheckError: Its maps differ from the expected ones by more than its tolerance.
        """
        self.on_step(str(kind))
        opened = OpenedGraph(model, feeder, disable_qdq_fusion=kind.engine == "tensorrt")
        verification = verify_graph(
            opened, kind.precision, kind.engine, self._windows, self._expected, self._golden, self._peak
        )
        onnx.save(model, folder / kind.file)
        graph = Graph(kind.file, kind.form, kind.precision, kind.engine, kind.batch, verification)
        self.graphs.append(graph)
