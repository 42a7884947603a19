"""Ranges of activations over real frames, and the Q/DQ nodes made from them."""

import edge  # noqa: F401 (before ONNX Runtime: no telemetry)
