"""Sink that publishes to ROS 2."""
