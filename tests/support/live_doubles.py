"""Live runs of doubles: a camera, a model and a sink that are slow, fail or hang as a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Frame, PreparedInput, Tensor
from edge.core.run_status import Status
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, RunSummary, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
FPS = 50.0
HANG_LIMIT_S = 20
"""Longest hang, so that a failed test leaves no thread behind for long."""
INCOMPLETE = InputError("half of it is missing")
"""An error for `finish` of a sink."""


class ScriptedCamera:
    """Camera that yields frames with the given indices at `FPS`, then fails, hangs or ends.

    Args:
        indices: Indices of the frames.
        fails: Message of the error after the last frame.
        hangs: After the last frame, the camera hangs until this event is set.
        stamp: Capture time of a frame, from its index and the current time.
        image: Image of a frame, from its index.

    Attributes:
        closed: Number of calls of `close`.
    """

    name, fps, height, width = "camera", FPS, 90, 160
    length: int | None = None

    def __init__(
        self,
        indices: Sequence[int],
        fails: str | None = None,
        hangs: threading.Event | None = None,
        stamp: Callable[[int, float], float] = lambda index, now: now,
        image: Callable[[int], np.ndarray] = lambda index: IMAGE,
    ) -> None:
        self.indices, self.fails, self.hangs, self.stamp, self.image = indices, fails, hangs, stamp, image
        self.closed = 0

    def __iter__(self) -> Iterator[Frame]:
        for index in self.indices:
            time.sleep(1 / FPS)
            yield Frame(index, self.stamp(index, time.monotonic()), self.image(index))
        if self.hangs is not None:
            self.hangs.wait(HANG_LIMIT_S)
        if self.fails is not None:
            raise InputError(self.fails)

    def close(self) -> None:
        self.closed += 1


class ScriptedModel(SaliencyModel):
    """The shipped student, made slow, broken or hanging at given calls of `submit`.

    Args:
        delay_s: Duration of each call.
        nan: Calls whose map is not finite.
        fails_at: Call that raises an error.
        hangs_at: Call that hangs until `released` is set.
        released: Ends the hang.
        release: Name of the release; None for the default one.

    Attributes:
        calls: Number of calls of `submit` so far.
        closed: Number of calls of `close`.
    """

    def __init__(
        self,
        delay_s: float = 0,
        nan: Sequence[int] = (),
        fails_at: int | None = None,
        hangs_at: int | None = None,
        released: threading.Event | None = None,
        release: str | None = None,
    ) -> None:
        self.delay_s, self.nan, self.fails_at = delay_s, nan, fails_at
        self.hangs_at, self.released = hangs_at, released
        self.calls = -1_000_000  # opening the model calls submit, too: no script then
        self.closed = 0
        super().__init__(release, "fp32", 1)
        self.calls = 0

    def submit(self, prepared: PreparedInput) -> None:
        call, self.calls = self.calls, self.calls + 1
        time.sleep(self.delay_s if call >= 0 else 0)
        if call == self.fails_at:
            raise RuntimeError("CUDA error 700")
        if call == self.hangs_at and self.released is not None:
            self.released.wait(HANG_LIMIT_S)
        super().submit(prepared)

    def collect(self) -> Tensor:
        saliency = super().collect()
        return np.full_like(saliency, np.nan) if self.calls - 1 in self.nan else saliency

    def close(self) -> None:
        self.closed += 1
        super().close()


class RecordingSink:
    """Sink that records its results and its end.

    Args:
        delay_s: Duration of each write.
        errors: Errors by the number of the write, from 1.
        finish_error: Error that `finish` raises.

    Attributes:
        results: Results written without an error.
        ended: How the sink ended: "finished committed", "discarded", or "" while it is open.
    """

    def __init__(
        self,
        delay_s: float = 0,
        errors: Mapping[int, BaseException] | None = None,
        finish_error: BaseException | None = None,
    ) -> None:
        self.delay_s, self.errors, self.finish_error = delay_s, errors or {}, finish_error
        self.results: list[Result] = []
        self.writes = 0
        self.ended = ""

    @property
    def indices(self) -> list[int]:
        """Indices of the recorded frames."""
        return [result.frame.index for result in self.results]

    def write(self, result: Result) -> None:
        time.sleep(self.delay_s)
        self.writes += 1
        if (error := self.errors.get(self.writes)) is not None:
            raise error
        self.results.append(result)

    def finish(self) -> None:
        if self.finish_error is not None:
            raise self.finish_error
        self.ended += "finished "

    def commit(self) -> None:
        self.ended += "committed"

    def discard(self) -> None:
        self.ended += "discarded"


def run_live(
    source: ScriptedCamera,
    model: ScriptedModel,
    status: Status,
    sinks: Sequence[Sink] = (),
    *,
    sources: Sequence[ScriptedCamera | Exception] = (),
    models: Sequence[ScriptedModel] = (),
    stall_s: float = 0.6,
    stop: threading.Event | None = None,
    hooks: RunHooks | None = None,
) -> RunSummary:
    """Run live; a failed part is replaced by the next of `sources` (which may be errors) or `models`."""
    next_sources, next_models = iter(sources), iter(models)

    def open_source() -> ScriptedCamera:
        if isinstance(source := next(next_sources), Exception):
            raise source
        return source

    settings = LiveSettings(
        open_source, lambda: next(next_models), stall_s=stall_s, min_backoff_s=0.01, max_backoff_s=0.05
    )
    return run_pipeline(source, model, sinks, live=settings, status=status, stop=stop, hooks=hooks)
