"""Ranges of activations over calibration frames, in constant memory however many the frames are.

A graph is run one feed at a time, and every float tensor in it is counted into a histogram; nothing
else of it stays. (ONNX Runtime's calibrators keep the activations of all feeds until the end.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import InputFeeder, open_session
from calibration.ranges import histogram_cache
from calibration.ranges.histogram import METHODS, Histogram, Method
from edge.core.errors import InputError
from edge.hardware.host import detect_machine
from edge.release.quantization import TensorRanges

Feed = Mapping[str, NDArray[Any]]

SAVE_EVERY_S = 5.0
"""A kill costs the counting of this long at most."""
COUNTED_TYPES = {onnx.TensorProto.FLOAT}


def count_histograms(
    model: onnx.ModelProto,
    feeder: InputFeeder,
    frames: CalibrationFrames,
    cache: Path | None = None,
    on_feeds: Callable[[int], None] = lambda count_histograms: None,
) -> dict[str, Histogram]:
    """Return a histogram of every activation of a graph over `frames.windows`.

    `cache`: a folder where histograms are kept by their content, at intervals while they grow.

    Raises:
        InputError: an activation that is not finite.
    """
    content = histogram_cache.cache_key(
        model.SerializeToString(deterministic=True),
        frames.sha256,
        repr((feeder, ort.__version__)),
    )
    path = cache / f"{content}.npz" if cache else None
    fed, histograms = histogram_cache.load_histograms(path) if path else (0, {})
    on_feeds(fed)
    if fed < len(frames.windows):
        session = open_session(model, _threads())
        rest = islice(frames.windows, fed, None)
        feeds = (feeder(session, window) for window in rest)
        histograms = _counted(model, feeds, fed, histograms, path, on_feeds)
    return {name: histogram for name, histogram in histograms.items() if np.isfinite(histogram.low)}


def collect_ranges(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    method: Method,
    on_feeds: Callable[[int], None] = lambda count_histograms: None,
) -> TensorRanges:
    """Run the fp32 graph over the feeds and return the range of every activation.

    Raises:
        InputError: no feeds, an unknown method, or an activation that is not finite.
    """
    if method not in METHODS:
        raise InputError(f"unknown calibration method {method!r}; expected one of {', '.join(METHODS)}")
    histograms = _counted(model, feeds, 0, {}, None, on_feeds)
    return {name: histogram.range(method) for name, histogram in histograms.items()}


def _threads() -> int:
    return max(1, detect_machine().cores - 1)  # one counts meanwhile


def _counted(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    fed: int,
    histograms: dict[str, Histogram],
    path: Path | None,
    on_feeds: Callable[[int], None],
) -> dict[str, Histogram]:
    """Count feeds on top of the `fed` that were counted before, and keep them in `path`, if any."""
    tensors = activation_names(model)
    made = [name for name in tensors if name not in {i.name for i in model.graph.input}]
    session = open_session(model, _threads(), outputs=made)
    histograms = histograms or {name: Histogram() for name in tensors}
    saved = time.monotonic()
    for feed, given in _one_ahead(session, made, feeds):
        values = dict(zip(made, given, strict=True))
        for name, histogram in histograms.items():
            value = values.get(name, feed.get(name))
            if value is not None and value.size and not histogram.add(value):
                raise InputError(
                    f"activation {name} is not finite on the calibration frames; expected numbers: "
                    "the network is broken (NaN or infinity in its weights?), train or export it again"
                )
        fed += 1
        on_feeds(1)
        if path and time.monotonic() - saved > SAVE_EVERY_S:
            path = _kept(path, fed, histograms)
            saved = time.monotonic()
    if not fed:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    if path:
        _kept(path, fed, histograms)
    return {name: histogram for name, histogram in histograms.items() if np.isfinite(histogram.low)}


def _one_ahead(
    session: ort.InferenceSession, made: list[str], feeds: Iterable[Feed]
) -> Iterator[tuple[Feed, Any]]:
    """Yield each feed with what the graph makes of it, while another thread goes on to the one after."""
    waiting = iter(feeds)

    def step() -> tuple[Feed, Any] | None:
        feed = next(waiting, None)
        return None if feed is None else (feed, session.run(made, dict(feed)))

    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(step)
        while done := running.result():
            running = worker.submit(step)
            yield done


def _kept(path: Path, fed: int, histograms: dict[str, Histogram]) -> Path | None:
    """Save; where that cannot be, say so once and go on without."""
    try:
        histogram_cache.save_histograms(path, fed, histograms)
    except InputError as error:
        print(f"warning: ranges are not cached: {error}", file=sys.stderr)
        return None
    return path


def activation_names(model: onnx.ModelProto) -> list[str]:
    """Return the float32 tensors that a graph takes or makes, in order; constants are none."""
    known = {t.name for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    constant = {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}
    names = [i.name for i in model.graph.input if i.name not in known]
    names += [output for node in model.graph.node for output in node.output if output]
    return [
        name for name in dict.fromkeys(names) if kinds.get(name) in COUNTED_TYPES and name not in constant
    ]
