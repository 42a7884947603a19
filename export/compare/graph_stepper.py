"""Runs a graph through a clip frame by frame, on a Polygraphy runner.

Polygraphy runs ONNX Runtime and TensorRT behind one interface. Its Comparator is not used: it gives both
runners the same inputs, but a streaming graph needs its own earlier outputs as inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx import modify_outputs
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.logger import G_LOGGER

from calibration.inputs.onnx_import import data_inputs
from calibration.quantization.fp16_emulation import emulate_fp16
from edge.core.errors import InputError
from edge.core.frames import Image
from edge.hardware.gpu import find_gpu_problem
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.onnxruntime.session import create_session, describe_error
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.release.release import Form, Release, StateSpec
from export.compare.frame_inputs import ClipInputs, FrameInputs, PairInputs, SingleFrameInputs, StreamInputs
from export.compare.graph_input_spec import GraphInputSpec
from export.compare.graph_operand import GraphOperand, load_graph

Outputs = Mapping[str, NDArray[Any]]


class GraphStepper:
    """A graph on an active runner, with the inputs and states of one clip.

    Args:
        runner: The runner of the graph.
        inputs: Converts frames to the inputs of the graph.
        state: The recurrent states of the graph.
        outputs: Names of the outputs, without extra ones.
        saliency: Name of the output with the map.
        delay_frames: Number of frames by which a map is late.
    """

    def __init__(
        self,
        runner: BaseRunner,
        inputs: FrameInputs,
        state: RecurrentState[NDArray[Any]],
        outputs: tuple[str, ...],
        saliency: str,
        delay_frames: int,
    ) -> None:
        self.outputs, self.saliency, self.delay_frames = outputs, saliency, delay_frames
        self._runner, self._inputs, self._state = runner, inputs, state
        self._runner.activate()

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Start a new clip at `fps` frames per second."""
        self._state.reset(fps)
        self._inputs.reset(fps)

    def step(self, frame: Image) -> Outputs | None:
        """Return copies of all outputs for the next frame (H, W, 3), uint8 BGR.

        Returns:
            The outputs by name; None while a clip is not full. The last map of a clip is that of the frame.
        """
        outputs: Outputs | None = None
        for feed in self._inputs.feeds(frame):
            values = self._runner.infer({**feed, **self._state.feed()})
            outputs = {name: np.array(value) for name, value in values.items()}
            self._state.update(outputs)
        return outputs

    def close(self) -> None:
        """Release the runner."""
        self._runner.deactivate()


def open_stepper(
    operand: GraphOperand, spec: Release | GraphInputSpec, extra_outputs: Sequence[str] = ()
) -> GraphStepper:
    """Open a graph on its backend.

    Args:
        operand: The graph and its backend.
        spec: The release whose inputs, states and preprocessing the graph has, or the specification of its
            only image input.
        extra_outputs: Names of inner tensors to return in addition to the outputs.

    Raises:
        InputError: If the backend cannot run the graph, there is no GPU for it, or the inputs do not match.
    """
    model = load_graph(operand.model)
    outputs = tuple(output.name for output in model.graph.output)
    graph_inputs = {value.name: value for value in data_inputs(model)}
    release = spec if isinstance(spec, Release) else None
    states: tuple[StateSpec, ...] = ()
    if release is not None and operand.form in (None, "stream"):
        states = tuple(state for state in release.states if state.input in graph_inputs)
    state_inputs = {state.input for state in states}
    frame_names = [name for name in graph_inputs if name not in state_inputs]
    form = _resolve_form(operand, release, frame_names)
    inputs = _frame_inputs(operand, spec, form, frame_names)
    starts = {}
    for state in states:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(graph_inputs[state.input].type.tensor_type.elem_type)
        starts[state.input] = np.full(state.shape, state.start, dtype)
    if extra_outputs:
        model = modify_outputs(model, outputs=list(dict.fromkeys([*outputs, *extra_outputs])))
    return GraphStepper(
        _open_runner(operand, model),
        inputs,
        RecurrentState(states, starts),
        outputs,
        spec.output if spec.output in outputs else outputs[0],
        release.delay_frames if release is not None and form != "clip" else 0,
    )


def _resolve_form(operand: GraphOperand, release: Release | None, frame_names: Sequence[str]) -> Form:
    """Return the form of a graph. A graph file that is compared with a release shows it by its inputs."""
    if operand.release is None and release is not None:
        return "pair" if len(frame_names) == 2 else release.forms()[0]
    return operand.form or "stream"


def _frame_inputs(
    operand: GraphOperand, spec: Release | GraphInputSpec, form: Form, names: Sequence[str]
) -> FrameInputs:
    """Return the object that converts frames to the inputs of a graph."""
    aligned = isinstance(spec, Release) and spec.preprocessing.alignment is not None
    expected = 2 if form == "pair" or aligned else 1
    if len(names) != expected:
        raise InputError(
            f"{operand.text} has inputs {', '.join(names) or 'none'}; expected {expected} for frames: "
            "compare it with a graph of the same form"
        )
    if not isinstance(spec, Release):
        return SingleFrameInputs(spec.image, names[0])
    if form == "clip" and spec.clip is not None:
        return ClipInputs(spec.prepare, names[0], spec.clip)
    if form == "pair" and not aligned:
        return PairInputs(spec.prepare, names, spec.states, looks_ahead=spec.delay_frames > 0)
    return StreamInputs(spec, names)


def _open_runner(operand: GraphOperand, model: onnx.ModelProto) -> BaseRunner:
    G_LOGGER.module_severity = G_LOGGER.CRITICAL  # it logs every step; errors are raised anyway
    if operand.backend in ("rtx", "local"):
        return _open_tensorrt_runner(operand, model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if operand.backend == "tensorrt":  # as in the parity check: ONNX Runtime would quantize float16 biases
        model = emulate_fp16(model)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = create_session(model.SerializeToString(), options)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot run {operand.model} ({describe_error(error)}): "
            "export it again"
        ) from None
    return OnnxrtRunner(session, name=operand.text)


def _open_tensorrt_runner(operand: GraphOperand, model: onnx.ModelProto) -> BaseRunner:
    """Build the graph with TensorRT.

    Polygraphy loads plans with host code allowed. The plan here was built a moment ago, never read from a
    file.
    """
    problem = find_gpu_problem()
    if problem is not None:
        reason = f"{problem.text} ({problem.remedy})" if problem.remedy else "this machine has none"
        raise InputError(
            f"{operand.text} needs an NVIDIA GPU with its driver, and {reason}; "
            "compare @tensorrt instead: the same graph, run by ONNX Runtime without optimizations"
        )
    from polygraphy import config
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    config.USE_TENSORRT_RTX = operand.backend == "rtx"
    plan = build_plan(model.SerializeToString(), BuildTarget.parse(operand.backend))
    return TrtRunner(EngineFromBytes(plan.data), name=operand.text)
