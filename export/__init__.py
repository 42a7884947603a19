"""Export of students to releases: ONNX graphs per precision, their verification, and TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.lazy_exports import lazy_exports  # edge turns the telemetry of ONNX Runtime off

if TYPE_CHECKING:
    from export.engines.build import build_engines, check_engines
    from export.engines.build_source import open_engine_source
    from export.release.builder import make_release
    from export.release.recalibrate import calibrate_graph, calibrate_release

__all__ = [
    "build_engines",
    "calibrate_graph",
    "calibrate_release",
    "check_engines",
    "make_release",
    "open_engine_source",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "build_engines": "export.engines.build",
        "calibrate_graph": "export.release.recalibrate",
        "calibrate_release": "export.release.recalibrate",
        "check_engines": "export.engines.build",
        "make_release": "export.release.builder",
        "open_engine_source": "export.engines.build_source",
    },
)
