"""A camera, an engine and a sink that are slow, fail or hang as a test of live runs says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Frame, GraphInput, Tensor
from edge.inference.saliency_model import SaliencyModel
from edge.postprocessing.result import Result

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
FPS = 50.0


class ScriptedCamera:
    """Frames of the given ids at `FPS`, stamped as they come; then it fails, hangs, or ends."""

    name, fps, height, width = "camera", FPS, 90, 160
    length: int | None = None

    def __init__(
        self,
        ids: Sequence[int],
        fails: str | None = None,
        hangs: threading.Event | None = None,
        stamp: Callable[[int, float], float] = lambda index, now: now,
        image: Callable[[int], np.ndarray] = lambda index: IMAGE,
    ) -> None:
        self.ids, self.fails, self.hangs, self.stamp, self.image = ids, fails, hangs, stamp, image
        self.closed = 0

    def __iter__(self) -> Iterator[Frame]:
        for index in self.ids:
            time.sleep(1 / FPS)
            yield Frame(index, self.stamp(index, time.monotonic()), self.image(index))
        if self.hangs is not None:
            self.hangs.wait(20)
        if self.fails is not None:
            raise InputError(self.fails)

    def close(self) -> None:
        self.closed += 1


class ScriptedModel(SaliencyModel):
    """The shipped student, slowed, broken or hung as the test says, by the count of its calls."""

    def __init__(
        self,
        delay_s: float = 0,
        nan: Sequence[int] = (),
        fails_at: int | None = None,
        hangs_at: int | None = None,
        hung: threading.Event | None = None,
    ) -> None:
        self.delay_s, self.nan, self.fails_at, self.hangs_at, self.hung = (
            delay_s,
            nan,
            fails_at,
            hangs_at,
            hung,
        )
        self.calls = -1_000_000  # not while it opens
        self.closed = 0
        super().__init__(None, "fp32", 1)
        self.calls = 0

    def submit(self, prepared: GraphInput) -> None:
        call, self.calls = self.calls, self.calls + 1
        time.sleep(self.delay_s if call >= 0 else 0)
        if call == self.fails_at:
            raise RuntimeError("CUDA error 700")
        if call == self.hangs_at and self.hung is not None:
            self.hung.wait(20)
        super().submit(prepared)

    def collect(self) -> Tensor:
        saliency = super().collect()
        return np.full_like(saliency, np.nan) if self.calls - 1 in self.nan else saliency

    def close(self) -> None:
        self.closed += 1
        super().close()


class RecordingSink:
    """A sink that keeps what it is given, slowly or not, and fails where told."""

    def __init__(
        self, delay_s: float = 0, fails: Mapping[int, BaseException] | None = None, whole: bool = True
    ) -> None:
        self.delay_s, self.fails, self.whole = delay_s, fails or {}, whole
        self.results: list[Result] = []
        self.calls = 0
        self.ended = ""

    def write(self, result: Result) -> None:
        time.sleep(self.delay_s)
        self.calls += 1
        if (error := self.fails.get(self.calls)) is not None:
            raise error
        self.results.append(result)

    def finish(self) -> None:
        if not self.whole:
            raise InputError("half of it is missing")

    def commit(self) -> None:
        self.ended += "committed"

    def discard(self) -> None:
        self.ended += "discarded"
