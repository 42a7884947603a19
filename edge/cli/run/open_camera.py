"""A camera of a run that is open: its source, model and outputs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from edge.cli.console import ERR_CONSOLE
from edge.cli.run.options import RunOptions
from edge.cli.run.outputs import Outputs
from edge.core.errors import InputError
from edge.core.frames import Frame, Source, find_damage
from edge.core.run_status import RunInfo, Status
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, RunSummary, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.sinks.files.output_stream import is_stream
from edge.sinks.sink import Sink
from edge.sources.factory import is_camera
from edge.sources.public_name import public_name


class MissingCamera:
    """Stand-in for a missing camera: it gives the error, and the live run opens the camera again.

    Size and frame rate are assumptions: outputs with pictures need them before the camera is there.

    Args:
        name: Name of the camera, without passwords.
        error: Why it cannot be opened.
    """

    width, height, fps = 1280, 720, 30.0
    length: int | None = None

    def __init__(self, name: str, error: InputError) -> None:
        self.name, self._error = name, error

    def __iter__(self) -> Iterator[Frame]:
        """Raise the error when the first frame is asked for."""
        yield from ()  # makes this function a generator
        raise self._error

    def close(self) -> None:
        """Do nothing: nothing is open."""


class OpenCamera:
    """Opens the source of a camera. `open_outputs` and `run` follow, and `close` at the end in any case.

    A live run opens a camera that is not there again until it is.

    Args:
        options: Options of the camera.
        model: Opened model, which the camera owns from now on.
        may_be_missing: A live camera that cannot be opened is no error.

    Attributes:
        options: The same.
        name: Name of the camera; empty for the only source of a run if it was given no name.
        run_info: What runs.
        status: Status of the camera.
        expected_frames: Number of frames that will come; None if unknown.
        error: Why the source could not be opened; None if it is open.

    Raises:
        InputError: The source cannot be opened.
    """

    def __init__(self, options: RunOptions, model: SaliencyModel, may_be_missing: bool = False) -> None:
        self.options, self.name, self._model = options, options.camera.name, model
        self.error: InputError | None = None
        self._open_frames = partial(
            options.open_source, options.min_source_size(model), options.device_request(model)
        )
        self._sinks: list[Sink] = []
        with ExitStack() as opening:
            opening.callback(model.close)
            self._frames = frames = self._open_first(may_be_missing)
            opening.callback(frames.close)
            self._unused = opening.pop_all()
        self.run_info = RunInfo(model.release.name, model.precision, model.engine, frames.name)
        self.status = Status(self.run_info, camera=self.name)
        self.expected_frames = min(filter(None, (frames.length, options.max_frames)), default=None)

    def _open_first(self, may_be_missing: bool) -> Source:
        try:
            return self._open_frames()
        except InputError as error:
            source = self.options.camera.source
            if not (may_be_missing and self.options.is_live and is_camera(source)):
                raise
            self.error = error
            return MissingCamera(public_name(source), error)

    @property
    def damage(self) -> Sequence[str]:
        """What the source could not read so far, one line each."""
        return find_damage(self._frames)

    def open_outputs(self, outputs: Outputs) -> None:
        """Open the outputs; name what killed runs left of the same ones.

        Raises:
            InputError: An output cannot be opened.
        """
        _recover_outputs(self.options)
        transform = MapAnalyzer(self._model.release.score, self.options.min_score)
        self._sinks = outputs.open(self.options, self._frames, self.status, transform)

    def run(self, stop: threading.Event, hooks: RunHooks) -> RunSummary:
        """Run the pipeline to its end, then close source and model; errors are those of `run_pipeline`."""
        options, live, sinks = self.options, None, self._sinks
        self._sinks = []  # the pipeline commits or discards them
        # Closed by this thread: after a second Ctrl-C the main thread must not close what is still in use.
        with self._unused.pop_all() as used:
            if options.is_live:
                used.pop_all()  # a live run closes its source and model itself
                reopen = self._open_frames if is_camera(options.camera.source) else None
                live = LiveSettings(reopen, options.open_model)
            return run_pipeline(
                self._frames,
                self._model,
                sinks,
                max_frames=options.max_frames,
                live=live,
                status=self.status,
                stop=stop,
                hooks=hooks,
            )

    def close(self) -> None:
        """Close source and model and discard the outputs, if no run has taken them."""
        for sink in self._sinks:
            self._unused.callback(sink.discard)
        self._unused.close()


def _recover_outputs(options: RunOptions) -> None:
    """Name what killed runs left of the same outputs, and a recording whose name differs from the option."""
    from edge.sinks.files.recovery import recover_outputs

    outputs = [path for path in options.outputs.values() if path is not None and not is_stream(path)]
    lines = [line for path in outputs for line in recover_outputs(path)]
    if options.overlay != options.recorded_overlay:
        lines.append(f"recording to {options.recorded_overlay}: a killed run would leave an MP4 unreadable")
    for line in lines:
        ERR_CONSOLE.print(line, highlight=False, soft_wrap=True, markup=False)
