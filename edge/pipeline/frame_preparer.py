"""Reading thread of a session: opens model and source, reads frames and prepares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edge.core.frames import Frame, PreparedInput
from edge.core.stage_times import PREPARE
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.frame_reader import FrameReader
from edge.pipeline.session_state import Part, PreparedFrame, RunContext, SessionState, Watchdog
from edge.preprocessing.transform import FramePreprocessor


class FramePreparer:
    """Opens the model and the source, and prepares the source's frames for the model.

    Args:
        context: Settings of the run.
        state: State of the session.
        watchdog: Records the progress.
        open_model: Opens the model; it may hang.
        open_reader: Opens the source; it may hang.
    """

    def __init__(
        self,
        context: RunContext,
        state: SessionState,
        watchdog: Watchdog,
        open_model: Callable[[], SaliencyModel],
        open_reader: Callable[[], FrameReader],
    ) -> None:
        self._context, self._state, self._watchdog = context, state, watchdog
        self._open_model, self._open_reader = open_model, open_reader
        self._rejected_since_s: float | None = None

    def run(self) -> None:
        """Put prepared frames into the queue until the source ends or fails, or the session is abandoned."""
        context, state = self._context, self._state
        part: Part = "engine"
        try:
            state.model = model = self._open_model()
            context.status.set_engine(model.precision, model.engine)
            part = "source"
            state.reader = reader = self._open_reader()
            model.reset(reader.source.fps)
            self._watchdog.note_opened()
            while not state.is_abandoned and (frame := reader.read()) is not None:
                arrival_s = reader.arrival_s
                self._watchdog.note_frame(arrival_s)
                if context.max_frames is not None and frame.index >= context.max_frames:
                    break
                checked = reader.check(frame, context.status) if context.live else frame
                if checked is not None:
                    self._prepare(model, checked, arrival_s)
        except BaseException as error:  # also SystemExit, which would silently end this thread only
            state.fail(part, error)
        finally:
            state.prepared.finish()

    def _prepare(self, model: SaliencyModel, frame: Frame, arrival_s: float) -> None:
        context = self._context
        try:
            with context.times.measure(PREPARE):
                tensor = self._prepare_image(model, frame)
        except Exception as error:  # for example from a graph with a fixed frame size
            if not context.live:
                raise
            self._reject(arrival_s, error)
            return
        if context.live:
            context.status.report_recovery("frame")
            self._rejected_since_s = None
        started_s = frame.capture_s if context.live else arrival_s
        # Outputs may keep a frame for long, and would keep memory of the GPU with it.
        kept = replace(frame, device=None) if frame.device else frame
        dropped = self._state.prepared.put(PreparedFrame(kept, tensor, started_s))
        context.count_dropped(1 if dropped is None else dropped)

    def _prepare_image(self, model: SaliencyModel, frame: Frame) -> PreparedInput:
        if frame.device is not None:
            return model.prepare_device(frame.device, frame.image)
        prepare = model.prepare
        # The rate that a camera announces may be wrong, and frames may be missing: their times tell the lag.
        if self._context.live and isinstance(prepare, FramePreprocessor):
            return prepare(frame.image, frame.capture_s)
        return prepare(frame.image)

    def _reject(self, arrival_s: float, error: Exception) -> None:
        """Count a frame that the graph cannot take; the run is stalled if it takes none for `stall_s`."""
        self._context.status.report_fault("frame", str(error))
        self._context.count_dropped(1)
        if self._rejected_since_s is None:
            self._rejected_since_s = arrival_s
        if arrival_s - self._rejected_since_s > self._context.stall_s:
            self._context.status.set_state("stalled")
