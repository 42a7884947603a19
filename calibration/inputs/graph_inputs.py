"""How a graph is fed from windows of frames, whatever it is: a student's stream or pair, or a user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.quantization.fp16_emulation import emulate_fp16
from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import RecurrentState
from edge.inference.onnxruntime.runner import STOP_SPINNING
from edge.release.manifest import StateSpec

Window = NDArray[np.uint8]
"""Consecutive frames (length, height, width, 3), BGR, at the graph's size."""
FeedDict = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class InputFeeder:
    """Which of a window's frames go into which inputs of a graph.

    One input takes the last frame; before it the states, if any, are carried over the frames before it.
    Two take the last frame and the window's first, in this order, or the other way round if `ahead`.
    `prepare`: a frame (height, width, 3) to what an input takes; `beside`: an earlier frame to what is
    shown beside a later one.
    """

    prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    inputs: tuple[str, ...]
    output: str
    states: tuple[StateSpec, ...] = ()
    looks_ahead: bool = False
    align_past: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.uint8]] = field(
        default=lambda past, now: past,
        repr=False,  # what is written of a feeding names a cache; `prepare` tells of an alignment
    )

    def __call__(self, session: ort.InferenceSession, window: Window) -> FeedDict:
        """Return the inputs for a window's judged frame; `session` carries the states to it."""
        if len(self.inputs) == 2:
            before, last = self.prepare(self.align_past(window[0], window[-1])), self.prepare(window[-1])
            return dict(zip(self.inputs, (before, last) if self.looks_ahead else (last, before), strict=True))
        (name,) = self.inputs
        half = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
        kinds = {s.input: np.float16 if s.input in half else np.float32 for s in self.states}
        starts = {s.input: np.full(s.shape, s.start, kinds[s.input]) for s in self.states}
        carried: RecurrentState[NDArray[Any]] = RecurrentState(self.states, starts)
        for frame in window[:-1] if self.states else ():
            given = session.run(carried.outputs, {name: self.prepare(frame), **carried.feed()})
            carried.update(dict(zip(carried.outputs, given, strict=True)))
        return {name: self.prepare(window[-1]), **carried.feed()}

    def run(self, session: ort.InferenceSession, window: Window) -> NDArray[np.float32]:
        """Return the graph's output for a window's judged frame, as (H, W); what has no such shape, as
        (1, values).
        """
        made = session.run([self.output], self(session, window))[0]
        squeezed = np.asarray(made[0, 0] if made.ndim == 4 and made.shape[:2] == (1, 1) else made, np.float32)
        return squeezed if squeezed.ndim == 2 else squeezed.reshape(1, -1)


def open_session(
    model: onnx.ModelProto, threads: int = 0, disable_qdq_fusion: bool = False, outputs: Sequence[str] = ()
) -> ort.InferenceSession:
    """Open a graph with ONNX Runtime on the CPU.

    float16 is rounded as it is written (`calibration.quantization.fp16_emulation`), where ONNX Runtime
    would compute in float32.
    `disable_qdq_fusion`: run Q/DQ as they are written, too.
    `outputs`: tensors inside that it gives, too.

    Raises:
        InputError: ONNX Runtime refuses the graph.
    """
    model = emulate_fp16(model)
    if outputs:
        told, model = model, onnx.ModelProto()
        model.CopyFrom(told)
        have = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in have)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(*STOP_SPINNING)
    if disable_qdq_fusion:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot run the graph ({reason}); "
            "expected one that it runs: export it with standard operators"
        ) from None
