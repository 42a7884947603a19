"""TensorRT's calibration cache: scales as text, for DLA on TensorRT 10.x, which knows no Q/DQ.

The first line is `TRT-<version>-EntropyCalibration2`; then a line a tensor, `name: hex`, the hex being the
scale (largest magnitude / 127) as big-endian IEEE 754 single precision. TensorRT reads such a file only
if the version is its own (10.3.0 is 100300, as its NV_TENSORRT_VERSION).
"""

from __future__ import annotations

import re
import struct

from edge.core.errors import InputError
from edge.release.quantization import TensorRanges

DEFAULT_TENSORRT_VERSION = "10.3.0"
"""JetPack 6's, the last for many boards with a DLA."""
_MIN_SCALE = 2.0**-126


def format_cache(ranges: TensorRanges, version: str = DEFAULT_TENSORRT_VERSION) -> str:
    """Return the calibration cache of these ranges, in their order.

    Raises:
        InputError: the version is none of TensorRT 10, the only one that reads Q/DQ and such a cache.
    """
    found = re.fullmatch(r"(10)\.(\d{1,2})\.(\d{1,2})", version)
    if found is None:
        raise InputError(
            f"TensorRT version {version!r} reads no calibration cache that we write; "
            f"expected that of the board, 10.x.y such as {DEFAULT_TENSORRT_VERSION}"
        )
    major, minor, patch = map(int, found.groups())
    lines = [f"TRT-{major * 10000 + minor * 100 + patch}-EntropyCalibration2"]
    for name, (low, high) in ranges.items():
        scale = max(abs(low), abs(high)) / 127
        lines.append(f"{name}: {struct.pack('>f', max(scale, _MIN_SCALE)).hex()}")
    return "\n".join(lines) + "\n"


def parse_scales(text: str) -> dict[str, float]:
    """Return the scale of each tensor in a calibration cache.

    Raises:
        InputError: it is none.
    """
    header, *lines = text.splitlines() or [""]
    found = {}
    try:
        if not re.fullmatch(r"TRT-\d+-EntropyCalibration2", header):
            raise ValueError(header)
        for line in lines:
            name, _, digits = line.rpartition(": ")
            (found[name],) = struct.unpack(">f", bytes.fromhex(digits))
    except (ValueError, struct.error):
        raise InputError(
            "this is no TensorRT calibration cache; expected TRT-...-EntropyCalibration2"
        ) from None
    return found
