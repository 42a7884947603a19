"""Finds the ranges of activations on real frames, and makes int8 graphs with Q/DQ nodes from them."""

import edge  # noqa: F401 (before ONNX Runtime: edge disables its telemetry)
