"""Random small ONNX networks, written in the ways in which exporters write them, and their check."""
