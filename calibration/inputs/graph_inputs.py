"""Graph inputs from windows of frames, for a student's stream or pair form and for imported graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.quantization.fp16_emulation import emulate_fp16
from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.onnxruntime.session import STOP_SPINNING, create_session, describe_error
from edge.release.release import StateSpec

Window = NDArray[np.uint8]
"""Consecutive frames (length, height, width, 3), BGR, at the graph's size."""
FeedDict = dict[str, NDArray[Any]]
"""Value of each input of a graph, by name."""


@dataclass(frozen=True)
class InputFeeder:
    """Maps the frames of a window to the inputs of a graph.

    A graph with one input gets the last frame. A graph with two inputs gets the last frame and an earlier
    frame of the window, in this order. States, if any, are carried over the frames before the last one. A
    graph that takes clips gets the last frames together: as one input, or as the last frame and states that
    hold the frames before it. A shorter window starts with copies of its first frame.

    Attributes:
        prepare: Converts a frame (height, width, 3) to the value of an input.
        inputs: Names of the inputs, one or two.
        output: Name of the output with the map.
        states: Recurrent states of the graph.
        looks_ahead: Pass two inputs in the other order: the map is that of the first frame.
        align_past: Aligns an earlier frame with a later one; arguments are (earlier, later).
        lag: How many frames before the last one the second input is; 0 for the first frame of the window.
        clip: Frames that a graph takes together: as its input (1, 3, clip, H, W), or, if there are states, as
            its input and states (1, 3, 1, H, W).
        frame_states: What a run leaves in the states depends on its frame alone, not on earlier states. So
            frames whose states no later run reads are skipped.
    """

    prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    inputs: tuple[str, ...]
    output: str
    states: tuple[StateSpec, ...] = ()
    looks_ahead: bool = False
    align_past: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.uint8]] = field(
        default=lambda past, now: past, repr=False
    )
    lag: int = 0
    clip: int = 1
    frame_states: bool = False

    @property
    def cache_identity(self) -> str:
        """Text that identifies this feeder in the keys of stored histograms.

        It names classes and fields as they were called when the first caches were written.
        `align_past` and `lag` are not part of it: `prepare` identifies an alignment. Neither is
        `frame_states`, which changes no value.
        """
        states = ", ".join(
            f"State(input={s.input!r}, output={s.output!r}, shape={s.shape!r}, start={s.start!r}, "
            f"lag_s={s.lag_s!r})"
            for s in self.states
        )
        states = f"({states},)" if len(self.states) == 1 else f"({states})"
        return (
            f"Feeding(prepare={self.prepare!r}, inputs={self.inputs!r}, output={self.output!r}, "
            f"states={states}, ahead={self.looks_ahead!r}"
            + (f", clip={self.clip})" if self.clip > 1 else ")")
        )

    def __call__(self, session: ort.InferenceSession, window: Window) -> FeedDict:
        """Return the inputs for the judged frame of a window, after the session computed its states."""
        name = self.inputs[0]
        if self.clip > 1 and not self.states:
            return {name: np.stack([self.prepare(frame) for frame in self._last_frames(window)], axis=2)}
        fp16_inputs = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
        dtypes = {s.input: np.float16 if s.input in fp16_inputs else np.float32 for s in self.states}
        if self.clip > 1:  # the states are frames, which need no run of the graph
            prepared = [self.prepare(frame) for frame in self._last_frames(window)]
            past = {s.input: prepared[-1 - s.fixed_lag][:, :, None] for s in self.states}
            return {name: prepared[-1], **{key: past[key].astype(dtypes[key]) for key in past}}
        initial = {s.input: np.full(s.shape, s.start, dtypes[s.input]) for s in self.states}
        if self.frame_states:
            return {**self._frame_inputs(window), **self._recall_states(session, window, initial)}
        state: RecurrentState[NDArray[Any]] = RecurrentState(self.states, initial)
        for end in range(1, len(window)) if self.states else ():
            values = session.run(state.outputs, {**self._frame_inputs(window[:end]), **state.feed()})
            state.update(dict(zip(state.outputs, values, strict=True)))
        return {**self._frame_inputs(window), **state.feed()}

    def _frame_inputs(self, window: Window) -> FeedDict:
        """Return the inputs that are frames, for the last frame of a window."""
        last = self.prepare(window[-1])
        if len(self.inputs) == 1:
            return {self.inputs[0]: last}
        earlier = window[max(0, len(window) - 1 - self.lag) if self.lag else 0]
        first = self.prepare(self.align_past(earlier, window[-1]))
        return dict(zip(self.inputs, (first, last) if self.looks_ahead else (last, first), strict=True))

    def _recall_states(self, session: ort.InferenceSession, window: Window, initial: FeedDict) -> FeedDict:
        """Return the states before the last frame. Of the other frames, only those that a state is of run."""
        if len(window) == 1:
            return initial
        outputs = list(dict.fromkeys(s.output for s in self.states))

        def run(index: int) -> FeedDict:
            # An earlier frame, if the graph takes one, is no part of the states: any will do.
            frames = dict.fromkeys(self.inputs, self.prepare(window[index]))
            values = session.run(outputs, {**frames, **initial})
            return dict(zip(outputs, values, strict=True))

        positions = {s.input: max(0, len(window) - 1 - s.lag_frames(NOMINAL_FPS)) for s in self.states}
        computed = {index: run(index) for index in set(positions.values())}
        return {s.input: computed[positions[s.input]][s.output] for s in self.states}

    def _last_frames(self, window: Window) -> list[NDArray[np.uint8]]:
        """Return the last frames of a window, as many as the graph takes."""
        missing = max(0, self.clip - len(window))
        return [*([window[0]] * missing), *window[-self.clip :]]

    def run(self, session: ort.InferenceSession, window: Window) -> NDArray[np.float32]:
        """Return the output for the judged frame of a window as (H, W), or (1, values) if it is not a map."""
        value = session.run([self.output], self(session, window))[0]
        is_map = value.ndim == 4 and value.shape[:2] == (1, 1)
        squeezed = np.asarray(value[0, 0] if is_map else value, np.float32)
        return squeezed if squeezed.ndim == 2 else squeezed.reshape(1, -1)


def open_session(
    model: onnx.ModelProto,
    threads: int = 0,
    disable_qdq_fusion: bool = False,
    outputs: Sequence[str] = (),
    profile_to: Path | None = None,
) -> ort.InferenceSession:
    """Open a graph with ONNX Runtime on the CPU.

    float16 tensors are rounded to float16 (`calibration.quantization.fp16_emulation`); ONNX Runtime alone
    would compute in float32.

    Args:
        model: The graph.
        threads: Threads for one operator; 0 for all cores.
        disable_qdq_fusion: Run Q/DQ nodes as separate operators instead of fusing them into integer kernels.
        outputs: Names of inner tensors to return in addition to the outputs of the graph.
        profile_to: Measure the layers. The profile is written to a file whose name starts with this path.

    Raises:
        InputError: If ONNX Runtime refuses the graph.
    """
    model = emulate_fp16(model)
    if outputs:
        original, model = model, onnx.ModelProto()
        model.CopyFrom(original)
        existing = {output.name for output in model.graph.output}
        added = [name for name in outputs if name not in existing]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(*STOP_SPINNING)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    if disable_qdq_fusion:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return create_session(model.SerializeToString(), options)
    except Exception as error:  # the exceptions of onnxruntime share no base class
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot run the graph ({describe_error(error)}); "
            "expected a graph that it supports: export it with standard operators"
        ) from None
