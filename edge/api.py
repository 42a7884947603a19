"""Public Python API: load a release, open its model, run it on frames, read the results.

    import edge

    with edge.open_model("skd-64", precision="int8") as model:
        for result in edge.run_model(model, "flight.mp4"):
            print(result.frame.index, result.saliency.shape, result.regions[:1])

`edge` re-exports the names in `__all__` and imports them only when they are used. Every other name in `edge`
is private and may change.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.core.errors import CheckError, InputError
from edge.core.frames import Frame, Image, Picture, Source, Tensor
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.saliency_model import SaliencyModel
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result
from edge.release.manifest import load_release
from edge.release.release import Release
from edge.sources.factory import open_source

if TYPE_CHECKING:
    from edge.inference.engine_selection import EngineChoice

__all__ = [
    "CheckError",
    "Frame",
    "InputError",
    "Picture",
    "Region",
    "Release",
    "Result",
    "SaliencyModel",
    "ShownResult",
    "Source",
    "load_release",
    "open_model",
    "open_source",
    "run_model",
]


@dataclass(frozen=True)
class ShownResult(Result):
    """Result that shows itself in a notebook: the frame under its map, with its regions."""

    def _repr_png_(self) -> bytes:
        from edge.sinks.files.overlay_video import draw_overlay

        height, width = self.frame.image.shape[:2]
        return Picture(draw_overlay(self, width, height))._repr_png_()

    @property
    def map_picture(self) -> Picture:
        """The map alone, as a heat map with the aspect ratio of the frame."""
        import cv2

        from edge.sinks.files.map_images import fit_to_aspect, to_uint16

        grey = to_uint16(fit_to_aspect(self.saliency, self.frame.width, self.frame.height)) >> 8
        return Picture(cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_INFERNO))  # type: ignore[arg-type]

    def crop(self, region: Region) -> Picture:
        """Return the part of the frame in the box of a region, at least one pixel wide and high."""
        height, width = self.frame.image.shape[:2]
        left, top = (max(0, math.floor(edge)) for edge in (region.left * width, region.top * height))
        right, bottom = math.ceil(region.right * width), math.ceil(region.bottom * height)
        return Picture(self.frame.image[top : max(top + 1, bottom), left : max(left + 1, right)])


def open_model(
    release: Release | str | Path | None = None,
    precision: str | None = None,
    *,
    engine: EngineChoice = "onnxruntime",
    threads: int | None = None,
) -> SaliencyModel:
    """Open a release for inference, and check its maps against its golden set.

    Args:
        release: A loaded release, its folder, or the name of a shipped release; None takes the default one.
        precision: "fp32", "fp16" or "int8"; None takes the best that the release has for the engine.
        engine: "onnxruntime", "tensorrt", or "auto": TensorRT where an engine was built on this machine.
        threads: Threads of ONNX Runtime; None takes one per core.

    Returns:
        The open model. It is a context manager that closes the engine.

    Raises:
        InputError: There is no such release or precision, a file was changed, or the maps differ from the
            golden ones.
    """
    return SaliencyModel(release, precision, threads, engine)


def run_model(
    model: SaliencyModel, source: Source | str | Path | Iterable[Image], fps: float | None = None
) -> Iterator[ShownResult]:
    """Run a model on every frame of a source, in order, in the calling thread.

    `aerogaze run` overlaps decoding, inference and output on threads; this loop is for notebooks and scripts.

    Args:
        model: An open model; its past is forgotten first.
        source: An open source, a source's name as `open_source` takes it, or images (H, W, 3), uint8 BGR. A
            source that is given by name is closed at the end.
        fps: Frame rate in frames per second; None takes the source's own, and 10 for images.

    Yields:
        One result per frame: the saliency map (height, width), its regions with the most salient first, and
        the latency from the frame to its map in milliseconds.

    Raises:
        InputError: The source cannot be opened or read.
    """
    opened: Source | None = None
    if isinstance(source, str | Path):
        opened = source = open_source(str(source), fps=fps)
    frames, rate = _frames(source, fps)
    model.reset(rate)
    analyze = MapAnalyzer(model.release.score)
    waiting: deque[tuple[Frame, float]] = deque()
    delay, last = model.delay_frames, None
    try:
        for frame in frames:
            last = frame
            waiting.append((frame, time.monotonic()))
            saliency = model.infer(model.prepare(frame.image))
            if delay:  # the student looks ahead: its first maps belong to no frame
                delay -= 1
                continue
            yield _shown(analyze(_result(*waiting.popleft(), saliency)))
        while waiting and last is not None:  # at the end the last frame stands for the frames after it
            saliency = model.infer(model.prepare(last.image))
            if delay:
                delay -= 1
                continue
            yield _shown(analyze(_result(*waiting.popleft(), saliency)))
    finally:
        if opened is not None:
            opened.close()


def _frames(source: Source | Iterable[Image], fps: float | None) -> tuple[Iterator[Frame], float]:
    rate = fps or getattr(source, "fps", None) or NOMINAL_FPS
    items: Iterable[Frame | Image] = source
    frames = (
        item if isinstance(item, Frame) else Frame(index, index / rate, item)
        for index, item in enumerate(items)
    )
    return frames, rate


def _result(frame: Frame, since_s: float, saliency: Tensor) -> Result:
    return Result(frame, saliency, (time.monotonic() - since_s) * 1e3)


def _shown(result: Result) -> ShownResult:
    return ShownResult(result.frame, result.saliency, result.latency_ms, result.regions)
