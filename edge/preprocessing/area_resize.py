"""Resizing by area: an output pixel is the mean of the input pixels that it covers, weighted at its edges."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image

MIN_LANE_PIXELS = 2**16
"""From this many input pixels on, sums in 16-bit lanes are faster than OpenCV's means. Grey images have the
same limit, so that they are rounded as the green channel is."""
MAX_PERIOD = 16
"""If weights repeat themselves after this many pixels or fewer, products with their matrix are faster than
OpenCV's means if both sides shrink. They are also too small for NumPy's BLAS to start threads, which would
wait actively."""
MIN_PIXELS_PER_MEAN = 16
"""From this many input pixels per output pixel on, a summed-area table is at least as fast as summation."""
MAX_PIXELS = 2**31 // 256
"""Largest image whose sum of bytes fits in an int32. A table of doubles would be slower than OpenCV."""


def resize_by_area(image: Image, width: int, height: int) -> Image:
    """Resize an image by area. A side that grows is interpolated.

    The way depends on the sizes. All ways give the same means. If a mean lies half-way between two grey
    levels, they may round it differently; this changes up to two pixels in a hundred.

    - OpenCV halves images, interpolates, and resizes small images by integer factors.
    - Other small images are multiplied with matrices of the pixels' weights, which repeat themselves across
      the image. This takes half of OpenCV's time from 256 x 144 to 64 x 64.
    - Means of up to 257 parts are summed in 16-bit lanes. The edges of means divide pixels into equal parts:
      a mean of 7.5 x 7.5 pixels has 15 x 15 parts. This takes 0.6 of OpenCV's time from 1280 x 720 to
      256 x 144, and 0.4 from 1920 x 1080.
    - Larger means are read from a summed-area table (Crow, SIGGRAPH 1984): a third of OpenCV's time from
      640 x 360 to 64 x 64.
    - What is left is OpenCV's. It gives the same result for floating-point colours in three quarters of the
      time.

    Args:
        image: Image (H, W, 3) or (H, W), uint8.
        width: Width of the result.
        height: Height of the result.

    Returns:
        Image (height, width, 3) or (height, width), uint8.
    """
    rows, columns = image.shape[:2]
    is_integer_factor = rows % height == columns % width == 0
    is_halving = (rows, columns) == (2 * height, 2 * width)
    if rows < height or columns < width or is_halving:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
    parts = rows * columns // (gcd(rows, height) * gcd(columns, width))
    if rows * columns >= MIN_LANE_PIXELS and 255 * parts < 2**16:
        return _mean_in_lanes(image, width, height, parts)
    if not is_integer_factor and max(rows // gcd(rows, height), columns // gcd(columns, width)) <= MAX_PERIOD:
        return _mean_by_products(image, width, height, parts)
    if not is_integer_factor and MIN_PIXELS_PER_MEAN * height * width <= rows * columns <= MAX_PIXELS:
        return _mean_from_table(image, width, height)
    if is_integer_factor or image.ndim == 2:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
    means = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(means, out=means).astype(np.uint8)


def _mean_in_lanes(image: Image, width: int, height: int, parts: int) -> Image:
    """Return the means by sums of 16 bits. An integer of 64 bits holds the sums of a pixel's channels.

    Args:
        image: The image.
        width: Width of the result.
        height: Height of the result.
        parts: Parts of pixels per mean. If a mean covers 7.5 rows, it consists of 15 halves of rows.
    """
    rows, columns = image.shape[:2]
    period = rows // gcd(rows, height)
    lines = _sum_cells(image.reshape(rows // period, period, -1), height * period // rows, np.uint16)
    sums: NDArray[Any] = lines.reshape(height, columns, *image.shape[2:])
    if image.ndim == 3:
        # The highest lane is filled up. Its sum overflows, but not into another lane.
        sums = cv2.cvtColor(sums, cv2.COLOR_BGR2BGRA).view(np.uint64)
    period = columns // gcd(columns, width)
    pixels = sums.reshape(height * columns // period, period, 1)
    sums = _sum_cells(pixels, width * period // columns, sums.dtype.type).view(np.uint16)
    means = cv2.convertScaleAbs(sums.reshape(height, width, -1), alpha=1 / parts)
    return cv2.cvtColor(means, cv2.COLOR_BGRA2BGR) if image.ndim == 3 else means  # type: ignore[return-value]


def _sum_cells(pixels: NDArray[Any], cells: int, dtype: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """Return the sums of equal cells of lines of pixels.

    Args:
        pixels: Array (N, length, M): N groups of lines, with M values side by side.
        cells: Cells per group. Each pixel counts as so many parts, so that cells have whole parts.
        dtype: Type of the sums.

    Returns:
        Array (N, cells, M).
    """
    groups, length, values = pixels.shape
    sums = np.zeros((groups, cells, values), dtype)
    for cell in range(cells):
        start, end = cell * length, (cell + 1) * length  # in parts
        first, last = -(-start // cells), end // cells  # whole pixels
        cell_sums = sums[:, cell]
        if values > 1:
            np.add.reduce(pixels[:, first:last], axis=1, dtype=dtype, out=cell_sums)
        else:  # NumPy reduces short lines one by one
            for pixel in range(first, last):
                cell_sums += pixels[:, pixel]
        if cells > 1:
            cell_sums *= dtype(cells)
        if first * cells > start:
            cell_sums += np.multiply(pixels[:, first - 1], dtype(first * cells - start), dtype=dtype)
        if last * cells < end:
            cell_sums += np.multiply(pixels[:, last], dtype(end - last * cells), dtype=dtype)
    return sums


def _mean_by_products(image: Image, width: int, height: int, parts: int) -> Image:
    """Return the means by products with matrices of weights, first down, then across.

    The weights are integers and the sums below 2^24, so that floats hold them exactly in any order.

    Args:
        image: The image.
        width: Width of the result.
        height: Height of the result.
        parts: Parts of pixels per mean, as for `_mean_in_lanes`.
    """
    rows, columns = image.shape[:2]
    bands, repeats = gcd(rows, height), gcd(columns, width)
    channels = image.shape[2] if image.ndim == 3 else 1
    pixels = image.astype(np.float32).reshape(bands, rows // bands, columns * channels)
    lines = _weights(rows // bands, height // bands, 1).T @ pixels
    period = columns // repeats
    lines = lines.reshape(bands, -1, period * channels)
    sums = lines @ _weights(period, width // repeats, channels)
    sums *= np.float32(1 / parts)
    means: Image = np.rint(sums, out=sums).astype(np.uint8)
    return means.reshape(height, width, *image.shape[2:])


@lru_cache(maxsize=16)
def _weights(length: int, cells: int, channels: int) -> NDArray[np.float32]:
    """Return the parts of each pixel of a line in equal cells: (length * channels, cells * channels)."""
    pixel, cell = np.arange(length)[:, None] * cells, np.arange(cells) * length  # starts, in parts
    parts = np.minimum(pixel + cells, cell + length) - np.maximum(pixel, cell)
    return np.kron(np.maximum(parts, 0), np.eye(channels)).astype(np.float32)


def _mean_from_table(image: Image, width: int, height: int) -> Image:
    """Return the means as differences of a summed-area table at the edges of the output pixels."""
    rows, columns = image.shape[:2]
    table = cv2.integral(image, sdepth=cv2.CV_32S)  # (H + 1, W + 1, ...): sums above and to the left
    top, below, row_fraction = _cell_edges(rows, height)
    left, right, column_fraction = _cell_edges(columns, width)
    channels = (1,) * (image.ndim - 2)

    def sums_at(rows_at: NDArray[np.intp]) -> NDArray[np.float64]:
        lines = table.take(rows_at, axis=0)
        sums = lines.take(left, axis=1).astype(np.float64)
        if not column_fraction.any():
            return sums
        return sums + (lines.take(right, axis=1) - sums) * column_fraction.reshape(-1, *channels)

    sums = sums_at(top)
    if row_fraction.any():
        sums += (sums_at(below) - sums) * row_fraction.reshape(-1, 1, *channels)
    cell_sums = np.diff(np.diff(sums, axis=0), axis=1)
    means: Image = np.rint(cell_sums * (height * width / (rows * columns))).astype(np.uint8)
    return means


@lru_cache(maxsize=16)
def _cell_edges(size: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the edges of equal parts of a side: the pixel of each edge, the next pixel, and the fraction."""
    position = np.arange(cells + 1) * size
    pixel = position // cells
    return pixel, np.minimum(pixel + 1, size), position % cells / cells
