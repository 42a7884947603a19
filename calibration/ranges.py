"""Ranges of activations over calibration frames, by ONNX Runtime's calibrators."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from edge.errors import InputError

Method = Literal["entropy", "percentile", "minmax"]
METHODS: tuple[Method, ...] = get_args(Method)
Feed = Mapping[str, NDArray[np.float32]]
Ranges = dict[str, tuple[float, float]]
"""Lowest and highest value of each tensor, by name."""

CHUNK = 16
"""Feeds whose activations are held in memory at once."""
_METHODS = {
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
    "minmax": CalibrationMethod.MinMax,
}


def collect_ranges(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    method: Method,
    on_feeds: Callable[[int], None] = lambda count: None,
) -> Ranges:
    """Run the fp32 graph over the feeds and return the range of every activation.

    Raises:
        InputError: no feeds, an unknown method, or an activation that is not finite.
    """
    if method not in METHODS:
        raise InputError(f"unknown calibration method {method!r}; expected one of {', '.join(METHODS)}")
    rest = iter(feeds)
    chunk = list(islice(rest, CHUNK))
    if not chunk:
        raise InputError("no calibration frames; expected real footage: give --frames SOURCE")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            op_types_to_calibrate=None,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=_METHODS[method],
        )
        while chunk:
            calibrator.collect_data(_Feeds(chunk))
            on_feeds(len(chunk))
            chunk = list(islice(rest, CHUNK))
        found = calibrator.compute_data()
    ranges = {}
    for name, data in found.data.items():
        low, high = (float(np.min(v)) for v in data.range_value)
        if not np.isfinite([low, high]).all():
            raise InputError(
                f"activation {name} is not finite on the calibration frames: the student is broken"
            )
        ranges[name] = (low, high)
    return ranges


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the calibrators from printing, and from warning of NaN: we look for it ourselves."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._rest: Iterator[Feed] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        feed = next(self._rest, None)
        return None if feed is None else dict(feed)
