"""Building and running engines with TensorRT: the only module that imports it.

It supports NVIDIA's full TensorRT, on boards, and TensorRT for RTX, on desktop GPUs. Both have the same API.
Every network is strongly typed: the graph itself fixes the precisions. The calls are type-checked against
the stubs of TensorRT 10.13. All differences between the versions are handled here:

| | TensorRT 10.3, 10.16 | TensorRT 11.4 | TensorRT for RTX 1.7 |
|---|---|---|---|
| strongly typed network | flag STRONGLY_TYPED | always, no flag | always, no flag |
| timing cache | read and written | read and written | has no effect and needs a GPU: not used |
| compute capability | that of this GPU | that of this GPU | any, without a GPU |
| stream that cannot be captured | the capture fails | the capture fails | `is_stream_capturable` is False |
| kernels | chosen by the builder | chosen by the builder | compiled when the engine is opened |

Inference is the same in all: `set_tensor_address` by tensor name, then `execute_async_v3`. A plan is code.
`TensorRTEngine` therefore expects bytes that `edge.inference.engine_selection` has checked, and never allows
a plan to run code on the CPU.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.core.errors import InputError
from edge.inference.cuda.errors import CudaError, find_lasting_error
from edge.inference.tensorrt.build_target import BuildTarget, TensorRTKind

if TYPE_CHECKING:
    import tensorrt as trt

_MODULES: dict[TensorRTKind, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "it comes with JetPack as a system package"),
    "rtx": ("tensorrt_rtx", "pip install 'aerogaze[rtx]'"),
}
_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}
"""Data types of inputs and outputs, by TensorRT's names."""
_LOGGERS: dict[str, Any] = {}
"""Logger by name of the TensorRT module, see `_logger_of`."""
MAX_ERRORS = 20
"""Errors that are kept for a message; the oldest are dropped."""
BATCH_PROFILES = ((1, 1, 1), (2, 256, 256))
"""Minimum, optimum and maximum of each range of batch sizes of an engine with a dynamic batch dimension: one
frame, as in flight, and many, as in the papers' protocol. TensorRT chooses kernels for the optimum."""
BUILDER_SETTINGS: dict[str, Any] = {
    "strongly_typed": True,
    "tf32": False,
    "dynamic_batch": [list(sizes) for sizes in BATCH_PROFILES],
    "stream_capture": True,
    "profiling_verbosity": "detailed",
}
"""Builder settings of every engine; they are part of its identity. TF32 is off, so that fp32 means fp32."""


@dataclass(frozen=True)
class EnginePlan:
    """A compiled network: code for one version of TensorRT and one type of GPU. Trust it like a program.

    Attributes:
        data: The serialized engine.
        tensorrt: Version of the TensorRT that built it.
        timing_cache: Measurements of the builder, for the next build; None if it has no cache.
    """

    data: bytes
    tensorrt: str
    timing_cache: bytes | None


def load_tensorrt(kind: TensorRTKind) -> ModuleType:
    """Import a TensorRT and return its module.

    Raises:
        InputError: It is not installed.
    """
    name, remedy = _MODULES[kind]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name} cannot be imported ({error}); {remedy}") from None
    if not hasattr(module, "Builder"):  # a package with stubs only imports as an empty package
        raise InputError(f"{name} is installed without its libraries (only stubs?); {remedy}")
    return module


def tensorrt_version(kind: TensorRTKind) -> str:
    """Return the version of a TensorRT.

    Raises:
        InputError: It is not installed.
    """
    version: str = load_tensorrt(kind).__version__
    return version


def has_timing_cache(kind: TensorRTKind) -> bool:
    """Return whether a TensorRT uses a timing cache.

    TensorRT for RTX does not measure while it builds. Its timing cache has had no effect since 1.2, and
    creating one needs a GPU.
    """
    return kind == "tensorrt"


def build_plan(onnx: bytes, target: BuildTarget, timing_caches: Sequence[bytes] = ()) -> EnginePlan:
    """Compile an ONNX graph. TensorRT for RTX needs no GPU for it.

    Args:
        onnx: The ONNX model, serialized.
        target: The TensorRT and the GPUs to build for.
        timing_caches: Caches of earlier builds. The first one that matches this TensorRT and GPU is used.

    Raises:
        InputError: TensorRT is missing, cannot build for the target, or refuses the graph. The message
            contains TensorRT's own, with node and operator.
    """
    if not TYPE_CHECKING:
        trt = load_tensorrt(target.kind)

    logger = _logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    parser_errors = _parse(parser, onnx)
    if parser_errors:
        raise InputError(f"TensorRT {trt.__version__} cannot parse the graph: {parser_errors}")
    config = builder.create_builder_config()
    _set_flags(trt, config)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.capabilities:
        _set_compute_capabilities(target.capabilities, trt, config)
    _set_batch_profiles(target.kind, builder, network, config)
    cache = None
    if has_timing_cache(target.kind):
        cache = _set_first_matching_cache(config, timing_caches)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(f"TensorRT {trt.__version__} cannot build the graph: {_take_errors(logger)}")
    return EnginePlan(bytes(plan), trt.__version__, bytes(cache.serialize()) if cache is not None else None)


def find_unsupported_node(onnx: bytes, kind: TensorRTKind) -> str:
    """Return the parser's error for the node that a TensorRT does not support, "" if it supports the graph.

    This takes milliseconds. TensorRT for RTX needs no GPU for it.

    Raises:
        InputError: TensorRT is missing.
    """
    if not TYPE_CHECKING:
        trt = load_tensorrt(kind)
    logger = _logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    return _parse(trt.OnnxParser(network, logger), onnx)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine, with the shape that is set for running."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class TensorRTEngine:
    """A loaded plan with its execution context. It is used by one thread and one stream at a time.

    Args:
        plan: The serialized engine. It is code: it must come from a trusted source.
        kind: The TensorRT that built it.

    Raises:
        InputError: TensorRT is missing, there is no GPU, or TensorRT refuses the plan. The message contains
            TensorRT's own.
    """

    def __init__(self, plan: bytes, kind: TensorRTKind) -> None:
        if not TYPE_CHECKING:
            trt = load_tensorrt(kind)
        self._trt = trt
        self._logger = _logger_of(trt)
        self._runtime = trt.Runtime(self._logger)
        # A plan may contain code for the CPU, which must never run.
        self._runtime.engine_host_code_allowed = False
        self.description = f"{_MODULES[kind][0]} {trt.__version__}"
        engine = self._runtime.deserialize_cuda_engine(plan)
        context = None if engine is None else _create_context(trt, engine)
        if context is None:
            problem, remedy = "cannot load the engine", "build it again with aerogaze build"
            if engine is not None:
                problem = "cannot run the engine"
                remedy = "close other programs that use the GPU, or build it again"
            # Freed here: the exception may live longer than the GPU's context, which both need.
            del engine, self._runtime
            raise self._error(f"{self.description} {problem}", remedy)
        self._engine, self._context = engine, context
        self._names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._capturable = getattr(context, "is_stream_capturable", None)

    def set_input_shapes(self, shapes: Mapping[str, tuple[int, ...]], stream: int) -> None:
        """Set the shapes of the dynamic inputs, by name, and the range of batch sizes that they are in.

        Args:
            shapes: Shapes by name; those of inputs with a fixed shape are ignored.
            stream: CUDA handle of the stream that all runs will be given to.
        """
        engine, context = self._engine, self._context
        dynamic = {
            name: shapes[name]
            for name in self._names
            if name in shapes and -1 in _to_shape(engine.get_tensor_shape(name))
        }
        if not dynamic:
            return
        profile = self._find_profile(dynamic)
        if profile != context.active_optimization_profile:
            accepted = context.set_optimization_profile_async(profile, stream)
            self._check(accepted, f"does not accept its profile {profile}")
        for name, shape in dynamic.items():
            self._check(context.set_input_shape(name, shape), f"does not accept {name} of shape {shape}")

    @property
    def inputs(self) -> list[EngineTensor]:
        """Return the inputs, including states."""
        return self._tensors(self._trt.TensorIOMode.INPUT)

    @property
    def outputs(self) -> list[EngineTensor]:
        """Return the outputs, including states."""
        return self._tensors(self._trt.TensorIOMode.OUTPUT)

    def bind(self, name: str, address: int) -> None:
        """Set the GPU address of a tensor for all runs that are enqueued from now on."""
        accepted = self._context.set_tensor_address(name, address)
        self._check(accepted, f"does not accept the memory of {name}")

    def enqueue(self, stream: int) -> None:
        """Give one run to a stream, by its CUDA handle, and return without waiting."""
        self._check(self._context.execute_async_v3(stream), "does not run")

    def check_capturable(self, stream: int) -> None:
        """Check that TensorRT does not rule out capturing the stream.

        Raises:
            InputError: TensorRT knows that the capture would fail.
        """
        self._check(self._capturable is None or self._capturable(stream), "cannot be captured")

    def time_layers(self) -> Mapping[str, list[float]]:
        """Measure layers from now on, with runs that block.

        Returns:
            A mapping that fills with milliseconds by layer name.
        """
        self._profiler = _make_profiler(self._trt)
        self._context.profiler = self._profiler
        times: Mapping[str, list[float]] = self._profiler.times_ms
        return times

    def inspect(self) -> str:
        """Return TensorRT's description of the layers as JSON."""
        inspector = self._engine.create_engine_inspector()
        return inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)

    def close(self) -> None:
        """Free the engine. This must happen before the GPU's context is released."""
        del self._capturable, self._context, self._engine, self._runtime

    def _find_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the number of the first profile that allows the shapes of the dynamic inputs."""
        for profile in range(self._engine.num_optimization_profiles):
            if all(self._allows(profile, name, shape) for name, shape in shapes.items()):
                return profile
        raise InputError(
            f"the engine allows no inputs of shape {', '.join(map(str, shapes.values()))}; expected batch "
            f"sizes {', '.join(f'{low} to {high}' for low, _, high in BATCH_PROFILES)}"
        )

    def _allows(self, profile: int, name: str, shape: tuple[int, ...]) -> bool:
        minimum, _, maximum = map(_to_shape, self._engine.get_tensor_profile_shape(name, profile))
        return all(low <= side <= high for low, side, high in zip(minimum, shape, maximum, strict=True))

    def _tensors(self, mode: trt.TensorIOMode) -> list[EngineTensor]:
        return [
            EngineTensor(name, _to_shape(self._context.get_tensor_shape(name)), self._dtype(name))
            for name in self._names
            if self._engine.get_tensor_mode(name) == mode
        ]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise InputError(f"the engine's {name} is {kind}; expected {', '.join(_DTYPES)}: export it again")
        return np.dtype(_DTYPES[kind])

    def _check(self, succeeded: bool, problem: str) -> None:
        if not succeeded:
            raise self._error(f"{self.description}: the engine {problem}")

    def _error(self, problem: str, remedy: str = "") -> InputError:
        """Return the error for a failed call, with TensorRT's own words; `CudaError` if the GPU is lost."""
        words = _take_errors(self._logger)
        name = find_lasting_error(words)
        if name is not None:
            return CudaError(self.description, name, words)
        return InputError(f"{problem} ({words})" + (f": {remedy}" if remedy else ""))


def _to_shape(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def _logger_of(trt: Any) -> Any:
    """Return the logger of a TensorRT module, which collects errors, without errors of this thread.

    There is one for the life of the process: TensorRT keeps the first logger that it is given for as long as
    any builder or runtime lives, and uses it for its global messages. A logger that is freed with its own
    runtime would be used after that.
    """
    logger = _LOGGERS.get(trt.__name__)
    if logger is None:
        logger = _LOGGERS.setdefault(trt.__name__, _make_logger(trt))
        # Never freed: when Python ends, it clears `_LOGGERS` while TensorRT may still log.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(logger))
    logger.take()
    return logger


def _make_logger(trt: Any) -> Any:
    """Return a logger that collects TensorRT's errors by thread."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._by_thread = threading.local()
            self._of_tensorrt: deque[str] = deque(maxlen=MAX_ERRORS)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors().append(message)

        def take(self) -> list[str]:
            """Return and forget the errors of this thread and of TensorRT's own threads."""
            errors = []
            for queue in (self._errors(), self._of_tensorrt):
                while queue:  # TensorRT's threads may append meanwhile
                    errors.append(queue.popleft())
            return errors

        def _errors(self) -> deque[str]:
            """Return the errors of this thread; threads that Python did not start share one queue."""
            errors: deque[str] | None = getattr(self._by_thread, "errors", None)
            if errors is None:
                is_pythons = any(thread.ident == threading.get_ident() for thread in threading.enumerate())
                errors = deque(maxlen=MAX_ERRORS) if is_pythons else self._of_tensorrt
                self._by_thread.errors = errors
            return errors

    return Logger()


def _make_profiler(trt: Any) -> Any:
    """Return a profiler that collects the milliseconds of each layer."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times_ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_ms.setdefault(layer_name, []).append(ms)

    return Profiler()


def _set_first_matching_cache(config: trt.IBuilderConfig, caches: Sequence[bytes]) -> trt.ITimingCache:
    """Set the first cache that matches this TensorRT and GPU, or an empty one."""
    for data in caches:
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _take_errors(logger: Any) -> str:
    """Return the errors that TensorRT logged since the last call in this thread."""
    return "; ".join(" ".join(error.split()) for error in logger.take()) or "no reason given"


def _parse(parser: trt.OnnxParser, onnx: bytes) -> str:
    """Parse a graph and return the parser's errors, "" if there are none."""
    if parser.parse(onnx):
        return ""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(map(_describe_error, errors)) or "no reason given"


def _describe_error(error: trt.ParserError) -> str:
    """Return the parser's message, with the node that it concerns if it names one."""
    code = str(error.code().name)
    words = " ".join(error.desc().split())
    # The description is the text of a failed assertion, or only its value.
    message = code if words in ("", "false") else f"{words} ({code})"
    operator = error.node_operator()
    if not operator:
        return message
    return f"node {error.node_name() or f'number {error.node()}'}, a {operator}: {message}"


def _network_flags(trt: Any) -> int:
    """Return the flags of a strongly typed network. TensorRT 10 needs one; later versions always are."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_flags(trt: Any, config: Any) -> None:
    """Set the builder's flags."""
    config.clear_flag(trt.BuilderFlag.TF32)
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if (
        user_allocation is not None
    ):  # only TensorRT for RTX: memory that is allocated per run cannot be captured
        config.set_flag(user_allocation)


def _create_context(trt: Any, engine: Any) -> Any:
    """Return an execution context, or None if TensorRT cannot make one.

    TensorRT for RTX compiles kernels for the shapes in use and runs general ones until that is done. The
    general ones would be captured into CUDA graphs and stay, so here it compiles first.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(runtime_config=config)


def _set_batch_profiles(
    kind: TensorRTKind, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
) -> None:
    """Set the ranges of dynamic batch dimensions. All other dimensions of our graphs are static."""
    if not TYPE_CHECKING:
        trt = load_tensorrt(kind)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if tensor.shape[0] == -1]
    if not dynamic:
        return
    for sizes in BATCH_PROFILES:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            rest = [tensor.shape[axis] for axis in range(1, len(tensor.shape))]
            minimum, optimum, maximum = (trt.Dims([batch, *rest]) for batch in sizes)
            profile.set_shape(tensor.name, minimum, optimum, maximum)
        config.add_optimization_profile(profile)


def _set_compute_capabilities(capabilities: tuple[str, ...], trt: Any, config: Any) -> None:
    """Set the GPUs that an engine supports. Only TensorRT for RTX can do this, so the stubs lack it."""
    known = {
        name: member for name, member in trt.ComputeCapability.__members__.items() if name.startswith("SM")
    }
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        member = known.get(f"SM{capability.replace('.', '')}")
        if member is None:
            supported = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
            raise InputError(
                f"TensorRT for RTX {trt.__version__} cannot build for compute capability {capability}; "
                f"expected {supported} (engines for a Jetson are built on the board, with --target local)"
            )
        config.set_compute_capability(member, index)
