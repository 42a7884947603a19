"""Builds TensorRT engines from the graphs of a release or of a calibrated ONNX file."""
