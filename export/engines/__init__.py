"""Compiles graphs to TensorRT engines."""
