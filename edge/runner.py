"""The one interface of engines. A file per engine; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edge.frames import Input, Tensor
from edge.release import Form, Release
from edge.states import NOMINAL_FPS
from edge.weights import check_finite


class Runner(Protocol):
    """An engine that was opened for one graph. States are carried inside, from call to call."""

    description: str
    """Which engine, version, device and threads: for reports."""

    def infer(self, feed: Mapping[str, Input]) -> dict[str, Tensor]:
        """Return the outputs (states left out) by name for inputs by name, float32.

        A returned array is valid until the next call.
        """

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Put every state back to its start value, for frames that come at `fps` a second."""

    def close(self) -> None:
        """Free the engine. A closed runner cannot be used again."""


def open_runner(
    release: Release, precision: str, form: Form = "stream", threads: int | None = None
) -> Runner:
    """Open the embedded default engine, ONNX Runtime on the CPU, for one of the release's graphs.

    `threads`: None takes one for each core.

    Raises:
        InputError: the release has no such graph, its file is not one that the engine can run, or has NaN.
    """
    from edge.onnx_runner import OnnxRunner

    graph = release.graph(precision, form, "onnxruntime")
    check_finite(release.path(graph))
    size = release.preprocessing.height, release.preprocessing.width
    maps = release.clip.maps if form == "clip" and release.clip else 1
    return OnnxRunner(
        release.path(graph),
        dict.fromkeys(release.inputs_of(form), release.input_shape(graph.batch, form)),
        {release.output: (graph.batch, maps, *size)},
        release.states if form == "stream" else (),
        threads,
    )
