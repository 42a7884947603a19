"""Calibration frames and the graphs that they are fed to."""
