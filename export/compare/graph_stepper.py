"""What `aerogaze compare` compares: a release's graph or a graph file, on a runner of Polygraphy's.

Polygraphy runs ONNX Runtime and TensorRT behind one interface. Its Comparator gives both runners the same
inputs, though, and a streaming graph is fed what it gave itself before: so frames are stepped through here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx import modify_outputs
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.logger import G_LOGGER

from calibration.quantization.fp16_emulation import emulate_fp16
from edge.core.errors import InputError
from edge.core.frames import Image
from edge.hardware.gpu import detect_gpu
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.preprocessing.transform import FramePreprocessor
from edge.release.manifest import Form, Release, TargetEngine, load_release
from export.compare.graph_input_spec import GraphInputSpec

Backend = Literal["onnxruntime", "tensorrt", "rtx", "local"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class GraphOperand:
    """Which graph, and what runs it.

    `backend`: "onnxruntime" runs the graph made for it; "tensorrt" the one made for TensorRT, by ONNX Runtime
    as it is written; "rtx" and "local" build that one and run it on a GPU.
    """

    text: str
    model: Path
    precision: str
    backend: Backend
    release: Release | None
    form: Form | None

    @classmethod
    def parse(cls, text: str, form: Form | None = None) -> GraphOperand:
        """Read `RELEASE[:PRECISION][@PLACE]` or `FILE.onnx[@PLACE]`; a release's precision is fp32 if none.

        Raises:
            InputError: no such release, precision, form, place or file.
        """
        name, _, placed = text.partition("@")
        backend = next((p for p in BACKENDS if p == (placed or "onnxruntime")), None)
        if backend is None:
            raise InputError(f"no place {placed!r} to run {name}; expected one of {', '.join(BACKENDS)}")
        if Path(name).suffix == ".onnx":
            if not Path(name).is_file():
                raise InputError(f"no graph {name}; expected an ONNX file, or a release as my-release:int8")
            return cls(text, Path(name), "", backend, None, None)
        folder, _, precision = name.partition(":")
        release, precision = load_release(folder), precision or "fp32"
        engine: TargetEngine = "onnxruntime" if backend == "onnxruntime" else "tensorrt"
        form = form or release.forms()[0]
        graph = release.graph(precision, form, engine)
        return cls(text, release.path(graph), precision, backend, release, form)


class GraphStepper:
    """A graph opened on a runner, stepped through a clip frame by frame.

    `known`: the release whose inputs, states and preprocessing it has, or how its one image is fed.
    `taps`: tensors inside to be given as outputs, too.

    Raises:
        InputError: the runner cannot run the graph, or there is no GPU for it.
    """

    def __init__(self, spec: GraphOperand, known: Release | GraphInputSpec, taps: Sequence[str] = ()) -> None:
        release = known if isinstance(known, Release) else None
        self.name = spec.text
        model = load_graph(spec.model)
        self.outputs = tuple(output.name for output in model.graph.output)
        self._form: Form = spec.form or "stream"
        inputs = {i.name: i for i in model.graph.input if i.name not in _constants(model)}
        self._states = release.states if release else ()
        states = self._states if self._form == "stream" else ()
        states = tuple(s for s in states if s.input in inputs)
        frames = [name for name in inputs if name not in {s.input for s in states}]
        if spec.release is None and release is not None:
            self._form = "pair" if len(frames) == 2 else release.forms()[0]
        self._alignment = release.preprocessing if release and release.preprocessing.alignment else None
        self._check(spec, frames)
        self._frames = frames
        self.prepare: Callable[[Image], NDArray[Any]]
        self.prepare = known.image if isinstance(known, GraphInputSpec) else known.prepare
        self.saliency = known.output if known.output in self.outputs else self.outputs[0]
        self.delay_frames = release.delay_frames if release and self._form != "clip" else 0
        self._preroll = release.preroll if release and self._form == "stream" else 0
        tapped = list(dict.fromkeys([*self.outputs, *taps]))
        if taps:
            model = modify_outputs(model, outputs=tapped)
        self._runner = _runner(spec, model)
        self._runner.activate()
        kinds = {
            n: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for n, i in inputs.items()
        }
        self._carried: RecurrentState[NDArray[Any]] = RecurrentState(
            states, {s.input: np.full(s.shape, s.start, kinds[s.input]) for s in states}
        )
        self._clip = release.clip if release and self._form == "clip" else None
        self._before: deque[NDArray[Any]] = deque(maxlen=self._clip.frames if self._clip else 1)
        self._steps = 0

    def _check(self, spec: GraphOperand, frames: Sequence[str]) -> None:
        expected = 2 if self._form == "pair" or self._alignment else 1
        if len(frames) != expected:
            raise InputError(f"{spec.text} has inputs {', '.join(frames) or 'none'}; expected {expected}")

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Forget the past: a new clip of `fps` frames a second."""
        self._carried.reset(fps)
        if self._form == "pair":
            lag = max((state.lag_frames(fps) for state in self._states), default=1)
            self._before = deque(maxlen=lag)
        if self._alignment:
            self.prepare = FramePreprocessor(self._alignment, fps)
        self._before.clear()
        self._steps = 0

    def step(self, frame: Image) -> Outputs | None:
        """Return every output for the next frame (H, W, 3), uint8 BGR; copies, whatever their type.

        None while a clip that gives a map a frame is not full; the last of its maps is the frame's.
        """
        prepared = self.prepare(frame)
        if self._clip:
            self._steps += 1
            sliding = self._clip.maps == 1
            self._before.extend([prepared] * (self._clip.frames if sliding and not self._before else 1))
            if self._steps % self._clip.maps:
                return None
            return self._infer({self._frames[0]: np.stack(self._before, axis=2)})
        if self._alignment:
            return self._infer(dict(zip(self._frames, np.split(prepared, 2), strict=True)))
        if self._form == "pair":
            before = self._before[0] if self._before else prepared
            pair = (before, prepared) if self.delay_frames else (prepared, before)
            self._before.append(prepared)
            return self._infer(dict(zip(self._frames, pair, strict=True)))
        feed = {self._frames[0]: prepared}
        if not self._before:
            self._before.append(prepared)
            for _ in range(self._preroll):
                self._infer(feed)
        return self._infer(feed)

    def _infer(self, feed: dict[str, NDArray[Any]]) -> Outputs:
        given = self._runner.infer({**feed, **self._carried.feed()})
        outputs = {name: np.array(value) for name, value in given.items()}
        self._carried.update(outputs)
        return outputs

    def close(self) -> None:
        """Free the runner."""
        self._runner.deactivate()


def load_graph(path: Path) -> onnx.ModelProto:
    """Return an ONNX file's graph.

    Raises:
        InputError: it is none.
    """
    try:
        model = onnx.load(path)
    except Exception:  # protobuf's DecodeError has no types
        model = onnx.ModelProto()
    if not model.graph.node:
        raise InputError(f"{path} is no ONNX file (or cut off): export it again")
    return model


def _constants(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def _runner(spec: GraphOperand, model: onnx.ModelProto) -> BaseRunner:
    G_LOGGER.module_severity = G_LOGGER.CRITICAL  # it tells every step; what matters is raised
    if spec.backend in ("rtx", "local"):
        return _tensorrt_runner(spec, model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if spec.backend == "tensorrt":  # as parity does: ONNX Runtime would quantise float16 biases by itself
        model = emulate_fp16(model)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot run {spec.model} ({reason}): export it again"
        ) from None
    return OnnxrtRunner(session, name=spec.text)


def _tensorrt_runner(spec: GraphOperand, model: onnx.ModelProto) -> BaseRunner:
    """Build and run with TensorRT, at the desk: Polygraphy's loaders trust a plan like a program."""
    if detect_gpu() is None:
        raise InputError(
            f"{spec.text} wants an NVIDIA GPU with its driver, and there is none here; "
            "compare @tensorrt instead: the same graph, run by ONNX Runtime as it is written"
        )
    from polygraphy import config
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    config.USE_TENSORRT_RTX = spec.backend == "rtx"
    plan = build_plan(model.SerializeToString(), BuildTarget.parse(spec.backend))
    return TrtRunner(EngineFromBytes(plan.data), name=spec.text)
