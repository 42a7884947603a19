"""Blocks of activations and normalizations, as one operator or written out."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.random_networks.sketch import Block, Blocks, NetworkSketch


def _activation(operator: str, since: int = 7, **attributes: Any) -> tuple[int, Block]:
    return since, lambda net, x: net.add(operator, x, **attributes)


def _clip(net: NetworkSketch, x: str) -> str:
    if net.opset < 11:
        return net.add("Clip", x, min=0.0, max=6.0)
    return net.add("Clip", x, net.constant(0.0), net.constant(6.0))


def _clip_above(net: NetworkSketch, x: str) -> str:
    """Limit by a maximum alone: the minimum is an empty name."""
    if net.opset < 11:
        return net.add("Clip", x, max=1.0)
    return net.add("Clip", x, "", net.constant(1.0))


def _prelu(net: NetworkSketch, x: str) -> str:
    return net.add("PRelu", x, net.constant(np.full((net.channels, 1, 1), 0.2)))


def _gelu(net: NetworkSketch, x: str) -> str:
    erf = net.add("Erf", net.add("Div", x, net.constant(float(np.sqrt(2)))))
    half = net.add("Mul", net.add("Add", erf, net.constant(1.0)), net.constant(0.5))
    return net.add("Mul", x, half)


def _silu(net: NetworkSketch, x: str) -> str:
    return net.add("Mul", x, net.add("Sigmoid", x))


def _mish(net: NetworkSketch, x: str) -> str:
    return net.add("Mul", x, net.add("Tanh", net.add("Softplus", x)))


def _batch_norm(net: NetworkSketch, x: str) -> str:
    c, random = net.channels, net.random
    values = (random.uniform(0.5, 1.5, c), random.normal(0, 0.1, c), random.normal(0, 0.1, c), np.ones(c))
    return net.add("BatchNormalization", x, *(net.constant(v) for v in values))


def _instance_norm(net: NetworkSketch, x: str) -> str:
    ones, zeros = np.ones(net.channels), np.zeros(net.channels)
    return net.add("InstanceNormalization", x, net.constant(ones), net.constant(zeros))


def _layer_norm(net: NetworkSketch, x: str) -> str:
    x = net.add("Transpose", x, perm=[0, 2, 3, 1])
    x = net.add("LayerNormalization", x, net.constant(np.ones(net.channels)), axis=-1)
    return net.add("Transpose", x, perm=[0, 3, 1, 2])


def _group_norm(net: NetworkSketch, x: str) -> str:
    ones = np.ones(net.channels)
    return net.add(
        "GroupNormalization", x, net.constant(ones), net.constant(0 * ones), num_groups=net.channels
    )


def _lrn(net: NetworkSketch, x: str) -> str:
    return net.add("LRN", x, size=3)


def _mean_norm(net: NetworkSketch, x: str) -> str:
    centred = net.add("Sub", x, net.reduce("ReduceMean", x, [2, 3]))
    square = net.reduce("ReduceMean", net.add("Mul", centred, centred), [2, 3])
    return net.add("Div", centred, net.add("Sqrt", net.add("Add", square, net.constant(0.01))))


def _peak_norm(net: NetworkSketch, x: str) -> str:
    low = net.reduce("ReduceMin", x, [1, 2, 3])
    high = net.reduce("ReduceMax", x, [1, 2, 3])
    span = net.add("Add", net.add("Sub", high, low), net.constant(0.01))
    return net.add("Div", net.add("Sub", x, low), span)


def _normalize(net: NetworkSketch, x: str) -> str:
    length = net.reduce("ReduceL2", x, [1])
    return net.add("Div", x, net.add("Max", length, net.constant(1e-3)))


def _softmax_of_the_rest(net: NetworkSketch, x: str) -> str:
    """Before opset 13, a Softmax is over all axes from its axis on."""
    return net.add("Softmax", x, axis=2 if net.opset >= 13 else 1)


def _dropout(net: NetworkSketch, x: str) -> str:
    return net.add("Dropout", x)


def _masked_dropout(net: NetworkSketch, x: str) -> str:
    return net.add("Relu", net.add("Dropout", x, count=2))


ACTIVATIONS: Blocks = {
    "Relu": _activation("Relu"),
    "LeakyRelu": _activation("LeakyRelu", alpha=0.1),
    "Elu": _activation("Elu"),
    "Selu": _activation("Selu"),
    "Celu": _activation("Celu", 12),
    "ThresholdedRelu": _activation("ThresholdedRelu", 10, alpha=0.1),
    "HardSigmoid": _activation("HardSigmoid"),
    "HardSwish": _activation("HardSwish", 14),
    "Sigmoid": _activation("Sigmoid"),
    "Tanh": _activation("Tanh"),
    "Softplus": _activation("Softplus"),
    "Softsign": _activation("Softsign"),
    "Gelu": _activation("Gelu", 20),
    "Mish": _activation("Mish", 18),
    "Sin": _activation("Sin"),
    "Round": _activation("Round", 11),
    "Exp of Sigmoid": (7, lambda net, x: net.add("Exp", net.add("Sigmoid", x))),
    "Softmax over channels": _activation("Softmax", 13, axis=1),
    "LpNormalization": _activation("LpNormalization", axis=1),
    "Clip": (7, _clip),
    "PRelu": (7, _prelu),
    "BatchNormalization": (7, _batch_norm),
    "InstanceNormalization": (7, _instance_norm),
    "LayerNormalization": (17, _layer_norm),
    "GroupNormalization": (21, _group_norm),
    "mean norm": (7, _mean_norm),
    "peak norm": (7, _peak_norm),
    "gelu by Erf": (9, _gelu),
    "silu": (7, _silu),
    "mish by Softplus": (7, _mish),
    "ReduceL2": (8, _normalize),
    "Dropout": (7, _dropout),
    "LRN": (7, _lrn),
    "Clip with a maximum": (7, _clip_above),
    "Softmax over the rest": (7, _softmax_of_the_rest),
    "Dropout with a mask": (7, _masked_dropout),
}
