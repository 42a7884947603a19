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
DYNAMIC_BATCH = (1, 8, 256)
"""Minimum, optimum and maximum batch size of an engine with a dynamic batch dimension."""
BUILDER_SETTINGS: dict[str, Any] = {
    "strongly_typed": True,
    "tf32": False,
    "dynamic_batch": list(DYNAMIC_BATCH),
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
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.capabilities:
        _set_compute_capabilities(target.capabilities, trt, config)
    _set_batch_range(target.kind, builder, network, config)
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
        if engine is None:
            raise InputError(
                f"{self.description} cannot load the engine ({_take_errors(self._logger)}): build it again "
                "with aerogaze build"
            )
        context = engine.create_execution_context()
        if context is None:
            raise InputError(
                f"{self.description} cannot run the engine ({_take_errors(self._logger)}): close other "
                "programs that use the GPU, or build it again"
            )
        self._engine, self._context = engine, context
        self._names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._capturable = getattr(context, "is_stream_capturable", None)

    def set_input_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Set the shapes of the dynamic inputs, by name."""
        for name in self._names:
            if -1 in _to_shape(self._engine.get_tensor_shape(name)) and name in shapes:
                accepted = self._context.set_input_shape(name, shapes[name])
                self._check(accepted, f"does not accept {name} of shape {shapes[name]}")

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
            raise InputError(f"{self.description}: the engine {problem}: {_take_errors(self._logger)}")


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


def _set_batch_range(
    kind: TensorRTKind, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
) -> None:
    """Set the range of dynamic batch dimensions. All other dimensions of our graphs are static."""
    if not TYPE_CHECKING:
        trt = load_tensorrt(kind)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if tensor.shape[0] == -1]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        rest = [tensor.shape[axis] for axis in range(1, len(tensor.shape))]
        minimum, optimum, maximum = (trt.Dims([batch, *rest]) for batch in DYNAMIC_BATCH)
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
