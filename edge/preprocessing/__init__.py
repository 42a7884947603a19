"""Preprocessing of camera frames to network inputs."""
