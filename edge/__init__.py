"""What flies: frames, preprocessing, engines, the pipeline, sinks, the profiler, the release."""

import os

# Read when ONNX Runtime is imported: else 1.31 keeps an id of the machine, and looks for Microsoft's host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
