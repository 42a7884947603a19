"""MAVLink sink: camera tracking, gimbal control and the link that carries them."""
