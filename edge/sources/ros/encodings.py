"""Pixels of ROS image messages: raw images in the encodings of `sensor_msgs/Image`, and compressed ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.foreign_text import printable
from edge.sources.image_folder import decode_image

Pixels = NDArray[Any]
"""(H, W) grey or (H, W, 3) BGR, at the depth of the message."""

DEPTH_HEADER_BYTES = 12
"""Header that `compressed_depth_image_transport` puts before its PNG."""
_BAYER = {
    # OpenCV names the second row of a Bayer pattern, ROS the first one.
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}
_NAMED_CHANNELS = {
    "mono": (1, None),
    "bgr": (3, None),
    "rgb": (3, cv2.COLOR_RGB2BGR),
    "bgra": (4, cv2.COLOR_BGRA2BGR),
    "rgba": (4, cv2.COLOR_RGBA2BGR),
}
_OPENCV_TYPES = {"8U": np.uint8, "16U": np.uint16, "16S": np.int16, "32F": np.float32}
_PACKED_YUV = {
    "yuv422": cv2.COLOR_YUV2BGR_UYVY,
    "uyvy": cv2.COLOR_YUV2BGR_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2BGR_YUY2,
    "yuyv": cv2.COLOR_YUV2BGR_YUY2,
}
_PLANAR_YUV = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}
KNOWN_ENCODINGS = (
    "rgb8, bgr8, rgba8, bgra8, mono8, mono16, rgb16, bgr16, 8UC1, 8UC3, 16UC1, 16SC1, 32FC1, bayer_*8, "
    "bayer_*16, yuv422, yuv422_yuy2, nv12, nv21"
)


@dataclass(frozen=True)
class _Layout:
    """Layout of an encoding: type and channels of a pixel, its conversion, colour in half a picture below."""

    dtype: type
    channels: int
    to_bgr: int | None = None
    is_planar: bool = False


def decode_raw(
    width: int, height: int, encoding: str, step: int, data: Any, is_bigendian: bool = False
) -> Pixels:
    """Return the pixels of a raw image.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        encoding: Encoding as in `sensor_msgs/image_encodings.hpp`, such as `bgr8`.
        step: Bytes from one row to the next.
        data: The bytes, as any buffer.
        is_bigendian: Values of more than 8 bits have their high byte first.

    Raises:
        ValueError: The encoding is unknown, or the data do not fit the size; the text says which.
    """
    layout = _find_layout(encoding)
    rows = height * 3 // 2 if layout.is_planar else height
    row_bytes = width * layout.channels * np.dtype(layout.dtype).itemsize
    buffer = np.frombuffer(data, np.uint8)
    if min(width, height) < 1 or step < row_bytes or buffer.size < step * (rows - 1) + row_bytes:
        raise ValueError(f"{buffer.size} bytes do not hold {width}x{height} pixels of {encoding}")
    lines = np.lib.stride_tricks.as_strided(buffer, (rows, row_bytes), (step, 1))
    dtype = np.dtype(layout.dtype).newbyteorder(">" if is_bigendian else "<")
    pixels: Pixels = np.ascontiguousarray(lines).view(dtype).astype(layout.dtype, copy=False)
    if layout.channels > 1:
        pixels = pixels.reshape(rows, width, layout.channels)
    try:
        return pixels if layout.to_bgr is None else np.asarray(cv2.cvtColor(pixels, layout.to_bgr))
    except cv2.error:  # such as an odd width of yuv422
        raise ValueError(f"{width}x{height} is no size of {encoding}") from None


def decode_compressed(format_: str, data: Any, scale: int = 1) -> tuple[Pixels, int]:
    """Return the pixels of a compressed image and their scale.

    Args:
        format_: Format as in `sensor_msgs/CompressedImage`, such as `jpeg` or `16UC1; compressedDepth png`.
        data: The bytes, as any buffer.
        scale: Wanted reduction of each side; only JPEGs can be decoded smaller.

    Raises:
        ValueError: The data cannot be decoded; the text says why.
    """
    buffer = np.frombuffer(data, np.uint8)
    if "compresseddepth" in format_.lower():
        buffer = buffer[DEPTH_HEADER_BYTES:]
    decoded = decode_image(buffer, scale=scale)
    if decoded is None:
        shown = printable(format_, 60) or "no format"
        raise ValueError(f"a compressed image ({shown}) cannot be decoded; expected JPEG, PNG or WebP")
    return decoded


def decode_message(message: Any, is_compressed: bool, scale: int = 1) -> tuple[Pixels, int]:
    """Return the pixels of a message and their scale; those of ROS and Foxglove have the same fields.

    Args:
        message: The message.
        is_compressed: It is a compressed image.
        scale: Wanted reduction of each side; only JPEGs can be decoded smaller.

    Raises:
        ValueError: As `decode_raw` and `decode_compressed`.
    """
    if is_compressed:
        return decode_compressed(message.format, message.data, scale)
    size, is_bigendian = (message.width, message.height), bool(getattr(message, "is_bigendian", False))
    return decode_raw(*size, message.encoding, message.step, message.data, is_bigendian), 1


def _find_layout(encoding: str) -> _Layout:
    """Return the layout of an encoding.

    Raises:
        ValueError: The encoding is unknown.
    """
    name = encoding.lower()
    if match := re.fullmatch(r"(mono|rgba?|bgra?)(8|16)", name):
        channels, to_bgr = _NAMED_CHANNELS[match[1]]
        return _Layout(np.uint16 if match[2] == "16" else np.uint8, channels, to_bgr)
    if match := re.fullmatch(r"bayer_(rggb|bggr|gbrg|grbg)(8|16)", name):
        return _Layout(np.uint16 if match[2] == "16" else np.uint8, 1, _BAYER[match[1]])
    if match := re.fullmatch(r"(8U|16U|16S|32F)C?([134]?)", encoding.upper()):
        channels = int(match[2] or 1)
        return _Layout(_OPENCV_TYPES[match[1]], channels, cv2.COLOR_BGRA2BGR if channels == 4 else None)
    if name in _PACKED_YUV:
        return _Layout(np.uint8, 2, _PACKED_YUV[name])
    if name in _PLANAR_YUV:
        return _Layout(np.uint8, 1, _PLANAR_YUV[name], is_planar=True)
    raise ValueError(f"unknown encoding {printable(encoding, 60)!r}; expected one of {KNOWN_ENCODINGS}")
