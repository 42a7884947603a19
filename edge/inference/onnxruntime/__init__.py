"""Inference on ONNX Runtime."""
