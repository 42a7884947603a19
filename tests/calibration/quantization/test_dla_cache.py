"""Tests of TensorRT calibration caches."""

from __future__ import annotations

import struct

import pytest

from calibration.quantization.dla_cache import format_cache, parse_scales
from edge.core.errors import InputError


def test_scales_of_a_written_cache_are_read_back() -> None:
    text = format_cache({"data": (-1.0, 0.5), "a: b/conv": (0.0, 254.0), "zero": (0.0, 0.0)}, "10.3.0")
    assert text.splitlines()[0] == "TRT-100300-EntropyCalibration2"
    assert text.splitlines()[1] == f"data: {struct.pack('>f', 1 / 127).hex()}"
    scales = parse_scales(text)
    assert scales["data"] == pytest.approx(1 / 127)
    assert scales["a: b/conv"] == 2.0
    assert scales["zero"] > 0


def test_cache_written_by_tensorrt_is_parsed() -> None:
    """From the documentation of NVIDIA's sample sampleINT8."""
    scales = parse_scales("TRT-7000-EntropyCalibration2\ndata: 3c008912\nconv1: 3c88edfc\nprob: 3c010a14\n")
    assert scales == pytest.approx({"data": 0.00784523, "conv1": 0.0167150, "prob": 0.00787594}, rel=1e-4)


@pytest.mark.parametrize("text", ["", "data: 3c008912", "TRT-1-EntropyCalibration2\ndata: zz"])
def test_text_that_is_not_a_cache_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a TensorRT calibration cache"):
        parse_scales(text)


@pytest.mark.parametrize("version", ["11.4.1", "10", "8.6.1", "10.3.x"])
def test_version_other_than_tensorrt_10_is_refused(version: str) -> None:
    with pytest.raises(InputError, match="does not read this calibration cache"):
        format_cache({}, version)
