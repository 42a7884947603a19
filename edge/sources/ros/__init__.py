"""Images of robots: bags, and the encodings of ROS."""
