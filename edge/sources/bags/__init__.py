"""Bags of ROS 1 and ROS 2 and MCAP files: storages, messages and the source of frames."""
