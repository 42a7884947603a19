"""A release opened for inference: takes frames, returns saliency maps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import DeviceFrame, GraphInput, Image, PreparedInput, RawInput, Tensor
from edge.hardware.host import retain_freed_memory
from edge.inference.clip_window_runner import ClipWindowRunner, WindowChoice
from edge.inference.engine_selection import EngineChoice
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import DeviceRunner, PipelinedRunner, Runner, ShareableRunner
from edge.inference.runner_factory import open_engine
from edge.metrics.saliency import cc
from edge.preprocessing.transform import FramePreprocessor, LaggedMotion
from edge.release.manifest import load_release
from edge.release.release import Form, Graph, Release

GOLDEN_CC_MARGIN = 0.002
"""How far the CC of an engine's golden maps may be below the value that the release records."""
ALIGNED_GOLDEN_CC_MARGIN = 0.02
"""The same for releases with alignment. Their golden maps also depend on the estimate of the camera's motion,
and so on the version of Aerogaze and of OpenCV."""


def runtime_form(release: Release) -> Form:
    """Return the form that runs frame by frame: "clip" if the release has no other form, else "stream"."""
    return "clip" if release.forms() == ("clip",) else "stream"


class SaliencyModel:
    """A student that runs frame by frame. It keeps the states of a stream or the window of a clip graph.

    Opening a model runs the golden set. A graph with NaN in its weights, or an engine that computes other
    maps than the released ones, is refused before the flight.

    Args:
        release: A release, its folder or name; None for the default release.
        precision: The precision; None selects one, see `select_engine`.
        threads: Threads of ONNX Runtime; None for one per core.
        engine: The engine, or "auto".
        window: How frames become clips, for a release whose graphs take several: "slide" by one frame, or
            "blocks", which need a graph with a map per frame. None: blocks for such a graph, else slide.

    Attributes:
        release: The release.
        precision: The precision of the graph.
        engine: Description of the engine, for reports.
        prepare: Makes the graph's input from a frame (H, W, 3), uint8 BGR. With alignment it keeps past
            frames, so every frame is prepared once and in order. If the graph aligns raw frames itself, the
            result is the raw frame and a small grey image.
        depth: Maximum number of frames in flight: submitted and not yet collected.
        delay_frames: Number of frames by which maps lag behind their frame.
        blur: Blur of the maps, as `Release.blur`. It may be changed.

    Raises:
        InputError: There is no such release or precision, a file has changed, or the maps differ from the
            golden ones.
    """

    def __init__(
        self,
        release: Release | str | Path | None,
        precision: str | None,
        threads: int | None = None,
        engine: EngineChoice = "onnxruntime",
        window: WindowChoice | None = None,
    ) -> None:
        release = release if isinstance(release, Release) else load_release(release)
        selected, runner = open_engine(release, precision, runtime_form(release), threads, engine)
        try:
            self._set_up(release, selected.graph.precision, runner)
            if selected.fallback_reason:
                self.engine += f" (not TensorRT: {selected.fallback_reason})"
            self._check_golden(selected.graph)
            self._set_window(window)
        except BaseException:
            runner.close()
            raise

    @classmethod
    def from_runner(cls, release: Release, precision: str, runner: Runner) -> SaliencyModel:
        """Return a model around an open runner of `runtime_form`, without the check of its golden maps."""
        model = cls.__new__(cls)
        model._set_up(release, precision, runner)
        return model

    def share(self) -> SaliencyModel | None:
        """Return a model of the same engine with states of its own, for another camera; close both.

        None if the engine serves one camera only: TensorRT keeps the states in buffers that are fixed in its
        CUDA graphs. Then each camera opens an engine.
        """
        clips = self._runner if isinstance(self._runner, ClipWindowRunner) else None
        runner = clips.runner if clips else self._runner
        if not isinstance(runner, ShareableRunner):
            return None
        shared = SaliencyModel.from_runner(self.release, self.precision, runner.share())
        shared.engine, shared.blur = self.engine, self.blur
        shared._set_window(clips.window if clips else None)
        return shared

    def _set_up(self, release: Release, precision: str, runner: Runner) -> None:
        retain_freed_memory()
        self.release, self.precision, self._form = release, precision, runtime_form(release)
        self.prepare: Callable[[Image], PreparedInput] = release.prepare
        self._motion: LaggedMotion | None = None
        if self._form == "clip" and release.clip is not None:
            runner = ClipWindowRunner(runner, release.clip, release.inputs[0], release.output)
        self._runner = runner
        self.delay_frames = release.delay_frames
        self._pipelined = runner if isinstance(runner, PipelinedRunner) else None
        self.depth = self._pipelined.depth if self._pipelined else 1
        self._computed: deque[Tensor] = deque()
        self.blur = release.blur
        self._is_first_frame = True
        self.engine = runner.description
        self.reset()

    def _set_window(self, window: WindowChoice | None) -> None:
        """Let frames become clips in another way than by default.

        Raises:
            InputError: The release cannot run so.
        """
        release, runner = self.release, self._runner
        if window is None or (window == "slide" and release.clip is not None and release.clip.maps == 1):
            return
        if not isinstance(runner, ClipWindowRunner) or release.clip is None or release.clip.maps == 1:
            takes = f"windows of {release.clip.frames} frames" if release.clip else "one frame at a time"
            raise InputError(
                f"release {release.name} takes {takes} and gives one map; --window {window} is for graphs "
                "that give a map for each frame of a window, such as those of TinyHD-M: leave it out"
            )
        runner.window = window
        # The last map of a sliding window is that of the newest frame.
        self.delay_frames = 0 if window == "slide" else release.delay_frames
        self.reset()

    def infer(self, prepared: PreparedInput) -> Tensor:
        """Return the saliency map (height, width), non-negative, for the result of `prepare`.

        If the student looks ahead, the map belongs to the frame `delay_frames` before. The caller
        owns the map.
        """
        self.submit(prepared)
        return self.collect()

    def submit(self, prepared: PreparedInput) -> None:
        """Start a frame made by `prepare`; `collect` returns its map, in the order of submission.

        While a GPU computes a frame, the next one can be copied: up to `depth` frames may be in flight.
        """
        names = self.release.input_names(self._form)
        inputs: Sequence[Any]
        if isinstance(prepared, tuple):
            inputs = self._add_motion(*prepared)
        elif isinstance(prepared, DeviceFrame):
            inputs = [prepared]
        else:
            inputs = np.split(prepared, len(names))
        # A runner gets a frame on the GPU only if it takes one: see `prepare_device`.
        feed = dict(zip(names, inputs, strict=True))
        if self._is_first_frame:
            # The first frame is fed several times, so that the states settle on it.
            for _ in range(self.release.preroll):
                self._runner.infer(feed)
            self._is_first_frame = False
        if self._pipelined:
            self._pipelined.submit(feed)
        else:
            self._computed.append(self._runner.infer(feed)[self.release.output][0, 0])

    def collect(self) -> Tensor:
        """Return the map of the oldest frame in flight, as `infer` does. The caller owns the map."""
        if self._pipelined:
            saliency: Tensor = self._pipelined.collect()[self.release.output][0, 0]
        else:
            saliency = self._computed.popleft()
        if not self.blur:
            return np.array(saliency)  # the runner reuses its array for the next frame
        sigma = self.blur * saliency.shape[1]
        return cv2.GaussianBlur(saliency, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)  # type: ignore[return-value]

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Start a new clip at `fps` frames per second; drop the frames in flight."""
        self._runner.reset(fps)
        self._computed.clear()
        preprocessing, raw = self.release.preprocessing, self.release.raw_frame
        if preprocessing.alignment is not None and raw is not None:
            self._motion = LaggedMotion(preprocessing.alignment, fps)
            self.prepare = lambda image: (raw(image), preprocessing.resize_grey(image))
        elif preprocessing.alignment is not None:
            self.prepare = FramePreprocessor(preprocessing, fps)
        self._is_first_frame = True

    @property
    def takes_device_frames(self) -> bool:
        """Return whether raw frames may stay in the GPU's memory, where a video decoder writes NV12."""
        raw = self.release.raw_frame
        return raw is not None and raw.format == "nv12" and isinstance(self._runner, DeviceRunner)

    def prepare_device(self, frame: DeviceFrame, picture: Image) -> PreparedInput:
        """Do what `prepare` does for a raw frame in the GPU's memory.

        An engine on the CPU, which may have replaced one on the GPU, gets a copy.

        Args:
            frame: The frame.
            picture: The same frame, (H, W, 3), uint8 BGR, of any size. The camera's motion is found in it.
        """
        raw: RawInput = frame if self.takes_device_frames else frame.download()
        return raw if self._motion is None else (raw, self.release.preprocessing.resize_grey(picture))

    def _add_motion(self, raw: RawInput, grey: GraphInput) -> tuple[RawInput, GraphInput]:
        """Return the raw frame and the homography to the earlier frame.

        The motion is estimated here and not in `prepare`: the earlier frame is a state of the graph, which
        only knows the frames that were submitted. A live run drops some between the two.
        """
        assert self._motion is not None
        return raw, self._motion(np.asarray(grey, np.uint8))

    def close(self) -> None:
        """Free the engine."""
        self._runner.close()

    def __enter__(self) -> SaliencyModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_golden(self, graph: Graph) -> None:
        frames, expected = self.release.load_golden()
        maps = compute_clip_maps(self, frames)
        if not np.isfinite(maps).all():
            raise InputError(
                f"release {self.release.name}: the {self.precision} graph gives NaN on its golden set "
                "(NaN in its weights?); do not fly it: export it again from a sound student"
            )
        released_cc = graph.verified.golden_cc if graph.verified else 1.0
        lowest_cc = min(cc(a, b) for a, b in zip(maps, expected, strict=True))
        is_aligned = self.release.preprocessing.alignment is not None
        margin = ALIGNED_GOLDEN_CC_MARGIN if is_aligned else GOLDEN_CC_MARGIN
        if lowest_cc < released_cc - margin:
            raise InputError(
                f"release {self.release.name}: the {self.precision} graph does not give its golden maps "
                f"(CC {lowest_cc:.4f}, released with {released_cc:.4f}); do not fly it: export it again"
            )


def compute_clip_maps(model: SaliencyModel, frames: NDArray[np.uint8]) -> Tensor:
    """Return the maps of a clip as the graph computes them, without blur.

    The clip's frame rate is taken as `NOMINAL_FPS`. The model is reset before and after.

    Args:
        model: The model.
        frames: Frames (N, H, W, 3), BGR.

    Returns:
        Maps (N, height, width).
    """
    model.reset()
    delay = model.delay_frames
    padded = [*frames, *([frames[-1]] * delay)]
    blur, model.blur = model.blur, 0.0
    try:
        maps = np.stack([model.infer(model.prepare(frame)) for frame in padded])
    finally:
        model.blur = blur
    model.reset()
    return maps[delay:]
