"""Measurement in turns, intervals that hold while one looks, and verdicts."""
