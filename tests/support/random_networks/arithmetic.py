"""Blocks of arithmetic: element by element, with constants, and in other number types."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.random_networks.sketch import Blocks, NetworkSketch


def _power(net: NetworkSketch, x: str) -> str:
    return net.add("Pow", net.add("Add", net.add("Abs", x), net.constant(0.1)), net.constant(0.5))


def _log(net: NetworkSketch, x: str) -> str:
    return net.add("Log", net.add("Add", net.add("Abs", x), net.constant(1.0)))


def _where(net: NetworkSketch, x: str) -> str:
    negative = net.add("Less", x, net.constant(0.0))
    return net.add("Where", negative, net.constant(0.0), x)


def _several(net: NetworkSketch, x: str) -> str:
    y = net.add("Mean", x, net.add("Tanh", x), net.add("Sigmoid", x))
    return net.add("Max", net.add("Sum", y, x), net.add("Neg", x))


def _mean_of_all(net: NetworkSketch, x: str) -> str:
    return net.add("Sub", x, net.add("ReduceMean", x, keepdims=0))


def _running_sum(net: NetworkSketch, x: str) -> str:
    if net.style.half != "none":
        return net.add("Relu", x)
    total = net.add("CumSum", x, net.constant(3, np.int64))
    return net.add("Mul", total, net.constant(1 / net.width))


def _add_constant(net: NetworkSketch, x: str) -> str:
    convolved = net.convolve(x, net.channels)
    return net.add("Add", convolved, net.constant(net.random.normal(0, 0.3, (1, *net.shape))))


def _constant_of_floats(net: NetworkSketch, x: str) -> str:
    if net.style.half != "none":
        return net.add("Relu", x)
    net.nodes.append(helper.make_node("Constant", [], [c := net.name("c")], value_float=0.3))
    net.nodes.append(helper.make_node("Constant", [], [d := net.name("c")], value_floats=[0.1]))
    return net.add("Add", net.add("Mul", x, c), d)


def _filled(net: NetworkSketch, x: str) -> str:
    value = numpy_helper.from_array(np.array([0.25], np.float16 if net.float_type == 10 else np.float32))
    return net.add("Add", x, net.add("ConstantOfShape", net.add("Shape", x), value=value))


def _expand(net: NetworkSketch, x: str) -> str:
    wide = net.add("Expand", net.constant([[[[0.1]]]]), net.whole(1, *net.shape))
    return net.add("Sub", x, wide)


def _range_grid(net: NetworkSketch, x: str) -> str:
    """Add a coordinate channel that the graph computes."""
    scalars = [net.constant(v, is_weight=False) for v in (0.0, float(net.width), 1.0)]
    line = net.add("Range", *scalars)
    line = net.add("Cast", line, to=net.float_type)
    line = net.add("Reshape", line, net.whole(1, 1, 1, net.width))
    return net.add("Add", x, net.add("Mul", line, net.constant(1 / net.width)))


def _double(net: NetworkSketch, x: str) -> str:
    """Compute in float64, as code with Python numbers does."""
    wide = net.add("Cast", x, to=TensorProto.DOUBLE)
    wide = net.add("Mul", wide, net.constant(0.7, np.float64))
    return net.add("Cast", wide, to=net.float_type)


def _integers(net: NetworkSketch, x: str) -> str:
    """Quantize by hand: through int32 and back."""
    whole = net.add("Cast", net.add("Floor", net.add("Mul", x, net.constant(16.0))), to=TensorProto.INT32)
    return net.add("Mul", net.add("Cast", whole, to=net.float_type), net.constant(1 / 16))


def _cast_to_itself(net: NetworkSketch, x: str) -> str:
    return net.add("Relu", net.add("Cast", x, to=net.float_type))


ARITHMETIC: Blocks = {
    "add constant": (7, _add_constant),
    "Pow": (7, _power),
    "Log": (7, _log),
    "Where": (9, _where),
    "float64": (7, _double),
    "through int32": (7, _integers),
    "Range": (11, _range_grid),
    "ConstantOfShape": (9, _filled),
    "Expand": (8, _expand),
    "Cast to its own type": (9, _cast_to_itself),
    "Constant of floats": (12, _constant_of_floats),
    "mean of all": (7, _mean_of_all),
    "CumSum": (11, _running_sum),
    "Mean, Sum and Max": (8, _several),
}
