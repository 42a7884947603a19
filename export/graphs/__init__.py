"""Builds the ONNX graphs of a student or of a user's model in each precision."""
