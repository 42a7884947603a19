"""Buffers and events of the frames in flight on the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge.core.frames import DeviceFrame
from edge.inference.cuda.backend import Cuda, Event, Memory

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class FrameSlot:
    """Buffers and events of one frame in flight.

    With zero copy, the engine's buffers are those of the host, and `uploaded` is not used.

    Attributes:
        host_inputs: Page-locked inputs by name.
        engine_inputs: The inputs as the engine reads them.
        engine_outputs: The outputs as the engine writes them.
        host_outputs: Page-locked outputs by name.
        started: Event before the first copy.
        uploaded: Event after the copy to the GPU.
        inference_started: Event before the inference.
        inferred: Event after the inference.
        done: Event after the copy from the GPU.
        enqueue_ms: Time that the CPU took to submit the frame.
        device_inputs: Inputs that are in the GPU's memory, instead of `host_inputs`. They are kept until the
            slot's next frame, since the GPU reads them.
    """

    host_inputs: dict[str, Memory]
    engine_inputs: dict[str, Memory]
    engine_outputs: dict[str, Memory]
    host_outputs: dict[str, Memory]
    started: Event
    uploaded: Event
    inference_started: Event
    inferred: Event
    done: Event
    enqueue_ms: float = 0.0
    device_inputs: dict[str, DeviceFrame] = field(default_factory=dict)


def allocate_slot(
    cuda: Cuda,
    inputs: Shapes,
    outputs: Shapes,
    dtypes: Mapping[str, np.dtype[Any]],
    zero_copy: bool,
    timed: bool,
    blocking_wait: bool,
) -> FrameSlot:
    """Allocate the buffers and events of one slot.

    Args:
        cuda: The GPU.
        inputs: Shapes of the inputs by name.
        outputs: Shapes of the outputs by name.
        dtypes: Data types of inputs and outputs by name.
        zero_copy: The engine accesses the page-locked memory directly.
        timed: The events can measure time.
        blocking_wait: A thread that waits for `done` sleeps.
    """
    host_inputs = {name: cuda.allocate_pinned(shape, dtypes[name]) for name, shape in inputs.items()}
    host_outputs = {name: cuda.allocate_pinned(shape, dtypes[name]) for name, shape in outputs.items()}
    engine_inputs, engine_outputs = host_inputs, host_outputs
    if not zero_copy:
        engine_inputs, engine_outputs = (
            {name: cuda.allocate(memory.size_bytes) for name, memory in buffers.items()}
            for buffers in (host_inputs, host_outputs)
        )
    started, uploaded, inference_started, inferred = (cuda.create_event(timed) for _ in range(4))
    done = cuda.create_event(timed, blocking_wait)
    return FrameSlot(
        host_inputs,
        engine_inputs,
        engine_outputs,
        host_outputs,
        started,
        uploaded,
        inference_started,
        inferred,
        done,
    )


class SlotRing:
    """Slots that consecutive frames use in turn, and a queue of those in flight.

    Args:
        slots: The slots, as many as frames may be in flight.

    Attributes:
        slots: The same; frame n uses slot n % len(slots).
        frame: Number of the next frame since the last `clear`.
    """

    def __init__(self, slots: Sequence[FrameSlot]) -> None:
        self.slots = slots
        self.frame = 0
        self._in_flight: deque[FrameSlot] = deque()

    @property
    def is_full(self) -> bool:
        """Return whether every slot is in flight."""
        return len(self._in_flight) == len(self.slots)

    @property
    def is_empty(self) -> bool:
        """Return whether no frame is in flight."""
        return not self._in_flight

    def slot_of(self, frame: int) -> FrameSlot:
        """Return the slot of frame number `frame`."""
        return self.slots[frame % len(self.slots)]

    def push(self) -> None:
        """Count the next frame as in flight."""
        self._in_flight.append(self.slot_of(self.frame))
        self.frame += 1

    def pop(self) -> FrameSlot:
        """Return the slot of the oldest frame in flight, which is then no longer in flight."""
        return self._in_flight.popleft()

    def clear(self) -> None:
        """Forget the frames in flight and count frames from zero."""
        self._in_flight.clear()
        self.frame = 0
