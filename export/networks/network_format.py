"""How a network from elsewhere takes its frames and gives its map, with a plain implementation of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.preprocessing.transform import Preprocessing

NetworkLayout = Literal["nchw", "nhwc", "ncthw", "ntchw", "nthwc"]
"""Order of the axes of the input: batch, channels, time, height, width."""
Activation = Literal["sigmoid", "softmax", "logsoftmax", "none"]
NETWORK_LAYOUTS: tuple[NetworkLayout, ...] = get_args(NetworkLayout)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
GREY_WEIGHTS = (9798 / 2**15, 19235 / 2**15, 3735 / 2**15)
"""Weights of red, green and blue in the grey value: those of cv2.COLOR_BGR2GRAY (ITU-R BT.601).

In float32 the grey value of whole numbers is exact, in any order of the sum. So all round it alike.
"""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class NetworkInput:
    """The input that takes the frames.

    A value v of a frame becomes v * scale + offset, one number per channel, in the order of the graph.

    Attributes:
        name: Name of the tensor.
        dtype: Its type.
        width: Width of a frame.
        height: Height of a frame.
        channels: Channels of a frame: 1 (grey) or 3.
        frames: Consecutive frames that it takes. In layout "nchw" their channels follow one another.
        layout: Order of the axes.
        colour: Order of the channels, "rgb" or "bgr".
        scale: Factor of each channel.
        offset: Offset of each channel.

    A grey value for a uint8 input is rounded to the next whole number, halves up, as by OpenCV.
    """

    name: str
    dtype: Literal["float32", "uint8"]
    width: int
    height: int
    channels: int
    frames: int
    layout: NetworkLayout
    colour: Literal["rgb", "bgr"]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def has_uniform_values(self) -> bool:
        """Return whether all channels have the same scale and offset."""
        return len(set(zip(self.scale, self.offset, strict=True))) == 1

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the part of the conversion that is outside the graph.

        It scales if all channels are scaled alike; otherwise values are 0 to 1, and the graph does the rest.
        """
        if self.has_uniform_values:
            return Preprocessing(self.width, self.height, self.scale[0], self.offset[0])
        return Preprocessing(self.width, self.height, 1 / 255, 0.0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the tensor, with a batch of 1."""
        channels = self.channels if "t" in self.layout else self.channels * self.frames
        sides = {"n": 1, "c": channels, "t": self.frames, "h": self.height, "w": self.width}
        return tuple(sides[axis] for axis in self.layout)

    def convert(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        """Return the value of the tensor for consecutive frames (height, width, 3), uint8 BGR."""
        image = np.stack(frames).astype(np.float32)
        if self.channels == 1:
            image = image @ np.array(GREY_WEIGHTS[::-1], np.float32)[:, None]
            if self.dtype == "uint8":
                image = np.floor(image + np.float32(0.5))
        elif self.colour == "rgb":
            image = image[..., ::-1]
        scale, offset = np.array(self.scale, np.float32), np.array(self.offset, np.float32)
        value = (image * scale + offset)[None]  # n t h w c
        if "t" in self.layout:
            value = value.transpose(["nthwc".index(axis) for axis in self.layout])
        elif self.layout == "nhwc":
            value = value[:, 0]
        else:
            value = value.transpose(0, 1, 4, 2, 3)
        return np.ascontiguousarray(value.reshape(self.shape), self.dtype)


@dataclass(frozen=True)
class NetworkOutput:
    """The output that gives the map.

    Attributes:
        name: Name of the tensor.
        width: Width of a map in the tensor.
        height: Height of a map in the tensor.
        activation: Function from the tensor to a map: "softmax" is taken over all pixels, "logsoftmax" is
            for a tensor that is the logarithm of a density. Both give a density.
        map_width: Width of the released map.
        map_height: Height of the released map.
        axis: Axis of the tensor along which several maps lie: channels, or the frames of a window; None if
            the tensor holds one map.
        index: Place of the map on this axis.
    """

    name: str
    width: int
    height: int
    activation: Activation
    map_width: int
    map_height: int
    axis: int | None = None
    index: int = 0

    @property
    def is_resized(self) -> bool:
        """Return whether the released map has another size than the tensor's."""
        return (self.map_width, self.map_height) != (self.width, self.height)

    def convert(self, value: NDArray[Any]) -> Map:
        """Return the map (map_height, map_width) for a value of the tensor."""
        if self.axis is not None:
            value = np.take(value, self.index, self.axis)
        saliency: Map = np.asarray(value, np.float32).reshape(self.height, self.width)
        if self.activation == "sigmoid":
            saliency = np.float32(1) / (1 + np.exp(-saliency))
        elif self.activation in ("softmax", "logsoftmax"):
            saliency = np.exp(saliency - saliency.max())
            saliency /= saliency.sum()
        if self.is_resized:
            saliency = np.asarray(cv2.resize(saliency, (self.map_width, self.map_height)), np.float32)
        return np.asarray(np.maximum(saliency, 0), np.float32)
