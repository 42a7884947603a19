"""Scenes of named kinds: harder places, light and sensors, with more of what attracts no gaze."""
