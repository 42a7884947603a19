"""Chooses the layers that run in int8, by accuracy and latency."""
