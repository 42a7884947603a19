"""The one place that imports TensorRT: NVIDIA's full TensorRT on boards, TensorRT for RTX on desks.

Both speak the same API, and every network is strongly typed: precision lives in the graph.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from edge.errors import InputError

Kind = Literal["tensorrt", "rtx"]
_MODULES: dict[Kind, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "it comes with JetPack as a system package"),
    "rtx": ("tensorrt_rtx", "pip install 'aerogaze[rtx]'"),
}
DYNAMIC_BATCH = (1, 8, 256)
"""Least, usual and most batch that an engine with a dynamic batch is built for."""


@dataclass(frozen=True)
class Plan:
    """A compiled network: code for one TensorRT and one kind of GPU. Trust it like a program."""

    data: bytes
    tensorrt: str
    """Version of the builder."""


def load_tensorrt(kind: Kind) -> Any:
    """Return the module of a TensorRT.

    Raises:
        InputError: it is not installed; how to get it is said.
    """
    name, remedy = _MODULES[kind]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name} cannot be imported ({error}); {remedy}") from None


def build_plan(onnx: bytes, kind: Kind) -> Plan:
    """Compile an ONNX graph. TensorRT for RTX does so on a machine without a GPU, too.

    Raises:
        InputError: TensorRT is missing, or refuses the graph; its own words are passed on.
    """
    trt = load_tensorrt(kind)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what TensorRT says of errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise InputError(f"TensorRT {trt.__version__} cannot parse the graph: {errors}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if tensor.shape[0] == -1]
    for tensor in dynamic:
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *rest) for batch in DYNAMIC_BATCH))
    if dynamic:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(f"TensorRT {trt.__version__} cannot build the graph: {'; '.join(logger.errors)}")
    return Plan(bytes(plan), trt.__version__)
