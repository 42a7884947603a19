"""From a student to ONNX graphs per precision."""
