"""Sinks that write files: JSON lines, map images and overlay videos."""
