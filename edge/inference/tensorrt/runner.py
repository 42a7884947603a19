"""Runner of a TensorRT engine: copies and inference on separate streams, joined by events (docs/adr/0010)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import DeviceFrame, RawInput, Tensor
from edge.inference.cuda.backend import Cuda, CudaError, Event, Memory, Stream
from edge.inference.interface.layer_times import LayerTime
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import GraphSignature, TensorShape
from edge.inference.tensorrt.api import EngineTensor
from edge.inference.tensorrt.cuda_graphs import CudaGraphCache
from edge.inference.tensorrt.device_state import DeviceRecurrentState
from edge.inference.tensorrt.layers import read_layers
from edge.inference.tensorrt.slot_ring import FrameSlot, SlotRing, allocate_slot

Feed = Mapping[str, RawInput]
"""Inputs by name; raw frames may be in the GPU's memory."""
FRAMES_IN_FLIGHT = 2
"""While one frame is computed, the next one is copied."""


class LoadedEngine(Protocol):
    """A loaded engine, such as `edge.inference.tensorrt.api.TensorRTEngine`."""

    description: str

    def set_input_shapes(self, shapes: Mapping[str, tuple[int, ...]], stream: int) -> None:
        """Set the shapes of dynamic inputs, by name; all runs will be given to the stream."""

    @property
    def inputs(self) -> list[EngineTensor]:
        """The inputs, including states."""

    @property
    def outputs(self) -> list[EngineTensor]:
        """The outputs, including states."""

    def bind(self, name: str, address: int) -> None:
        """Set the GPU address of a tensor."""

    def enqueue(self, stream: int) -> None:
        """Give one run to a stream."""

    def check_capturable(self, stream: int) -> None:
        """Raise InputError if it is known in advance that a run cannot be captured."""

    def time_layers(self) -> Mapping[str, list[float]]:
        """Measure layers from now on; return a mapping that fills with milliseconds by layer name."""

    def inspect(self) -> str:
        """Return TensorRT's description of the layers as JSON."""

    def close(self) -> None:
        """Free the engine."""


class GpuTiming(NamedTuple):
    """Milliseconds of one frame: submission on the CPU; copy in, inference and copy out on the GPU."""

    enqueue_ms: float
    copy_in_ms: float
    gpu_ms: float
    copy_out_ms: float


@dataclass(frozen=True)
class RunnerOptions:
    """Options of a `TensorRTRunner`.

    Attributes:
        batch: Batch size for dynamic dimensions.
        zero_copy: The engine accesses page-locked memory of the CPU directly. None does so if CPU and GPU
            share their memory.
        cuda_graphs: Capture CUDA graphs if possible.
        timed: Measure every frame on the GPU; see `TensorRTRunner.timing`.
        time_layers: Measure the layers, with plain launches that block.
        blocking_wait: A thread that waits for a frame sleeps. It wakes up a little later than one that asks
            without pause, which keeps a core busy.
    """

    batch: int = 1
    zero_copy: bool | None = None
    cuda_graphs: bool = True
    timed: bool = False
    time_layers: bool = False
    blocking_wait: bool = False


class _Streams(NamedTuple):
    upload: Stream
    compute: Stream
    download: Stream


class TensorRTRunner:
    """A `PipelinedRunner` of one TensorRT engine. It owns `engine` and `cuda` and closes both.

    Args:
        engine: The loaded engine.
        cuda: The GPU.
        signature: The tensors that the engine must have.
        options: How to run it.

    Attributes:
        timing: Timing of the last collected frame; None unless `RunnerOptions.timed`.
        gpu_bytes: GPU memory taken by the engine and the runner; None if unknown. Set by the caller that
            opened both.

    Raises:
        InputError: The engine has other tensors than `signature`.
        CudaError: The GPU refuses a call, here or in any method.
    """

    depth = FRAMES_IN_FLIGHT
    takes_device_frames = True

    def __init__(
        self,
        engine: LoadedEngine,
        cuda: Cuda,
        signature: GraphSignature,
        options: RunnerOptions | None = None,
    ) -> None:
        options = options or RunnerOptions()
        self._engine, self._cuda, self._options = engine, cuda, options
        self._zero_copy = cuda.integrated if options.zero_copy is None else options.zero_copy
        self.timing: GpuTiming | None = None
        self.gpu_bytes: int | None = None
        inputs = _with_batch(options.batch, signature.inputs)
        outputs = _with_batch(options.batch, signature.outputs)
        self._streams = _Streams(cuda.create_stream(), cuda.create_stream(), cuda.create_stream())
        states = {state.input: state.shape for state in signature.states}
        engine.set_input_shapes({**inputs, **states}, self._streams.compute.handle)
        dtypes = _check_tensors(engine, inputs, outputs, signature)
        self._ring = SlotRing(
            [
                allocate_slot(
                    cuda, inputs, outputs, dtypes, self._zero_copy, options.timed, options.blocking_wait
                )
                for _ in range(FRAMES_IN_FLIGHT)
            ]
        )
        # The period is a multiple of the slots, so that slots and states repeat together in CUDA graphs.
        self._states = DeviceRecurrentState(
            signature.states, dtypes, cuda, self._streams.compute, FRAMES_IN_FLIGHT
        )
        self._graphs = CudaGraphCache(cuda, self._streams.compute, self._enqueue, engine.check_capturable)
        self._thread = threading.local()
        self.description = ""
        self._layer_times_ms = engine.time_layers() if options.time_layers else {}
        self.reset()

    def infer(self, feed: Feed) -> dict[str, Tensor]:
        """Return the outputs by name for inputs by name. States are kept for the next calls."""
        if not self._ring.is_empty:
            raise RuntimeError("frames are in flight: collect them before infer")
        self.submit(feed)
        return self.collect()

    def submit(self, feed: Feed) -> None:
        """Start a frame and return at once. At most `depth` frames are in flight."""
        if self._ring.is_full:
            raise RuntimeError(f"{FRAMES_IN_FLIGHT} frames are in flight: collect one before the next")
        self._make_current()
        started_s = time.perf_counter()
        slot = self._ring.slot_of(self._ring.frame)
        _fill_inputs(slot, feed)
        if self._zero_copy:
            self._submit_zero_copy(slot)
        else:
            self._submit_with_copies(slot)
        slot.enqueue_ms = (time.perf_counter() - started_s) * 1e3
        self._ring.push()

    def collect(self) -> dict[str, Tensor]:
        """Wait for the oldest frame in flight and return its outputs, valid until the next `submit`."""
        if self._ring.is_empty:
            raise RuntimeError("no frame is in flight: submit one first")
        self._make_current()
        slot = self._ring.pop()
        self._cuda.synchronize(slot.done)
        if self._options.timed:
            self.timing = self._read_timing(slot)
        return {name: np.asarray(memory.values, np.float32) for name, memory in slot.host_outputs.items()}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Set every state to its start value, for `fps` frames per second; drop the frames in flight."""
        self._make_current()
        for stream in self._streams:
            self._cuda.synchronize(stream)
        self._ring.clear()
        self._states.set_frame_rate(fps)
        # Layers are measured by launches that block, which cannot be captured.
        use_graphs = self._options.cuda_graphs and not self._options.time_layers
        launches = self._graphs.prepare(self._states) if use_graphs else "plain launches"
        memory = "zero copy" if self._zero_copy else "copied"
        parts = [self._engine.description, self._cuda.description, memory, launches]
        self.description = ", ".join(parts + ["blocking waits"] * self._options.blocking_wait)

    def layer_times(self, warm: int) -> list[LayerTime]:
        """Return the layers in execution order, without the first `warm` runs; needs `time_layers`."""
        return read_layers(self._layer_times_ms, self._engine.inspect(), warm)

    def close(self) -> None:
        """Wait for the GPU and free everything on it."""
        with suppress(CudaError):  # an earlier failure was reported where it happened
            self._make_current()
            for stream in self._streams:
                self._cuda.synchronize(stream)
        # Graphs refer to the engine, and the engine to the context.
        self._cuda.free_graphs()
        self._engine.close()
        self._cuda.close()

    def _make_current(self) -> None:
        # Thread-local: the identifier of a thread may be reused by a later thread.
        if not hasattr(self._thread, "is_current"):
            self._cuda.make_current()
            self._thread.is_current = True

    def _submit_zero_copy(self, slot: FrameSlot) -> None:
        compute = self._streams.compute
        self._record_if_timed(slot.started, compute)
        for name, frame in slot.device_inputs.items():
            self._cuda.copy(slot.engine_inputs[name], _memory_of(frame), compute)
        self._record_if_timed(slot.inference_started, compute)
        self._run(self._ring.frame)
        self._record_if_timed(slot.inferred, compute)
        self._cuda.record(slot.done, compute)

    def _submit_with_copies(self, slot: FrameSlot) -> None:
        cuda, (upload, compute, download) = self._cuda, self._streams
        self._record_if_timed(slot.started, upload)
        for name, memory in slot.host_inputs.items():
            frame = slot.device_inputs.get(name)
            cuda.copy(slot.engine_inputs[name], memory if frame is None else _memory_of(frame), upload)
        cuda.record(slot.uploaded, upload)
        cuda.wait(compute, slot.uploaded)
        self._record_if_timed(slot.inference_started, compute)
        self._run(self._ring.frame)
        cuda.record(slot.inferred, compute)
        cuda.wait(download, slot.inferred)
        for name, memory in slot.host_outputs.items():
            cuda.copy(memory, slot.engine_outputs[name], download)
        cuda.record(slot.done, download)

    def _record_if_timed(self, event: Event, stream: Stream) -> None:
        if self._options.timed:
            self._cuda.record(event, stream)

    def _read_timing(self, slot: FrameSlot) -> GpuTiming:
        elapsed_ms = self._cuda.elapsed_ms
        return GpuTiming(
            slot.enqueue_ms,
            0.0 if self._zero_copy else elapsed_ms(slot.started, slot.uploaded),
            elapsed_ms(slot.inference_started, slot.inferred),
            0.0 if self._zero_copy else elapsed_ms(slot.inferred, slot.done),
        )

    def _run(self, frame: int) -> None:
        if not self._graphs.launch(frame):
            self._enqueue(frame)

    def _enqueue(self, frame: int) -> None:
        slot = self._ring.slot_of(frame)
        for name, address in self._states.addresses(frame).items():
            self._engine.bind(name, address)
        for name, memory in (*slot.engine_inputs.items(), *slot.engine_outputs.items()):
            self._engine.bind(name, memory.address)
        self._engine.enqueue(self._streams.compute.handle)


def _fill_inputs(slot: FrameSlot, feed: Feed) -> None:
    """Write the inputs that are in the CPU's memory to page-locked memory; keep those on the GPU.

    Raises:
        InputError: An input has another shape.
    """
    slot.device_inputs = {}
    for name, memory in slot.host_inputs.items():
        value = feed[name]
        if isinstance(value, DeviceFrame):
            shape: tuple[int, ...] = (1, value.height * 3 // 2, value.width)
            slot.device_inputs[name] = value
        else:
            shape = value.shape
        if shape != memory.values.shape:
            raise InputError(
                f"{name} is {shape}; expected {memory.values.shape}: "
                "a TensorRT engine is run at the batch that it was opened for"
            )
        if not isinstance(value, DeviceFrame):
            np.copyto(memory.values, value, casting="same_kind")


def _memory_of(frame: DeviceFrame) -> Memory:
    return Memory(frame.address, frame.size_bytes, native=frame.address)


def _check_tensors(
    engine: LoadedEngine,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    signature: GraphSignature,
) -> dict[str, np.dtype[Any]]:
    """Return the data types of the engine's tensors by name.

    Raises:
        InputError: The engine has other tensors than the release, or a state changes its data type.
    """
    states = signature.states
    expected_inputs = {**inputs, **{state.input: state.shape for state in states}}
    expected_outputs = {**outputs, **{state.output: state.shape for state in states}}
    for tensors, expected in ((engine.inputs, expected_inputs), (engine.outputs, expected_outputs)):
        actual = {tensor.name: tensor.shape for tensor in tensors}
        if actual != expected:
            raise InputError(
                f"the engine has tensors {actual}; the release says {expected}: build it again with "
                "aerogaze build --rebuild"
            )
    dtypes = {tensor.name: tensor.dtype for tensor in (*engine.inputs, *engine.outputs)}
    for state in states:
        if dtypes[state.input] != dtypes[state.output]:
            raise InputError(
                f"the engine reads the state {state.input} as {dtypes[state.input]} and writes it as "
                f"{dtypes[state.output]}; expected one data type: export it again"
            )
    return dtypes


def _with_batch(batch: int, shapes: Mapping[str, TensorShape]) -> dict[str, tuple[int, ...]]:
    """Return the shapes with `batch` for the dynamic dimensions."""
    return {name: tuple(batch if side is None else side for side in shape) for name, shape in shapes.items()}
