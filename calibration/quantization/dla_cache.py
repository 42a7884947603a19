"""TensorRT calibration cache: scales as text, for the DLA on TensorRT 10.x, which does not support Q/DQ.

The first line is `TRT-<version>-EntropyCalibration2`. Each further line is `name: hex`, one per tensor. The
hexadecimal digits are the scale (largest magnitude / 127) as a big-endian IEEE 754 single-precision number.
TensorRT reads such a file only if the version is its own (NV_TENSORRT_VERSION: 100300 for 10.3.0).
"""

from __future__ import annotations

import re
import struct

from edge.core.errors import InputError
from edge.release.quantization import TensorRanges

DEFAULT_TENSORRT_VERSION = "10.3.0"
"""Version in JetPack 6, the last JetPack for many boards with a DLA."""
_MIN_SCALE = 2.0**-126


def format_cache(ranges: TensorRanges, version: str = DEFAULT_TENSORRT_VERSION) -> str:
    """Return the text of the calibration cache of these ranges, in their order.

    Raises:
        InputError: If the version is not a TensorRT 10, the only one that reads both Q/DQ and such a cache.
    """
    match = re.fullmatch(r"(10)\.(\d{1,2})\.(\d{1,2})", version)
    if match is None:
        raise InputError(
            f"TensorRT version {version!r} does not read this calibration cache; "
            f"expected the version on the board, 10.x.y such as {DEFAULT_TENSORRT_VERSION}"
        )
    major, minor, patch = map(int, match.groups())
    lines = [f"TRT-{major * 10000 + minor * 100 + patch}-EntropyCalibration2"]
    for name, (low, high) in ranges.items():
        scale = max(abs(low), abs(high)) / 127
        lines.append(f"{name}: {struct.pack('>f', max(scale, _MIN_SCALE)).hex()}")
    return "\n".join(lines) + "\n"


def parse_scales(text: str) -> dict[str, float]:
    """Return the scale of each tensor in the text of a calibration cache.

    Raises:
        InputError: If the text is not a calibration cache.
    """
    header, *lines = text.splitlines() or [""]
    scales = {}
    try:
        if not re.fullmatch(r"TRT-\d+-EntropyCalibration2", header):
            raise ValueError(header)
        for line in lines:
            name, _, digits = line.rpartition(": ")
            (scales[name],) = struct.unpack(">f", bytes.fromhex(digits))
    except (ValueError, struct.error):
        raise InputError(
            "the text is not a TensorRT calibration cache; expected TRT-...-EntropyCalibration2: write it "
            "again with aerogaze calibrate"
        ) from None
    return scales
