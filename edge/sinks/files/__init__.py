"""Sinks that write files: JSON lines, map images, overlay videos."""
