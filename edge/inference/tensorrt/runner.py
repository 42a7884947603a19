"""TensorRT on a GPU: copies and inference on streams of their own, joined by events; docs/adr/0010."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Tensor
from edge.inference.cuda.backend import Cuda, CudaError, CudaGraph, Event, Memory, Stream
from edge.inference.interface.layer_times import LayerTime
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.tensorrt.api import EngineTensor
from edge.inference.tensorrt.device_state import DeviceRecurrentState
from edge.inference.tensorrt.layers import read_layers
from edge.release.manifest import StateSpec

FRAMES_IN_FLIGHT = 2
"""Frames in flight: while one is computed, the next is copied."""
MAX_GRAPHS = 64
"""A longer past than this many frames is run by plain launches: each graph takes memory and time to make."""

Shape = tuple[int | None, ...]


class LoadedEngine(Protocol):
    """A loaded engine, as `edge.inference.tensorrt.api.TensorRTEngine` is one."""

    description: str

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Fix what is dynamic of the inputs, by name."""

    @property
    def inputs(self) -> list[EngineTensor]:
        """The inputs, states among them."""

    @property
    def outputs(self) -> list[EngineTensor]:
        """The outputs, states among them."""

    def bind(self, name: str, address: int) -> None:
        """Say where on the GPU a tensor is."""

    def enqueue(self, stream: int) -> None:
        """Give a run to a stream."""

    def check_capturable(self, stream: int) -> None:
        """Raise InputError if it is known beforehand that a run cannot be captured."""

    def time_layers(self) -> Mapping[str, list[float]]:
        """From now on, wait for each run; return what fills with its layers' milliseconds, by name."""

    def inspect(self) -> str:
        """Return what TensorRT tells of the layers, as JSON."""

    def close(self) -> None:
        """Free the engine."""


class GpuTiming(NamedTuple):
    """Milliseconds of one frame: handing it over on the CPU; and on the GPU copy, compute, copy."""

    enqueue_ms: float
    copy_in_ms: float
    gpu_ms: float
    copy_out_ms: float


@dataclass
class _Slot:
    """The buffers of a frame in flight; `given` and `taken` are what the engine sees."""

    inputs: dict[str, Memory]
    given: dict[str, Memory]
    taken: dict[str, Memory]
    outputs: dict[str, Memory]
    started: Event
    uploaded: Event
    begun: Event
    inferred: Event
    done: Event
    enqueue_ms: float = 0.0


class TensorRTRunner:
    """An `Overlapping` runner of one engine; `inputs` and `outputs` as `OnnxRunner` has them, at one batch.

    It owns `cuda` and `execution` and closes both. `zero_copy`: the engine reads and writes page-locked
    memory of the CPU by itself; None does so where CPU and GPU share their memory. `graphs`: capture CUDA
    graphs, if that works. `timed`: `timing` says after each frame what took how long on the GPU. `layers`:
    layers are timed, by plain launches that are waited for. `gpu_bytes`: of the GPU's memory, what opening it
    took, where the GPU has its own; whoever opened it says.

    Raises:
        InputError: the engine has other tensors than the release says.
        CudaError: the GPU refuses, now or at any call.
    """

    depth = FRAMES_IN_FLIGHT

    def __init__(
        self,
        execution: LoadedEngine,
        cuda: Cuda,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        states: Sequence[StateSpec] = (),
        zero_copy: bool | None = None,
        graphs: bool = True,
        batch: int = 1,
        timed: bool = False,
        layers: bool = False,
    ) -> None:
        self._execution, self._cuda = execution, cuda
        self._zero_copy = cuda.integrated if zero_copy is None else zero_copy
        self._wants_graphs, self._timed = graphs and not layers, timed
        self.timing: GpuTiming | None = None
        self.gpu_bytes: int | None = None
        self._inputs, self._outputs = _at(batch, inputs), _at(batch, outputs)
        carried = {s.input: s.shape for s in states}, {s.output: s.shape for s in states}
        execution.shape({**self._inputs, **carried[0]})
        for side, expected in (
            (execution.inputs, {**self._inputs, **carried[0]}),
            (execution.outputs, {**self._outputs, **carried[1]}),
        ):
            found = {tensor.name: tensor.shape for tensor in side}
            if found != expected:
                raise InputError(
                    f"the engine has tensors {found}; the release says {expected}: build it again with "
                    "aerogaze build --rebuild"
                )
        kinds = {tensor.name: tensor.dtype for tensor in (*execution.inputs, *execution.outputs)}
        if odd := next((s for s in states if kinds[s.input] != kinds[s.output]), None):
            raise InputError(
                f"the engine takes the state {odd.input} as {kinds[odd.input]} and gives it as "
                f"{kinds[odd.output]}: export it again"
            )
        self._up, self._compute, self._down = cuda.stream(), cuda.stream(), cuda.stream()
        self._slots = [self._slot(kinds) for _ in range(FRAMES_IN_FLIGHT)]
        self._states = DeviceRecurrentState(states, kinds, cuda, self._compute, FRAMES_IN_FLIGHT)
        self._captured: dict[tuple[int, ...], list[CudaGraph]] = {}
        self._graphs: list[CudaGraph] = []
        self._flying: deque[_Slot] = deque()
        self._here = threading.local()
        self._frame = 0
        self.description = ""
        self._layers_ms = execution.time_layers() if layers else {}
        self.reset()

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the outputs by name for inputs by name; states are carried to the next calls."""
        if self._flying:
            raise RuntimeError("frames are in flight: collect them before infer")
        self.submit(feed)
        return self.collect()

    def submit(self, feed: Mapping[str, GraphInput]) -> None:
        """Start on a frame, and return at once. At most `depth` are in flight."""
        if len(self._flying) == FRAMES_IN_FLIGHT:
            raise RuntimeError(f"{FRAMES_IN_FLIGHT} frames are in flight: collect one before the next")
        self._enter()
        given_at = time.perf_counter()
        cuda, slot = self._cuda, self._slots[self._frame % FRAMES_IN_FLIGHT]
        for name, memory in slot.inputs.items():
            if feed[name].shape != memory.values.shape:
                raise InputError(
                    f"{name} is {feed[name].shape}; expected {memory.values.shape}: "
                    "a TensorRT engine is run at the batch that it was opened for"
                )
            np.copyto(memory.values, feed[name], casting="same_kind")
        if self._zero_copy:
            self._mark(slot.started, self._compute)
            self._mark(slot.begun, self._compute)
            self._run(self._frame)
            self._mark(slot.inferred, self._compute)
            cuda.record(slot.done, self._compute)
        else:
            self._mark(slot.started, self._up)
            for name, memory in slot.inputs.items():
                cuda.copy(slot.given[name], memory, self._up)
            cuda.record(slot.uploaded, self._up)
            cuda.wait(self._compute, slot.uploaded)
            self._mark(slot.begun, self._compute)
            self._run(self._frame)
            cuda.record(slot.inferred, self._compute)
            cuda.wait(self._down, slot.inferred)
            for name, memory in slot.outputs.items():
                cuda.copy(memory, slot.taken[name], self._down)
            cuda.record(slot.done, self._down)
        slot.enqueue_ms = (time.perf_counter() - given_at) * 1e3
        self._frame += 1
        self._flying.append(slot)

    def collect(self) -> dict[str, Tensor]:
        """Wait for the oldest frame in flight and return its outputs; valid until the next `submit`."""
        if not self._flying:
            raise RuntimeError("no frame is in flight: submit one first")
        self._enter()
        slot = self._flying.popleft()
        self._cuda.synchronise(slot.done)
        if self._timed:
            self.timing = self._read_timing(slot)
        return {name: np.asarray(memory.values, np.float32) for name, memory in slot.outputs.items()}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Put every state back to its start value, for frames at `fps` a second; drop what is in flight."""
        self._enter()
        for stream in (self._up, self._compute, self._down):
            self._cuda.synchronise(stream)
        self._flying.clear()
        self._frame = 0
        self._states.lay_out(fps)
        how = self._prepare_graphs()
        memory = "zero copy" if self._zero_copy else "copied"
        self.description = f"{self._execution.description}, {self._cuda.description}, {memory}, {how}"

    def layer_times(self, warm: int) -> list[LayerTime]:
        """Return the layers in the order they ran in, less the first `warm` runs; see `layers`."""
        return read_layers(self._layers_ms, self._execution.inspect(), warm)

    def close(self) -> None:
        """Wait for the GPU and free all that is on it."""
        with suppress(CudaError):  # what went wrong was told where it did
            self._enter()
            for stream in (self._up, self._compute, self._down):
                self._cuda.synchronise(stream)
        self._cuda.free_graphs()
        self._execution.close()
        self._cuda.close()

    def _enter(self) -> None:
        if not hasattr(self._here, "entered"):  # not by its number, which the next thread may have
            self._cuda.enter()
            self._here.entered = True

    def _mark(self, event: Event, stream: Stream) -> None:
        if self._timed:
            self._cuda.record(event, stream)

    def _read_timing(self, slot: _Slot) -> GpuTiming:
        elapsed = self._cuda.elapsed_ms
        copies = not self._zero_copy
        return GpuTiming(
            slot.enqueue_ms,
            elapsed(slot.started, slot.uploaded) if copies else 0.0,
            elapsed(slot.begun, slot.inferred),
            elapsed(slot.inferred, slot.done) if copies else 0.0,
        )

    def _run(self, frame: int) -> None:
        if self._graphs and frame >= self._states.settled:
            self._cuda.launch(self._graphs[frame % self._states.length], self._compute)
        else:
            self._enqueue(frame)

    def _enqueue(self, frame: int) -> None:
        slot = self._slots[frame % FRAMES_IN_FLIGHT]
        for name, address in self._states.addresses(frame).items():
            self._execution.bind(name, address)
        for name, memory in (*slot.given.items(), *slot.taken.items()):
            self._execution.bind(name, memory.address)
        self._execution.enqueue(self._compute.handle)

    def _prepare_graphs(self) -> str:
        """Capture a graph for each place in the ring; say how frames will be launched."""
        self._graphs = []
        length, first = self._states.length, self._states.settled
        if not self._wants_graphs:
            return "plain launches"
        if length > MAX_GRAPHS:
            return f"plain launches (a past of {length} frames is too long for CUDA graphs)"
        if self._states.lags not in self._captured:
            try:
                self._enqueue(0)  # TensorRT wants a run before a capture
                self._cuda.synchronise(self._compute)
                self._execution.check_capturable(self._compute.handle)
                graphs: dict[int, CudaGraph] = {}
                for frame in range(first, first + length):
                    graphs[frame % length] = self._cuda.capture(
                        self._compute,
                        lambda frame=frame: self._enqueue(frame),  # type: ignore[misc]
                    )
            except InputError as error:
                return f"plain launches (no CUDA graph: {error})"
            self._captured[self._states.lags] = [graphs[place] for place in range(length)]
        self._graphs = self._captured[self._states.lags]
        return "CUDA graph"

    def _slot(self, kinds: Mapping[str, np.dtype[Any]]) -> _Slot:
        cuda = self._cuda
        inputs = {name: cuda.host(shape, kinds[name]) for name, shape in self._inputs.items()}
        outputs = {name: cuda.host(shape, kinds[name]) for name, shape in self._outputs.items()}
        given, taken = inputs, outputs
        if not self._zero_copy:
            given, taken = (
                {name: cuda.device(memory.size_bytes) for name, memory in side.items()}
                for side in (inputs, outputs)
            )
        started, uploaded, begun, inferred, done = (cuda.event(self._timed) for _ in range(5))
        return _Slot(inputs, given, taken, outputs, started, uploaded, begun, inferred, done)


def _at(batch: int, shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(batch if side is None else side for side in shape) for name, shape in shapes.items()}
