"""Ranges of activations over calibration frames, in constant memory for any number of frames.

A graph runs on one feed at a time, and the values of every float tensor are counted in a histogram. Nothing
else is kept. (The calibrators of ONNX Runtime keep the activations of all feeds until the end.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import InputFeeder, open_session
from calibration.ranges.histogram import METHODS, Histogram, Method
from calibration.ranges.histogram_cache import cache_key, load_histograms, save_histograms
from edge.core.errors import InputError
from edge.hardware.host import detect_machine
from edge.release.quantization import TensorRanges

Feed = Mapping[str, NDArray[Any]]

SAVE_EVERY_S = 5.0
"""Interval between saves. A killed process loses at most this much work."""
COUNTED_TYPES = {onnx.TensorProto.FLOAT}


def count_histograms(
    model: onnx.ModelProto,
    feeder: InputFeeder,
    frames: CalibrationFrames,
    cache: Path | None = None,
    on_feeds: Callable[[int], None] = lambda count: None,
) -> dict[str, Histogram]:
    """Return a histogram of every activation of a graph over `frames.windows`.

    Args:
        model: The fp32 graph.
        feeder: Maps a window to the inputs of the graph.
        frames: The calibration frames.
        cache: Folder for histograms, named by the hash of what they depend on. They are also saved at
            intervals while they grow, and an interrupted count resumes from there.
        on_feeds: Called with the number of feeds counted.

    Raises:
        InputError: If an activation is not finite.
    """
    key = cache_key(
        model.SerializeToString(deterministic=True),
        frames.sha256,
        f"({feeder.cache_identity}, {ort.__version__!r})",
    )
    path = cache / f"{key}.npz" if cache else None
    counted, histograms = load_histograms(path) if path else (0, {})
    on_feeds(counted)
    if counted < len(frames.windows):
        session = open_session(model, _inference_threads())
        remaining = islice(frames.windows, counted, None)
        feeds = (feeder(session, window) for window in remaining)
        progress = _Progress(counted, histograms, path)
        histograms = _count_feeds(model, feeds, progress, on_feeds)
    return {name: histogram for name, histogram in histograms.items() if np.isfinite(histogram.low)}


def collect_ranges(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    method: Method,
    on_feeds: Callable[[int], None] = lambda count: None,
) -> TensorRanges:
    """Run the fp32 graph on the feeds and return the range of every activation.

    Raises:
        InputError: If there are no feeds, the method is unknown, or an activation is not finite.
    """
    if method not in METHODS:
        raise InputError(f"unknown calibration method {method!r}; expected one of {', '.join(METHODS)}")
    histograms = _count_feeds(model, feeds, _Progress(), on_feeds)
    return {name: histogram.range(method) for name, histogram in histograms.items()}


def _inference_threads() -> int:
    return max(1, detect_machine().cores - 1)  # one core counts meanwhile


@dataclass
class _Progress:
    """Histograms so far, and the file that they are saved to, if any."""

    counted: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)
    path: Path | None = None

    def save(self) -> None:
        """Save the histograms. If that fails, warn once and stop saving."""
        if self.path is None:
            return
        try:
            save_histograms(self.path, self.counted, self.histograms)
        except InputError as error:
            print(f"warning: ranges are not cached: {error}", file=sys.stderr)
            self.path = None


def _count_feeds(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    progress: _Progress,
    on_feeds: Callable[[int], None],
) -> dict[str, Histogram]:
    """Count further feeds, save at intervals, and return the histograms of tensors that had values."""
    tensors = activation_names(model)
    inputs = {value.name for value in model.graph.input}
    outputs = [name for name in tensors if name not in inputs]
    session = open_session(model, _inference_threads(), outputs=outputs)
    progress.histograms = progress.histograms or {name: Histogram() for name in tensors}
    saved = time.monotonic()
    for feed, results in _run_ahead(session, outputs, feeds):
        values = dict(zip(outputs, results, strict=True))
        for name, histogram in progress.histograms.items():
            value = values.get(name, feed.get(name))
            if value is not None and value.size and not histogram.add(value):
                raise InputError(
                    f"activation {name} is not finite on the calibration frames; expected finite numbers: "
                    "the network is broken (NaN or infinity in its weights?), train or export it again"
                )
        progress.counted += 1
        on_feeds(1)
        if time.monotonic() - saved > SAVE_EVERY_S:
            progress.save()
            saved = time.monotonic()
    if not progress.counted:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    progress.save()
    return {name: histogram for name, histogram in progress.histograms.items() if np.isfinite(histogram.low)}


def _run_ahead(
    session: ort.InferenceSession, outputs: list[str], feeds: Iterable[Feed]
) -> Iterator[tuple[Feed, Any]]:
    """Yield each feed with the outputs of the graph, while another thread computes the next one."""
    remaining = iter(feeds)

    def step() -> tuple[Feed, Any] | None:
        feed = next(remaining, None)
        return None if feed is None else (feed, session.run(outputs, dict(feed)))

    with ThreadPoolExecutor(1) as worker:
        pending = worker.submit(step)
        while finished := pending.result():
            pending = worker.submit(step)
            yield finished


def activation_names(model: onnx.ModelProto) -> list[str]:
    """Return the float32 inputs and node outputs of a graph in graph order, without constants."""
    initializers = {t.name for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    constants = {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}
    names = [i.name for i in model.graph.input if i.name not in initializers]
    names += [output for node in model.graph.node for output in node.output if output]
    return [
        name for name in dict.fromkeys(names) if types.get(name) in COUNTED_TYPES and name not in constants
    ]
