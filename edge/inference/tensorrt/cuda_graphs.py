"""CUDA graphs of the inference, captured once for each frame rate."""

from __future__ import annotations

from collections.abc import Callable

from edge.core.errors import InputError
from edge.inference.cuda.backend import Cuda, CudaError, CudaGraph, Stream
from edge.inference.tensorrt.device_state import DeviceRecurrentState

MAX_GRAPHS = 64
"""Above this number of frames in a period, launches are plain: every graph costs memory and capture time."""


class CudaGraphCache:
    """CUDA graphs by the lags of the recurrent state.

    Addresses are fixed in a graph, so one graph is needed for every frame of a period of
    `DeviceRecurrentState`.

    Args:
        cuda: The GPU.
        stream: The stream of the inference.
        enqueue: Gives the inference of a frame, by number, to the stream.
        check_capturable: Raises InputError if it is known that the stream cannot be captured.
    """

    def __init__(
        self,
        cuda: Cuda,
        stream: Stream,
        enqueue: Callable[[int], None],
        check_capturable: Callable[[int], None],
    ) -> None:
        self._cuda, self._stream = cuda, stream
        self._enqueue, self._check_capturable = enqueue, check_capturable
        self._captured: dict[tuple[int, ...], list[CudaGraph]] = {}
        self._current: list[CudaGraph] = []
        self._warmup_frames = 0

    def prepare(self, states: DeviceRecurrentState) -> str:
        """Capture the graphs for the current lags unless they exist, and use them from now on.

        Raises:
            CudaError: The GPU is lost.

        Returns:
            How frames will be launched, for reports: with CUDA graphs, or plainly and why.
        """
        self._current = []  # plain launches, unless the graphs below are captured
        if states.period > MAX_GRAPHS:
            return f"plain launches (a past of {states.period} frames is too long for CUDA graphs)"
        if states.lags not in self._captured:
            try:
                self._captured[states.lags] = self._capture(states)
            except InputError as error:
                if isinstance(error, CudaError) and error.lost:
                    raise
                return f"plain launches (no CUDA graph: {error})"
        self._current = self._captured[states.lags]
        self._warmup_frames = states.warmup_frames
        return "CUDA graph"

    def launch(self, frame: int) -> bool:
        """Launch the graph of a frame; return False if there is none, so that it must be enqueued."""
        if not self._current or frame < self._warmup_frames:
            return False
        self._cuda.launch(self._current[frame % len(self._current)], self._stream)
        return True

    def _capture(self, states: DeviceRecurrentState) -> list[CudaGraph]:
        self._enqueue(0)  # TensorRT needs one run before a capture
        self._cuda.synchronize(self._stream)
        self._check_capturable(self._stream.handle)
        graphs: dict[int, CudaGraph] = {}
        for frame in range(states.warmup_frames, states.warmup_frames + states.period):
            graphs[frame % states.period] = self._cuda.capture(
                self._stream,
                lambda frame=frame: self._enqueue(frame),  # type: ignore[misc]
            )
        return [graphs[index] for index in range(states.period)]
