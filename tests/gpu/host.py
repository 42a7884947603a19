"""A GPU that is not there: the `Cuda` of numpy, which runs work as late as it may and finds races.

Each piece of work knows what it must come after: what its stream was given before, the events that the
stream waited for, and what the CPU had waited for when it gave it. Two pieces that touch the same memory,
one of them writing, must be ordered by that; if they are not, `RaceError` is raised when the second is given,
whatever order they would have run in. When work runs is for the test to say: at once, as late as it may
(when somebody waits for it), or as a random generator has it. Memory that nobody wrote is NaN.
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

POISON = 0xFF
TOTAL_BYTES = 1 << 32


class RaceError(AssertionError):
    """Two pieces of work touch the same memory in no order."""


@dataclass(eq=False)
class Work:
    """A piece of work given to a stream. `clock`: for each stream, how much of it surely ran before."""

    name: str
    run: Callable[[], None]
    reads: Sequence[int] = ()
    writes: Sequence[int] = ()
    stream: int = 0
    clock: dict[int, int] = field(default_factory=dict)
    after: list[Work] = field(default_factory=list)
    done: bool = False

    def precedes(self, other: Work) -> bool:
        return other.clock.get(self.stream, 0) >= self.clock[self.stream]


@dataclass(eq=False)
class _Mark:
    work: Work | None = None


@dataclass(eq=False)
class _Lane:
    handle: int
    count: int = 0
    last: Work | None = None
    waits: list[Work] = field(default_factory=list)


class Host:
    """The `Cuda` of numpy. `deaf`: (1, 2): of every two `wait`s, the first is not heard."""

    def __init__(
        self,
        when: Literal["at once", "late"] | random.Random = "late",
        integrated: bool = False,
        captures: bool = True,
        deaf: tuple[int, int] | None = None,
    ) -> None:
        self.description = "host"
        self.integrated = integrated
        self.closed = False
        self._when, self._captures, self._deaf = when, captures, deaf
        self._lanes: dict[int, _Lane] = {}
        self._arrays: dict[int, np.ndarray] = {}
        self._pending: list[Work] = []
        self._seen: dict[int, int] = {}
        self._written: dict[int, Work] = {}
        self._read: dict[int, dict[int, Work]] = {}
        self._capturing: tuple[int, list[Work]] | None = None
        self._waits = self._taken = 0
        self.calls: list[str] = []

    def enter(self) -> None:
        self.calls.append("enter")

    def stream(self) -> Stream:
        handle = len(self._lanes) + 1
        self._lanes[handle] = _Lane(handle)
        return Stream(handle)

    def event(self, timed: bool = False) -> Event:
        return Event(_Mark())

    def device(self, size_bytes: int) -> Memory:
        if self._taken + size_bytes > TOTAL_BYTES:
            raise CudaError("device", "CUDA_ERROR_OUT_OF_MEMORY")
        return Memory(self._take(np.full(size_bytes, POISON, np.uint8)), size_bytes)

    def host(self, shape: tuple[int, ...], dtype: Any) -> Memory:
        array = np.zeros(shape, dtype)
        return Memory(self._take(array), array.nbytes, array)

    def copy(self, to: Memory, source: Memory, stream: Stream) -> None:
        def run() -> None:
            self.bytes(to.address)[: source.size_bytes] = self.bytes(source.address)[: source.size_bytes]

        self.give(stream.handle, Work("copy", run, [source.address], [to.address]))

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        def run() -> None:
            self.bytes(memory.address)[: memory.size_bytes] = byte

        self.give(stream.handle, Work("fill", run, [], [memory.address]))

    def record(self, event: Event, stream: Stream) -> None:
        event.native.work = self._lanes[stream.handle].last

    def wait(self, stream: Stream, event: Event) -> None:
        self._waits += 1
        if self._deaf and self._waits % self._deaf[1] == self._deaf[0]:
            return
        if event.native.work is not None:
            self._lanes[stream.handle].waits.append(event.native.work)

    def synchronise(self, on: Stream | Event) -> None:
        self._not_while_capturing("synchronise")
        work = self._lanes[on.handle].last if isinstance(on, Stream) else on.native.work
        if work is not None:
            self._run(work)
            for stream, count in work.clock.items():
                self._seen[stream] = max(self._seen.get(stream, 0), count)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return 0.0

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        if not self._captures:
            raise CudaError("capture", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        captured: list[Work] = []
        self._capturing = stream.handle, captured
        try:
            work()
        finally:
            self._capturing = None
        return CudaGraph(captured)

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        self.calls.append("launch")

        def run() -> None:
            for work in graph.native:
                work.run()

        reads = [at for work in graph.native for at in work.reads]
        writes = [at for work in graph.native for at in work.writes]
        self.give(stream.handle, Work("graph", run, reads, writes))

    def free_graphs(self) -> None:
        self.calls.append("free graphs")

    def free_bytes(self) -> int:
        return TOTAL_BYTES - self._taken

    def close(self) -> None:
        for work in self._pending:
            self._run(work)
        self.closed = True
        self._taken = 0

    def bytes(self, address: int) -> np.ndarray:
        """Return the memory at an address as bytes."""
        return self._arrays[address].reshape(-1).view(np.uint8)

    def give(self, handle: int, work: Work) -> None:
        """Give a stream a piece of work; what it reads and writes is said by addresses."""
        assert not self.closed, "closed"
        if self._capturing and self._capturing[0] == handle:
            self._capturing[1].append(work)
            return
        lane = self._lanes[handle]
        work.stream, work.after = handle, [*([lane.last] if lane.last else []), *lane.waits]
        for clock in (self._seen, *(earlier.clock for earlier in work.after)):
            for stream, count in clock.items():
                work.clock[stream] = max(work.clock.get(stream, 0), count)
        lane.count += 1
        work.clock[handle] = lane.count
        lane.last, lane.waits = work, []
        self._check(work)
        self._pending.append(work)
        if self._when == "at once":
            self._run(work)
        elif isinstance(self._when, random.Random):
            for one in self._when.sample(self._pending, self._when.randint(0, len(self._pending))):
                self._run(one)
        self._pending = [one for one in self._pending if not one.done]

    def _check(self, work: Work) -> None:
        for at in {*work.reads, *work.writes}:
            earlier = [self._written[at]] if at in self._written else []
            if at in work.writes:
                earlier += self._read.get(at, {}).values()
            for other in earlier:
                if other is not work and not other.precedes(work):
                    raise RaceError(f"{work.name} and {other.name} touch the same memory in no order")
        for at in work.reads:
            self._read.setdefault(at, {})[work.stream] = work  # of a stream, the last is enough
        for at in work.writes:
            self._written[at], self._read[at] = work, {}

    def _run(self, work: Work) -> None:
        waiting = [work]
        while waiting:
            one = waiting[-1]
            missing = [other for other in one.after if not other.done]
            if one.done or not missing:
                waiting.pop()
                if not one.done:
                    one.run()
                    one.done, one.after = True, []
            else:
                waiting += missing

    def _take(self, array: np.ndarray) -> int:
        self._not_while_capturing("allocate")
        self._taken += array.nbytes
        self.calls.append("allocate")
        address = array.ctypes.data
        self._arrays[address] = array
        return address

    def _not_while_capturing(self, call: str) -> None:
        if self._capturing:
            raise CudaError(call, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


class OnnxExecution:
    """An engine on `Host`: ONNX Runtime behind the calls of a TensorRT engine."""

    description = "stand-in"

    def __init__(self, path: str, host: Host) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._host, self._bound = host, dict[str, int]()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layers_ms: dict[str, list[float]] = {}
        self.closed = False

    def shape(self, shapes: Any) -> None:
        self._shapes = dict(shapes)

    @property
    def inputs(self) -> list[EngineTensor]:
        return self._tensors(self._session.get_inputs())

    @property
    def outputs(self) -> list[EngineTensor]:
        return self._tensors(self._session.get_outputs())

    def bind(self, name: str, address: int) -> None:
        self._bound[name] = address

    def enqueue(self, stream: int) -> None:
        bound = dict(self._bound)
        inputs, outputs = self.inputs, self.outputs

        def run() -> None:
            for times in self._layers_ms.values():
                times.append(float(len(times)))
            feed = {
                t.name: self._host.bytes(bound[t.name]).view(t.dtype).reshape(t.shape).copy() for t in inputs
            }
            for tensor, value in zip(outputs, self._session.run(None, feed), strict=True):
                self._host.bytes(bound[tensor.name]).view(tensor.dtype)[...] = value.reshape(-1)

        reads, writes = ([bound[t.name] for t in side] for side in (inputs, outputs))
        self._host.give(stream, Work("inference", run, reads, writes))

    def check_capturable(self, stream: int) -> None:
        pass

    def time_layers(self) -> dict[str, list[float]]:
        self._layers_ms = {"whole": []}
        return self._layers_ms

    def inspect(self) -> str:
        return '{"Layers": [{"Name": "whole", "LayerType": "kgen", "Outputs": [{"DataType": "Half"}]}]}'

    def close(self) -> None:
        self.closed = True
        self._host.calls.append("free engine")

    def _tensors(self, side: Any) -> list[EngineTensor]:
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        return [
            EngineTensor(
                t.name,
                self._shapes.get(t.name, tuple(d if isinstance(d, int) else 1 for d in t.shape)),
                np.dtype(kinds[t.type]),
            )
            for t in side
        ]
