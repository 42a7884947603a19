"""Reads calibration frames and feeds them to graphs."""
