"""On-device runtime: camera frames in, saliency maps out, and the tools that measure it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edge.core.lazy_exports import lazy_exports

# ONNX Runtime reads this when it is imported. Without it, version 1.31 stores an id of the machine and
# contacts Microsoft's host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenCV reads this when it is imported. By itself it decodes up to 2^30 pixels, which a file of some hundred
# kilobytes can hold; 134 million are more than any camera of a drone has.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

if TYPE_CHECKING:
    from edge.api import (
        CheckError,
        Frame,
        InputError,
        Picture,
        Region,
        Release,
        Result,
        SaliencyModel,
        ShownResult,
        Source,
        load_release,
        open_model,
        open_source,
        run_model,
    )

__all__ = [
    "CheckError",
    "Frame",
    "InputError",
    "Picture",
    "Region",
    "Release",
    "Result",
    "SaliencyModel",
    "ShownResult",
    "Source",
    "load_release",
    "open_model",
    "open_source",
    "run_model",
]

__getattr__, __dir__ = lazy_exports(__name__, dict.fromkeys(__all__, "edge.api"))
