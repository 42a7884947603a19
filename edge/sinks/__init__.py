"""Outputs of a run: files, MAVLink messages and a live web page."""
