"""MAVLink sinks: camera tracking, gimbal control and the link under them."""
