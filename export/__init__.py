"""From a student to ONNX graphs per precision and engines: the release."""

import edge  # noqa: F401 (before ONNX Runtime: no telemetry)
