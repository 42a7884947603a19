"""Blocks that change height and width: pools, resizes, pads, crops and warps."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.random_networks.sketch import Block, Blocks, NetworkSketch


def _pool(operator: str, **attributes: Any) -> tuple[int, Block]:
    def block(net: NetworkSketch, x: str) -> str:
        if min(net.height, net.width) < 4:
            return net.add("Relu", x)
        net.height, net.width = net.height // 2, net.width // 2
        return net.add(operator, x, kernel_shape=[2, 2], strides=[2, 2], **attributes)

    return 7, block


def _padded_pool(net: NetworkSketch, x: str) -> str:
    pooled = [net.add("MaxPool", x, kernel_shape=[k, k], strides=[1, 1], pads=[k // 2] * 4) for k in (3, 5)]
    net.channels *= 3
    return net.convolve(net.add("Concat", x, *pooled, axis=1), 16, 1)


def _pool_upwards(net: NetworkSketch, x: str) -> str:
    if min(net.height, net.width) < 4:
        return net.add("Relu", x)
    net.height, net.width = -(-net.height // 2), -(-net.width // 2)
    return net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)


def _unpool(net: NetworkSketch, x: str) -> str:
    """Pool with indices, and put the values back to their places, as SegNet does."""
    if net.style.half != "none" or net.height % 2 or net.width % 2:
        return net.add("Relu", x)
    pooled = net.add("MaxPool", x, count=2, kernel_shape=[2, 2], strides=[2, 2])
    return net.add("MaxUnpool", pooled, net.nodes[-1].output[1], kernel_shape=[2, 2], strides=[2, 2])


def _resize(mode: str, by: str) -> tuple[int, Block]:
    def block(net: NetworkSketch, x: str) -> str:
        before = net.shape
        net.height, net.width = net.height * 2, net.width * 2
        scales = net.constant([1, 1, 2, 2], is_weight=False)
        if net.opset < 11:
            operator = "Upsample" if net.opset < 10 else "Resize"
            mode_7 = "linear" if mode == "cubic" else mode
            if net.opset < 9:
                return net.add(operator, x, mode=mode_7, scales=[1.0, 1.0, 2.0, 2.0])
            return net.add(operator, x, scales, mode=mode_7)
        rest: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric"} if mode == "nearest" else {}
        if by == "computed sizes":
            shape = net.add("Shape", x)
            sides = net.add("Slice", shape, net.whole(2), net.whole(4))
            doubled = net.add("Mul", sides, net.whole(2, 2))
            sizes = net.add("Concat", net.whole(1, before[0]), doubled, axis=0)
        else:
            sizes = net.whole(1, before[0], net.height, net.width)
        none = "" if net.opset >= 13 else net.constant([], is_weight=False)
        if by == "scales":
            return net.add("Resize", x, none, scales, mode=mode, **rest)
        empty = "" if net.opset >= 13 else net.constant([], is_weight=False)
        return net.add("Resize", x, none, empty, sizes, mode=mode, **rest)

    return 7, block


def _pad_and_crop(net: NetworkSketch, x: str) -> str:
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    if net.opset < 11:
        padded = net.add("Pad", x, mode="reflect", pads=pads)
    else:
        padded = net.add("Pad", x, net.whole(*pads), mode="edge")
    if net.opset < 10:
        return net.add("Slice", padded, starts=[1, 1], ends=[-1, -1], axes=[2, 3])
    return net.add("Slice", padded, net.whole(1, 1), net.whole(-1, -1), net.whole(2, 3))


def _pad_value(net: NetworkSketch, x: str) -> str:
    if net.opset < 11:
        return net.add("Identity", x)
    padded = net.add("Pad", x, net.whole(0, 0, 1, 1, 0, 0, 1, 1), net.constant(0.5))
    net.height, net.width = net.height + 2, net.width + 2
    return padded


def _sample_grid(net: NetworkSketch, x: str) -> str:
    """Warp by a constant grid."""
    ys, xs = np.meshgrid(np.linspace(-1, 1, net.height), np.linspace(-1, 1, net.width), indexing="ij")
    grid = net.constant(np.stack([xs, ys], -1)[None] * 0.9)
    return net.add("GridSample", x, grid, mode="linear" if net.opset >= 20 else "bilinear")


RESAMPLING: Blocks = {
    "MaxPool": _pool("MaxPool"),
    "AveragePool": _pool("AveragePool"),
    "AveragePool that counts padding": _pool("AveragePool", count_include_pad=1),
    "LpPool": _pool("LpPool"),
    "pyramid of MaxPools": (7, _padded_pool),
    "Resize nearest by scales": _resize("nearest", "scales"),
    "Resize linear by scales": _resize("linear", "scales"),
    "Resize cubic by scales": _resize("cubic", "scales"),
    "Resize linear by sizes": _resize("linear", "sizes"),
    "Resize nearest by computed sizes": _resize("nearest", "computed sizes"),
    "pad and crop": (7, _pad_and_crop),
    "pad with a value": (7, _pad_value),
    "GridSample": (16, _sample_grid),
    "MaxUnpool": (11, _unpool),
    "AveragePool of odd sides": (10, _pool_upwards),
}
