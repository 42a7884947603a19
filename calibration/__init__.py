"""Calibration: activation ranges on real frames, and the Q/DQ nodes made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.lazy_exports import lazy_exports  # edge turns the telemetry of ONNX Runtime off

if TYPE_CHECKING:
    from calibration.inputs.calibration_frames import CalibrationFrames, read_frames
    from calibration.inputs.onnx_import import import_graph

__all__ = [
    "CalibrationFrames",
    "import_graph",
    "read_frames",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CalibrationFrames": "calibration.inputs.calibration_frames",
        "import_graph": "calibration.inputs.onnx_import",
        "read_frames": "calibration.inputs.calibration_frames",
    },
)
