"""Measures latency, stages, layers, memory, energy and accuracy."""
