from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.sources.ros.encodings import DEPTH_HEADER_BYTES, decode_compressed, decode_raw

IMAGE = np.random.default_rng(0).integers(0, 255, (8, 12, 3)).astype(np.uint8)
SMOOTH = np.full((8, 12, 3), (200, 120, 40), np.uint8)
DEEP = (IMAGE[..., 0].astype(np.uint16) << 8) + 3


def decode(pixels: NDArray[Any], encoding: str, padding: int = 0, **settings: Any) -> NDArray[Any]:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)))
    height = pixels.shape[0] * 2 // 3 if encoding.startswith("nv") else pixels.shape[0]
    return decode_raw(pixels.shape[1], height, encoding, padded.shape[1], padded.tobytes(), **settings)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("pixels", "encoding", "expected"),
    [
        (IMAGE, "bgr8", IMAGE),
        (IMAGE[..., ::-1], "rgb8", IMAGE),
        (IMAGE, "8UC3", IMAGE),
        (cv2.cvtColor(IMAGE, cv2.COLOR_BGR2RGBA), "rgba8", IMAGE),
        (cv2.cvtColor(IMAGE, cv2.COLOR_BGR2BGRA), "bgra8", IMAGE),
        (IMAGE[..., 1], "mono8", IMAGE[..., 1]),
        (IMAGE[..., 1], "8UC1", IMAGE[..., 1]),
        (DEEP, "mono16", DEEP),
        (DEEP, "16UC1", DEEP),
        (DEEP.astype(np.int16), "16SC1", DEEP.astype(np.int16)),
        (DEEP.astype(np.float32), "32FC1", DEEP.astype(np.float32)),
        (np.dstack([DEEP] * 3)[..., ::-1], "rgb16", np.dstack([DEEP] * 3)),
    ],
)
def test_raw_encoding_is_decoded(
    pixels: NDArray[Any], encoding: str, expected: NDArray[Any], padding: int
) -> None:
    decoded = decode(pixels, encoding, padding)
    assert decoded.dtype == expected.dtype
    np.testing.assert_array_equal(decoded, expected)


def test_high_byte_first_is_swapped() -> None:
    np.testing.assert_array_equal(decode(DEEP.astype(">u2"), "mono16", is_bigendian=True), DEEP)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_bayer_pattern_gives_its_colour(pattern: str, dtype: type, bits: int) -> None:
    colours = dict(zip("bgr", SMOOTH[0, 0], strict=True))
    mosaic: NDArray[Any] = np.empty((8, 12), dtype)
    for place, channel in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = colours[channel]
    decoded = decode(mosaic, f"bayer_{pattern}{bits}")
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], SMOOTH[2:-2, 2:-2])


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("yuv422", cv2.COLOR_BGR2YUV_UYVY),
        ("uyvy", cv2.COLOR_BGR2YUV_UYVY),
        ("yuv422_yuy2", cv2.COLOR_BGR2YUV_YUY2),
    ],
)
def test_packed_yuv_is_decoded(encoding: str, code: int) -> None:
    decoded = decode(cv2.cvtColor(SMOOTH, code), encoding)
    assert np.abs(decoded.astype(int) - SMOOTH).max() <= 3


@pytest.mark.parametrize(("encoding", "first"), [("nv12", 1), ("nv21", 2)])
def test_planar_yuv_is_decoded(encoding: str, first: int) -> None:
    planes = cv2.cvtColor(SMOOTH, cv2.COLOR_BGR2YUV_I420)
    u, v = planes[8:10].reshape(-1), planes[10:12].reshape(-1)
    chroma = np.dstack([u, v] if first == 1 else [v, u]).reshape(4, 12)
    decoded = decode(np.vstack([planes[:8], chroma]), encoding)
    assert decoded.shape == SMOOTH.shape
    assert np.abs(decoded.astype(int) - SMOOTH).max() <= 3


@pytest.mark.parametrize(
    ("width", "encoding", "step", "data", "message"),
    [
        (12, "jpeg2000", 36, bytes(288), "unknown encoding 'jpeg2000'; expected one of rgb8, bgr8"),
        (12, "mono\x1b[2J", 36, bytes(288), "unknown encoding 'mono�.2J'"),
        (12, "bgr8", 36, bytes(100), "100 bytes do not hold 12x8 pixels of bgr8"),
        (12, "bgr8", 12, bytes(288), "do not hold"),
        (0, "bgr8", 0, b"", "do not hold 0x8 pixels"),
        (11, "yuv422", 22, bytes(176), "11x8 is no size of yuv422"),
    ],
)
def test_bad_raw_image_is_named(width: int, encoding: str, step: int, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_raw(width, 8, encoding, step, data)


def test_compressed_images_keep_their_depth_and_jpegs_can_be_smaller() -> None:
    large = cv2.resize(SMOOTH, (64, 32))
    jpeg = cv2.imencode(".jpg", large)[1].tobytes()
    smaller, scale = decode_compressed("rgb8; jpeg compressed bgr8", jpeg, 4)
    assert (smaller.shape, scale) == ((8, 16, 3), 4)
    depth = bytes(DEPTH_HEADER_BYTES) + cv2.imencode(".png", DEEP)[1].tobytes()
    pixels, scale = decode_compressed("16UC1; compressedDepth png", depth, 4)
    assert scale == 1
    np.testing.assert_array_equal(pixels if pixels.ndim == 2 else pixels[..., 0], DEEP)


def test_compressed_image_of_another_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(h264\) cannot be decoded; expected JPEG, PNG or WebP"):
        decode_compressed("h264", b"\0\0\0\1abc")
