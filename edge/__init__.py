"""What flies: frames, preprocessing, engines, the pipeline, sinks, the profiler, the release."""

import os

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # ONNX Runtime else tells Microsoft of the machine, since 1.31
