"""Simulated GPU: a `Cuda` on numpy that runs work as late as possible and detects races.

Every piece of work has a vector clock. It orders the work after the earlier work of its stream, after the
events that the stream waited for, and after everything that the CPU had waited for at submission. If two
pieces of work access the same memory, one of them writing, and their clocks do not order them, `RaceError`
is raised when the second is submitted, whatever order they would have run in. The test chooses when work
runs: at once, as late as possible (when something waits for it), or at random. Memory that was never written
contains NaN.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from edge.inference.cuda.backend import CudaError, CudaGraph, Event, Memory, Stream
from edge.inference.tensorrt.api import EngineTensor

UNWRITTEN_BYTE = 0xFF
TOTAL_BYTES = 1 << 32


class RaceError(AssertionError):
    """Two pieces of work access the same memory without an order between them."""


@dataclass(eq=False)
class Work:
    """A piece of work in a stream.

    Attributes:
        name: Its name in messages.
        run: What it does.
        reads: Addresses that it reads.
        writes: Addresses that it writes.
        stream: Handle of its stream.
        clock: Vector clock: for each stream, how many pieces of work are known to run before.
        after: Work that must run before.
        is_done: Whether it has run.
    """

    name: str
    run: Callable[[], None]
    reads: Sequence[int] = ()
    writes: Sequence[int] = ()
    stream: int = 0
    clock: dict[int, int] = field(default_factory=dict)
    after: list[Work] = field(default_factory=list)
    is_done: bool = False

    def precedes(self, other: Work) -> bool:
        return other.clock.get(self.stream, 0) >= self.clock[self.stream]


@dataclass(eq=False)
class _EventState:
    work: Work | None = None


@dataclass(eq=False)
class _StreamState:
    handle: int
    count: int = 0
    last: Work | None = None
    waits: list[Work] = field(default_factory=list)


class SimulatedCuda:
    """The `Cuda` protocol on numpy.

    Args:
        when: When work runs: at once, as late as possible, or as a random generator decides.
        integrated: As in `Cuda`.
        captures: Whether streams can be captured.
        ignored_waits: (index, n): of every n calls of `wait`, ignore the one with this index.
    """

    def __init__(
        self,
        when: Literal["at once", "late"] | random.Random = "late",
        integrated: bool = False,
        captures: bool = True,
        ignored_waits: tuple[int, int] | None = None,
    ) -> None:
        self.description = "simulated"
        self.integrated = integrated
        self.closed = False
        self._when, self._captures, self._ignored_waits = when, captures, ignored_waits
        self._streams: dict[int, _StreamState] = {}
        self._arrays: dict[int, np.ndarray] = {}
        self._pending: list[Work] = []
        self._cpu_clock: dict[int, int] = {}
        self._last_write: dict[int, Work] = {}
        self._last_reads: dict[int, dict[int, Work]] = {}
        self._capture: tuple[int, list[Work]] | None = None
        self._wait_count = self._allocated_bytes = 0
        self.calls: list[str] = []

    def make_current(self) -> None:
        self.calls.append("make current")

    def create_stream(self) -> Stream:
        handle = len(self._streams) + 1
        self._streams[handle] = _StreamState(handle)
        return Stream(handle)

    def create_event(self, timed: bool = False, blocking: bool = False) -> Event:
        return Event(_EventState())

    def allocate(self, size_bytes: int) -> Memory:
        if self._allocated_bytes + size_bytes > TOTAL_BYTES:
            raise CudaError("allocate", "CUDA_ERROR_OUT_OF_MEMORY")
        return Memory(self._register(np.full(size_bytes, UNWRITTEN_BYTE, np.uint8)), size_bytes)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: Any) -> Memory:
        array = np.zeros(shape, dtype)
        return Memory(self._register(array), array.nbytes, array)

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        def run() -> None:
            self.bytes_at(to.address)[: source.size_bytes] = self.bytes_at(source.address)[
                : source.size_bytes
            ]

        self.submit(stream.handle, Work("copy", run, [source.address], [to.address]))

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        def run() -> None:
            self.bytes_at(memory.address)[: memory.size_bytes] = byte

        self.submit(stream.handle, Work("fill", run, [], [memory.address]))

    def record(self, event: Event, stream: Stream) -> None:
        event.native.work = self._streams[stream.handle].last

    def wait(self, stream: Stream, event: Event) -> None:
        self._wait_count += 1
        if self._ignored_waits:
            index, period = self._ignored_waits
            if self._wait_count % period == index:
                return
        if event.native.work is not None:
            self._streams[stream.handle].waits.append(event.native.work)

    def synchronize(self, on: Stream | Event) -> None:
        self._refuse_while_capturing("synchronize")
        work = self._streams[on.handle].last if isinstance(on, Stream) else on.native.work
        if work is not None:
            self._run(work)
            for stream, count in work.clock.items():
                self._cpu_clock[stream] = max(self._cpu_clock.get(stream, 0), count)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return 0.0

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        if not self._captures:
            raise CudaError("capture", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        captured: list[Work] = []
        self._capture = stream.handle, captured
        try:
            work()
        finally:
            self._capture = None
        return CudaGraph(captured)

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        self.calls.append("launch")

        def run() -> None:
            for work in graph.native:
                work.run()

        reads = [address for work in graph.native for address in work.reads]
        writes = [address for work in graph.native for address in work.writes]
        self.submit(stream.handle, Work("graph", run, reads, writes))

    def free_graphs(self) -> None:
        self.calls.append("free graphs")

    def available_bytes(self) -> int:
        return TOTAL_BYTES - self._allocated_bytes

    def close(self) -> None:
        for work in self._pending:
            self._run(work)
        self.closed = True
        self._allocated_bytes = 0

    def bytes_at(self, address: int) -> np.ndarray:
        """Return the memory at an address as bytes."""
        return self._arrays[address].reshape(-1).view(np.uint8)

    def submit(self, handle: int, work: Work) -> None:
        """Give a piece of work to a stream, and check it for races."""
        assert not self.closed, "closed"
        if self._capture and self._capture[0] == handle:
            self._capture[1].append(work)
            return
        stream = self._streams[handle]
        work.stream, work.after = handle, [*([stream.last] if stream.last else []), *stream.waits]
        for clock in (self._cpu_clock, *(earlier.clock for earlier in work.after)):
            for other, count in clock.items():
                work.clock[other] = max(work.clock.get(other, 0), count)
        stream.count += 1
        work.clock[handle] = stream.count
        stream.last, stream.waits = work, []
        self._check_races(work)
        self._pending.append(work)
        if self._when == "at once":
            self._run(work)
        elif isinstance(self._when, random.Random):
            for chosen in self._when.sample(self._pending, self._when.randint(0, len(self._pending))):
                self._run(chosen)
        self._pending = [pending for pending in self._pending if not pending.is_done]

    def _check_races(self, work: Work) -> None:
        for address in {*work.reads, *work.writes}:
            earlier = [self._last_write[address]] if address in self._last_write else []
            if address in work.writes:
                earlier += self._last_reads.get(address, {}).values()
            for other in earlier:
                if other is not work and not other.precedes(work):
                    raise RaceError(f"{work.name} and {other.name} touch the same memory in no order")
        for address in work.reads:
            # The last read of each stream is enough: it comes after the stream's earlier reads.
            self._last_reads.setdefault(address, {})[work.stream] = work
        for address in work.writes:
            self._last_write[address], self._last_reads[address] = work, {}

    def _run(self, work: Work) -> None:
        stack = [work]
        while stack:
            top = stack[-1]
            missing = [other for other in top.after if not other.is_done]
            if top.is_done or not missing:
                stack.pop()
                if not top.is_done:
                    top.run()
                    top.is_done, top.after = True, []
            else:
                stack += missing

    def _register(self, array: np.ndarray) -> int:
        self._refuse_while_capturing("allocate")
        self._allocated_bytes += array.nbytes
        self.calls.append("allocate")
        address = array.ctypes.data
        self._arrays[address] = array
        return address

    def _refuse_while_capturing(self, call: str) -> None:
        if self._capture:
            raise CudaError(call, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


class OnnxEngine:
    """A `LoadedEngine` on `SimulatedCuda`, computed by ONNX Runtime."""

    description = "stand-in"

    def __init__(self, path: str, cuda: SimulatedCuda) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._cuda, self._addresses = cuda, dict[str, int]()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layer_times_ms: dict[str, list[float]] = {}
        self.closed = False

    def set_input_shapes(self, shapes: Any, stream: int) -> None:
        self._shapes = dict(shapes)

    @property
    def inputs(self) -> list[EngineTensor]:
        return self._tensors(self._session.get_inputs())

    @property
    def outputs(self) -> list[EngineTensor]:
        return self._tensors(self._session.get_outputs())

    def bind(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def enqueue(self, stream: int) -> None:
        addresses = dict(self._addresses)
        inputs, outputs = self.inputs, self.outputs

        def run() -> None:
            for times in self._layer_times_ms.values():
                times.append(float(len(times)))
            feed = {
                t.name: self._cuda.bytes_at(addresses[t.name]).view(t.dtype).reshape(t.shape).copy()
                for t in inputs
            }
            for tensor, value in zip(outputs, self._session.run(None, feed), strict=True):
                self._cuda.bytes_at(addresses[tensor.name]).view(tensor.dtype)[...] = value.reshape(-1)

        reads, writes = ([addresses[t.name] for t in tensors] for tensors in (inputs, outputs))
        self._cuda.submit(stream, Work("inference", run, reads, writes))

    def check_capturable(self, stream: int) -> None:
        pass

    def time_layers(self) -> dict[str, list[float]]:
        self._layer_times_ms = {"whole": []}
        return self._layer_times_ms

    def inspect(self) -> str:
        return '{"Layers": [{"Name": "whole", "LayerType": "kgen", "Outputs": [{"DataType": "Half"}]}]}'

    def close(self) -> None:
        self.closed = True
        self._cuda.calls.append("free engine")

    def _tensors(self, tensors: Any) -> list[EngineTensor]:
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        return [
            EngineTensor(
                t.name,
                self._shapes.get(t.name, tuple(d if isinstance(d, int) else 1 for d in t.shape)),
                np.dtype(dtypes[t.type]),
            )
            for t in tensors
        ]
