"""The one place that imports TensorRT: NVIDIA's full TensorRT on boards, TensorRT for RTX on desks.

Both speak the same API, and every network is strongly typed: precision lives in the graph. The calls are
type-checked against the stubs of TensorRT 10.13. What differs between them, all of it here:

| | TensorRT 10.3, 10.16 | TensorRT 11.4 | TensorRT for RTX 1.7 |
|---|---|---|---|
| network | STRONGLY_TYPED is asked for | always so, flag ignored | always so, flag ignored |
| timing cache | read and written | read and written | does nothing, and asks for a GPU: left out |
| compute capability | that of the GPU at hand | that of the GPU at hand | any, without a GPU |
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from edge.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt

Kind = Literal["tensorrt", "rtx"]
_MODULES: dict[Kind, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "it comes with JetPack as a system package"),
    "rtx": ("tensorrt_rtx", "pip install 'aerogaze[rtx]'"),
}
DYNAMIC_BATCH = (1, 8, 256)
"""Least, usual and most batch that an engine with a dynamic batch is built for."""
SETTINGS: dict[str, Any] = {"strongly_typed": True, "tf32": False, "dynamic_batch": list(DYNAMIC_BATCH)}
"""How every engine is built: part of its identity. TF32 is off, so that fp32 is fp32."""
_TARGET = re.compile(r"local|rtx(?::(\d+\.\d(?:,\d+\.\d)*))?")


@dataclass(frozen=True)
class Target:
    """What engines are compiled for.

    `local`: the GPU at hand, by the full TensorRT. `rtx`: NVIDIA's desk cards, by TensorRT for RTX, which
    needs no GPU; `capabilities` are theirs, as "8.6"; none means its default, 8.0 and later.
    """

    kind: Kind
    capabilities: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `local`, `rtx` or `rtx:8.6,8.9`.

        Raises:
            InputError: it is none of these.
        """
        found = _TARGET.fullmatch(text)
        if found is None:
            raise InputError(
                f"no target {text!r}; expected local, rtx, or rtx with compute capabilities as rtx:8.6,8.9"
            )
        if text == "local":
            return cls("tensorrt")
        return cls("rtx", tuple(dict.fromkeys(found[1].split(","))) if found[1] else ())

    def __str__(self) -> str:
        if self.kind == "tensorrt":
            return "local"
        return "rtx" + (f":{','.join(self.capabilities)}" if self.capabilities else "")

    @property
    def folder(self) -> str:
        """Return the name of the folder of its engines: `local`, `rtx` or `rtx-8.6-8.9`."""
        return re.sub("[:,]", "-", str(self))


@dataclass(frozen=True)
class Plan:
    """A compiled network: code for one TensorRT and one kind of GPU. Trust it like a program.

    `timing_cache`: what the builder learnt, for the next build; None where there is no such thing.
    """

    data: bytes
    tensorrt: str
    timing_cache: bytes | None


def load_tensorrt(kind: Kind) -> ModuleType:
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


def tensorrt_version(kind: Kind) -> str:
    """Return the version of a TensorRT; raises InputError as `load_tensorrt` does."""
    version: str = load_tensorrt(kind).__version__
    return version


def has_timing_cache(kind: Kind) -> bool:
    """Say whether a TensorRT learns from build to build. That for RTX measures nothing while it builds:
    its timing cache has been a no-op since 1.2, and touching it asks for a GPU.
    """
    return kind == "tensorrt"


def build_plan(onnx: bytes, target: Target, timing_cache: bytes = b"") -> Plan:
    """Compile an ONNX graph. TensorRT for RTX does so on a machine without a GPU, too.

    Raises:
        InputError: TensorRT is missing, cannot build for the target, or refuses the graph; its own words
            are passed on.
    """
    if not TYPE_CHECKING:
        trt = load_tensorrt(target.kind)

    class Logger(trt.ILogger):
        """Keeps what TensorRT says of errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise InputError(f"TensorRT {trt.__version__} cannot parse the graph: {errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if target.capabilities:
        _compile_for(target.capabilities, trt, config)
    _shape_batches(target.kind, builder, network, config)
    cache = None
    if has_timing_cache(target.kind):
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(f"TensorRT {trt.__version__} cannot build the graph: {'; '.join(logger.errors)}")
    return Plan(bytes(plan), trt.__version__, bytes(cache.serialize()) if cache is not None else None)


def _network_flags(trt: Any) -> int:
    """Return how to make a strongly typed network: TensorRT 10 must be told, later ones know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _shape_batches(
    kind: Kind, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
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
