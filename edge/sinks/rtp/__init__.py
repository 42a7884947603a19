"""RTP sink: H.264 video for a ground station, encoded by GStreamer in a process of its own."""
