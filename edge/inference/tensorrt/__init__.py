"""Inference on TensorRT and TensorRT for RTX."""
