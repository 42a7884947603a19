"""Writes, compares and draws what the profiler measured."""
