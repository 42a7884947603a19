"""The one place that imports TensorRT: NVIDIA's full TensorRT on boards, TensorRT for RTX on desks.

Both speak the same API, and every network is strongly typed: precision lives in the graph. The calls are
type-checked against the stubs of TensorRT 10.13. What differs between them, all of it here:

| | TensorRT 10.3, 10.16 | TensorRT 11.4 | TensorRT for RTX 1.7 |
|---|---|---|---|
| network | STRONGLY_TYPED is asked for | always so, flag ignored | always so, flag ignored |
| timing cache | read and written | read and written | does nothing, and asks for a GPU: left out |
| compute capability | that of the GPU at hand | that of the GPU at hand | any, without a GPU |
| a stream that cannot be captured | capture fails | capture fails | `is_stream_capturable` says so before |

Running is the same in all: tensors by name, `set_tensor_address`, `execute_async_v3`. A plan is code:
`TensorRTEngine` takes bytes that `edge.inference.engine_selection` has checked, and never lets a plan run code
on the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.core.errors import InputError
from edge.inference.tensorrt.build_target import BuildTarget, TensorRTKind

if TYPE_CHECKING:
    import tensorrt as trt

_MODULES: dict[TensorRTKind, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "it comes with JetPack as a system package"),
    "rtx": ("tensorrt_rtx", "pip install 'aerogaze[rtx]'"),
}
_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}
"""Of an engine's inputs and outputs, by TensorRT's names."""
DYNAMIC_BATCH = (1, 8, 256)
"""Least, usual and most batch that an engine with a dynamic batch is built for."""
BUILDER_SETTINGS: dict[str, Any] = {
    "strongly_typed": True,
    "tf32": False,
    "dynamic_batch": list(DYNAMIC_BATCH),
    "profiling_verbosity": "detailed",
}
"""How every engine is built: part of its identity. Without TF32, fp32 is fp32; layers say what they are."""


@dataclass(frozen=True)
class EnginePlan:
    """A compiled network: code for one TensorRT and one kind of GPU. Trust it like a program.

    `timing_cache`: what the builder learnt, for the next build; None where there is no such thing.
    """

    data: bytes
    tensorrt: str
    timing_cache: bytes | None


def load_tensorrt(kind: TensorRTKind) -> ModuleType:
    """Return the module of a TensorRT.

    Raises:
        InputError: it is not installed; how to get it is said.
    """
    name, remedy = _MODULES[kind]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name} cannot be imported ({error}); {remedy}") from None
    if not hasattr(module, "Builder"):  # stubs alone look like an empty package
        raise InputError(f"{name} is installed without its libraries (stubs alone?); {remedy}")
    return module


def tensorrt_version(kind: TensorRTKind) -> str:
    """Return the version of a TensorRT; raises InputError as `load_tensorrt` does."""
    version: str = load_tensorrt(kind).__version__
    return version


def has_timing_cache(kind: TensorRTKind) -> bool:
    """Say whether a TensorRT learns from build to build. That for RTX measures nothing while it builds:
    its timing cache has been a no-op since 1.2, and touching it asks for a GPU.
    """
    return kind == "tensorrt"


def build_plan(onnx: bytes, target: BuildTarget, timing_caches: Sequence[bytes] = ()) -> EnginePlan:
    """Compile an ONNX graph. TensorRT for RTX does so on a machine without a GPU, too.

    `timing_caches`: what builders learnt before; the first that this TensorRT and GPU take is used.

    Raises:
        InputError: TensorRT is missing, cannot build for the target, or refuses the graph; node, operator
            and its own words are passed on.
    """
    if not TYPE_CHECKING:
        trt = load_tensorrt(target.kind)

    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    refused = _refused(parser, onnx)
    if refused:
        raise InputError(f"TensorRT {trt.__version__} cannot parse the graph: {refused}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.capabilities:
        _compile_for(target.capabilities, trt, config)
    _shape_batches(target.kind, builder, network, config)
    cache = None
    if has_timing_cache(target.kind):
        cache = _first_taken(config, timing_caches)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(f"TensorRT {trt.__version__} cannot build the graph: {_told(logger)}")
    return EnginePlan(bytes(plan), trt.__version__, bytes(cache.serialize()) if cache is not None else None)


def find_unsupported_node(onnx: bytes, kind: TensorRTKind) -> str:
    """Say what a TensorRT's parser does not take of an ONNX graph: node, operator, its words; "" if nothing.

    Takes milliseconds; TensorRT for RTX needs no GPU for it.

    Raises:
        InputError: TensorRT is missing.
    """
    if not TYPE_CHECKING:
        trt = load_tensorrt(kind)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    return _refused(trt.OnnxParser(network, logger), onnx)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine at the shapes it is run with."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class TensorRTEngine:
    """A plan that was loaded, and what it runs in. One thread and one stream at a time.

    Raises:
        InputError: TensorRT is missing, there is no GPU, or it refuses the plan; in its own words.
    """

    def __init__(self, plan: bytes, kind: TensorRTKind) -> None:
        if not TYPE_CHECKING:
            trt = load_tensorrt(kind)
        self._trt = trt
        self._logger = _logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._runtime.engine_host_code_allowed = False
        self.description = f"{_MODULES[kind][0]} {trt.__version__}"
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise InputError(f"{self.description} cannot load the engine: {_told(self._logger)}")
        context = engine.create_execution_context()
        if context is None:
            raise InputError(f"{self.description} cannot run the engine: {_told(self._logger)}")
        self._engine, self._context = engine, context
        self._names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._capturable = getattr(context, "is_stream_capturable", None)

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Fix what is dynamic of the inputs, by name."""
        for name in self._names:
            if -1 in _sides(self._engine.get_tensor_shape(name)) and name in shapes:
                held = self._context.set_input_shape(name, shapes[name])
                self._check(held, f"takes no {name} of {shapes[name]}")

    @property
    def inputs(self) -> list[EngineTensor]:
        """Return the inputs, states among them."""
        return self._tensors(self._trt.TensorIOMode.INPUT)

    @property
    def outputs(self) -> list[EngineTensor]:
        """Return the outputs, states among them."""
        return self._tensors(self._trt.TensorIOMode.OUTPUT)

    def bind(self, name: str, address: int) -> None:
        """Say where on the GPU a tensor is, for what is enqueued from now on."""
        self._check(self._context.set_tensor_address(name, address), f"takes no memory for {name}")

    def enqueue(self, stream: int) -> None:
        """Give the run to a stream, by CUDA's handle; do not wait for it."""
        self._check(self._context.execute_async_v3(stream), "does not run")

    def check_capturable(self, stream: int) -> None:
        """See that TensorRT does not know beforehand that the stream cannot be captured."""
        self._check(self._capturable is None or self._capturable(stream), "cannot be captured")

    def time_layers(self) -> Mapping[str, list[float]]:
        """From now on, wait for each run; return what fills with its layers' milliseconds, by name."""
        self._profiler = _profiler(self._trt)
        self._context.profiler = self._profiler
        times: Mapping[str, list[float]] = self._profiler.times_ms
        return times

    def inspect(self) -> str:
        """Return what TensorRT tells of the layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)

    def close(self) -> None:
        """Free the engine; before the GPU's context is let go."""
        del self._capturable, self._context, self._engine, self._runtime

    def _tensors(self, mode: trt.TensorIOMode) -> list[EngineTensor]:
        return [
            EngineTensor(name, _sides(self._context.get_tensor_shape(name)), self._dtype(name))
            for name in self._names
            if self._engine.get_tensor_mode(name) == mode
        ]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise InputError(f"the engine's {name} is {kind}; expected {', '.join(_DTYPES)}: export it again")
        return np.dtype(_DTYPES[kind])

    def _check(self, held: bool, what: str) -> None:
        if not held:
            raise InputError(f"{self.description}: the engine {what}: {_told(self._logger)}")


def _sides(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def _logger(trt: Any) -> Any:
    """Return a logger that keeps what TensorRT says of errors."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _profiler(trt: Any) -> Any:
    """Return a profiler that keeps each layer's milliseconds."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times_ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_ms.setdefault(layer_name, []).append(ms)

    return Profiler()


def _first_taken(config: trt.IBuilderConfig, caches: Sequence[bytes]) -> trt.ITimingCache:
    """Set the first cache that is of this TensorRT and GPU, else an empty one."""
    for data in caches:
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _told(logger: Any) -> str:
    """Return what TensorRT said since it was last asked."""
    said = "; ".join(logger.errors) or "it does not say why"
    logger.errors.clear()
    return said


def _refused(parser: trt.OnnxParser, onnx: bytes) -> str:
    if parser.parse(onnx):
        return ""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(map(_described, errors)) or "it does not say why"


def _described(error: trt.ParserError) -> str:
    """Return what the parser says, and of which node if it is of one."""
    code = str(error.code().name)
    words = " ".join(error.desc().split())
    said = code if words in ("", "false") else f"{words} ({code})"  # an assertion's text, or just its value
    operator = error.node_operator()
    return f"node {error.node_name() or f'number {error.node()}'}, a {operator}: {said}" if operator else said


def _network_flags(trt: Any) -> int:
    """Return how to make a strongly typed network: TensorRT 10 must be told, later ones know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _shape_batches(
    kind: TensorRTKind, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
) -> None:
    """Give dynamic batches their range; all else in our graphs is static."""
    if not TYPE_CHECKING:
        trt = load_tensorrt(kind)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if tensor.shape[0] == -1]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        rest = [tensor.shape[axis] for axis in range(1, len(tensor.shape))]
        least, usual, most = (trt.Dims([batch, *rest]) for batch in DYNAMIC_BATCH)
        profile.set_shape(tensor.name, least, usual, most)
    config.add_optimization_profile(profile)


def _compile_for(capabilities: tuple[str, ...], trt: Any, config: Any) -> None:
    """Choose the GPUs of an engine; TensorRT for RTX alone can, so no stubs know it."""
    known = {
        name: member for name, member in trt.ComputeCapability.__members__.items() if name.startswith("SM")
    }
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        member = known.get(f"SM{capability.replace('.', '')}")
        if member is None:
            has = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
            raise InputError(
                f"TensorRT for RTX {trt.__version__} cannot build for compute capability {capability}; "
                f"expected {has} (a Jetson's engines are built on the board, with --target local)"
            )
        config.set_compute_capability(member, index)
