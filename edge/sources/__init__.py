"""Sources of frames: videos, image folders, cameras, streams and the simulated world."""
