"""A release opened for use: frames in, saliency maps out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Image, Tensor
from edge.inference.clip_window_runner import ClipWindowRunner
from edge.inference.engine_selection import EngineChoice, select_engine
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import PipelinedRunner, Runner
from edge.inference.runner_factory import open_selected_engine
from edge.metrics.saliency import cc
from edge.preprocessing.transform import FramePreprocessor
from edge.release.manifest import Form, Graph, Release, load_release

GOLDEN_CC_MARGIN = 0.002
"""How much less like the golden maps an engine may be than the release says of the graph."""


def runtime_form(release: Release) -> Form:
    """Return the form that is run frame by frame: clips, if the release has nothing else, else streams."""
    return "clip" if release.forms() == ("clip",) else "stream"


class SaliencyModel:
    """A student run frame by frame: its stream form, states inside, or its clip form, clips inside.

    Opening it runs the golden set: a graph with NaN in its weights, or an engine that computes
    something else than was released, is refused here and not in the air.

    Raises:
        InputError: no such release or precision, a changed file, maps that are not the golden ones.
    """

    def __init__(
        self,
        release: Release | str | Path | None,
        precision: str | None,
        threads: int | None = None,
        engine: EngineChoice = "onnxruntime",
    ) -> None:
        opened = release if isinstance(release, Release) else load_release(release)
        chosen = select_engine(opened, precision, runtime_form(opened), engine)
        runner = open_selected_engine(opened, chosen, threads)
        try:
            self._use(opened, chosen.graph.precision, runner)
            self.engine += f" (not TensorRT: {chosen.fallback_reason})" if chosen.fallback_reason else ""
            self._check_golden(chosen.graph)
        except BaseException:
            runner.close()
            raise

    @classmethod
    def from_runner(cls, release: Release, precision: str, runner: Runner) -> SaliencyModel:
        """Return a model around a runner of `runtime_form` that is open; its maps are not checked."""
        model = cls.__new__(cls)
        model._use(release, precision, runner)
        return model

    def _use(self, release: Release, precision: str, runner: Runner) -> None:
        self.release, self.precision, self._form = release, precision, runtime_form(release)
        self.prepare: Callable[[Image], GraphInput] = release.prepare
        if self._form == "clip" and release.clip is not None:
            runner = ClipWindowRunner(runner, release.clip, release.inputs[0], release.output)
        self._runner = runner
        self._overlapping = runner if isinstance(runner, PipelinedRunner) else None
        self.depth = self._overlapping.depth if self._overlapping else 1
        """How many frames may be in flight: submitted, and not yet collected."""
        self._done: deque[Tensor] = deque()
        self.blur = self.release.blur
        """How far maps are softened, as `Release.blur`; may be set."""
        self._fresh = True
        self.engine = runner.description
        self.reset()

    def infer(self, prepared: GraphInput) -> Tensor:
        """Return the saliency map (height, width), non-negative, of a frame that `prepare` made.

        Where the student looks ahead, the map is that of `release.delay_frames` frames before. It is the
        caller's to keep.
        """
        self.submit(prepared)
        return self.collect()

    def submit(self, prepared: GraphInput) -> None:
        """Start on a frame that `prepare` made: its map, in order, is what `collect` gives.

        While a GPU computes a frame, the next is copied: submit while one is waiting, up to `depth`.
        """
        names = self.release.input_names(self._form)
        each = len(prepared) // len(names)
        feed = {name: prepared[at * each : (at + 1) * each] for at, name in enumerate(names)}
        if self._fresh:
            for _ in range(self.release.preroll):
                self._runner.infer(feed)
            self._fresh = False
        if self._overlapping:
            self._overlapping.submit(feed)
        else:
            self._done.append(self._runner.infer(feed)[self.release.output][0, 0])

    def collect(self) -> Tensor:
        """Return the map of the oldest frame in flight, as `infer` does; it is the caller's to keep."""
        if self._overlapping:
            saliency: Tensor = self._overlapping.collect()[self.release.output][0, 0]
        else:
            saliency = self._done.popleft()
        if not self.blur:
            return np.array(saliency)  # the runner's array is its own again at the next frame
        sigma = self.blur * saliency.shape[1]
        return cv2.GaussianBlur(saliency, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)  # type: ignore[return-value]

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Forget the past: the next frame starts a new clip, of `fps` a second. Drops what is in flight."""
        self._runner.reset(fps)
        self._done.clear()
        if self.release.preprocessing.alignment is not None:
            self.prepare = FramePreprocessor(self.release.preprocessing, fps)
        self._fresh = True

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
        released = graph.verified.golden_cc if graph.verified else 1.0
        likeness = min(cc(a, b) for a, b in zip(maps, expected, strict=True))
        if likeness < released - GOLDEN_CC_MARGIN:
            raise InputError(
                f"release {self.release.name}: the {self.precision} graph does not give its golden maps "
                f"(CC {likeness:.4f}, released with {released:.4f}); do not fly it: export it again"
            )


def compute_clip_maps(model: SaliencyModel, frames: NDArray[np.uint8]) -> Tensor:
    """Return the maps (N, height, width) of a clip's frames (N, H, W, 3), BGR, from a fresh start.

    They are the graph's: not softened. No rate is known of the clip: states lag as at `NOMINAL_FPS`.
    """
    model.reset()
    delay = model.release.delay_frames
    padded = [*frames, *([frames[-1]] * delay)]
    blur, model.blur = model.blur, 0.0
    try:
        maps = np.stack([model.infer(model.prepare(frame)) for frame in padded])
    finally:
        model.blur = blur
    model.reset()
    return maps[delay:]
