"""Sinks: files, MAVLink, the live page. Each takes the results of a run."""
