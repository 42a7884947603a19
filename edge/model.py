"""A release opened for use: frames in, saliency maps out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import release as releases
from edge.clip_runner import ClipRunner
from edge.errors import InputError
from edge.frames import Image, Input, Tensor
from edge.machine import this_machine
from edge.metrics import cc
from edge.preprocess import Eye
from edge.release import Form, Release
from edge.runner import open_runner
from edge.states import NOMINAL_FPS

GOLDEN_MARGIN = 0.002
"""How much less like the golden maps an engine may be than the release says of the graph."""


def fastest_precision(release: Release) -> str:
    """Return the fastest precision of the release that this machine computes natively."""
    form = flying_form(release)
    have = release.precisions(form, "onnxruntime")
    machine = this_machine()
    for precision in ("int8", "fp16", "fp32"):
        if precision in have and machine.native(precision):
            return precision
    raise InputError(f"release {release.name} has no fp32 graph in {form} form: export it again")


def flying_form(release: Release) -> Form:
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
    ) -> None:
        self.release = release if isinstance(release, Release) else releases.load(release)
        self.precision = precision or fastest_precision(self.release)
        self.prepare: Callable[[Image], Input] = self.release.prepare
        self._form = flying_form(self.release)
        runner = open_runner(self.release, self.precision, self._form, threads)
        if self._form == "clip" and self.release.clip is not None:
            runner = ClipRunner(runner, self.release.clip, self.release.inputs[0], self.release.output)
        self._runner = runner
        self.engine = self._runner.description
        self._fresh = True
        try:
            self.reset()
            self._check_golden()
        except BaseException:
            self.close()
            raise

    def infer(self, prepared: Input) -> Tensor:
        """Return the saliency map (height, width), non-negative, of a frame that `prepare` made.

        Where the student looks ahead, the map is that of `release.delay_frames` frames before.
        """
        names = self.release.inputs_of(self._form)
        each = len(prepared) // len(names)
        feed = {name: prepared[at * each : (at + 1) * each] for at, name in enumerate(names)}
        if self._fresh:
            for _ in range(self.release.preroll):
                self._runner.infer(feed)
            self._fresh = False
        saliency: Tensor = self._runner.infer(feed)[self.release.output][0, 0]
        return saliency

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Forget the past: the next frame starts a new clip, of `fps` frames a second."""
        self._runner.reset(fps)
        if self.release.preprocessing.alignment is not None:
            self.prepare = Eye(self.release.preprocessing, fps)
        self._fresh = True

    def close(self) -> None:
        """Free the engine."""
        self._runner.close()

    def _check_golden(self) -> None:
        frames, expected = self.release.golden()
        graph = self.release.graph(self.precision, self._form)
        maps = clip_maps(self, frames)
        if not np.isfinite(maps).all():
            raise InputError(
                f"release {self.release.name}: the {self.precision} graph gives NaN on its golden set "
                "(NaN in its weights?); do not fly it: export it again from a sound student"
            )
        released = graph.verified.golden_cc if graph.verified else 1.0
        likeness = min(cc(a, b) for a, b in zip(maps, expected, strict=True))
        if likeness < released - GOLDEN_MARGIN:
            raise InputError(
                f"release {self.release.name}: the {self.precision} graph does not give its golden maps "
                f"(CC {likeness:.4f}, released with {released:.4f}); do not fly it: export it again"
            )


def clip_maps(model: SaliencyModel, frames: NDArray[np.uint8]) -> Tensor:
    """Return the maps (N, height, width) of a clip's frames (N, H, W, 3), BGR, from a fresh start.

    No rate is known of the clip: states lag as at `NOMINAL_FPS`.
    """
    model.reset()
    delay = model.release.delay_frames
    padded = [*frames, *([frames[-1]] * delay)]
    maps = np.stack([model.infer(model.prepare(frame)).copy() for frame in padded])
    model.reset()
    return maps[delay:]
