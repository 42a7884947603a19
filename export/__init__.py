"""Exports students as releases: ONNX graphs in each precision, and TensorRT engines."""

import edge  # noqa: F401 (before ONNX Runtime, whose telemetry it disables)
