"""Strategy of hypothesis for small networks: random blocks in a random style, and frames to run them with.

A network takes x (1, 3, HEIGHT, WIDTH), or the same in NHWC. It has a random chain of blocks between two
convolutions, and gives y (1, 1, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from tests.support.random_networks.activations import ACTIVATIONS
from tests.support.random_networks.arithmetic import ARITHMETIC
from tests.support.random_networks.convolutions import CONVOLUTIONS
from tests.support.random_networks.products import PRODUCTS
from tests.support.random_networks.rearrangement import REARRANGEMENT
from tests.support.random_networks.resampling import RESAMPLING
from tests.support.random_networks.sketch import HEIGHT, WIDTH, Blocks, NetworkSketch
from tests.support.random_networks.styles import STYLES, Style

BLOCKS: Blocks = {
    **ACTIVATIONS,
    **CONVOLUTIONS,
    **RESAMPLING,
    **PRODUCTS,
    **ARITHMETIC,
    **REARRANGEMENT,
}


def make_network(style: Style, blocks: Sequence[str], seed: int = 0) -> onnx.ModelProto:
    """Return a network with these blocks; those that the style's opset does not have are left out."""
    net, x = NetworkSketch(style, seed), "x"
    if style.layout == "nhwc":
        x = net.add("Transpose", x, perm=[0, 3, 1, 2])
    if style.half == "inside":
        x = net.add("Cast", x, to=TensorProto.FLOAT16)
    x = net.add("Relu", net.convolve(x, 16))
    for name in blocks:
        since, block = BLOCKS[name]
        if style.opset >= since and net.height * net.width <= 4 * HEIGHT * WIDTH:
            net.earlier.append((x, net.shape))
            x = block(net, x)
    x = net.add("Relu", net.convolve(x, 16, 1))
    y = net.convolve(x, 1, 3)
    if style.half == "inside":
        y = net.add("Cast", y, to=TensorProto.FLOAT)
    return net.build(y)


NETWORKS = st.builds(
    make_network,
    STYLES,
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4),
    st.integers(0, 9),
)


def random_frames(count: int) -> NDArray[np.uint8]:
    """Return windows of one frame each (count, 1, HEIGHT, WIDTH, 3) with blobs at different places."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for index in range(count):
        y, x = (5 + 7 * index) % HEIGHT, (3 + 5 * index) % WIDTH
        blob = np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / 12)
        noise = np.random.default_rng(index).uniform(0, 60, (HEIGHT, WIDTH, 3))
        frames.append(np.clip(blob[..., None] * [180, 90, 40] + noise, 0, 255))
    return np.asarray(frames, np.uint8)[:, None]
