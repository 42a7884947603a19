"""From a student to ONNX graphs per precision and engines: the release."""
