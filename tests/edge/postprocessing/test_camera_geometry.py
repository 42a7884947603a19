"""Bearing and elevation against angles worked out by hand."""

from __future__ import annotations

import pytest

from edge.postprocessing.camera_geometry import Camera

ROOT = 35.26438968  # arctan(1 / sqrt 2): the elevation of a cube's corner
CASES = [
    (Camera(90), (0.5, 0.5), 1, (0, 0)),
    (Camera(90), (1, 0.5), 1, (45, 0)),  # half the field of view
    (Camera(90), (0, 0.5), 1, (-45, 0)),
    (Camera(90), (0.5, 0), 1, (0, 45)),
    (Camera(90), (1, 0), 1, (45, ROOT)),  # the ray (1, 1, 1)
    (Camera(60), (0.75, 0.5), 1, (16.10211375, 0)),  # arctan(.5 tan 30 degrees)
    (Camera(90), (0.5, 1), 9 / 16, (0, -29.3577535)),  # arctan(9/16)
    (Camera(90, pitch_deg=-90), (0.5, 0.5), 1, (0, -90)),  # straight down
    (Camera(90, pitch_deg=-90), (0.5, 0), 1, (0, -45)),  # the upper rim is ahead
    (Camera(90, pitch_deg=-90), (1, 0.5), 1, (90, -45)),
    (Camera(90, pitch_deg=-45), (0.5, 0), 1, (0, 0)),
    (Camera(90, pitch_deg=30), (0.5, 0.5), 1, (0, 30)),
    (Camera(90, yaw_deg=90), (1, 0.5), 1, (135, 0)),
    (Camera(90, pitch_deg=-45, yaw_deg=-90), (0.5, 0.5), 1, (-90, -45)),
    (Camera(90, roll_deg=90), (1, 0.5), 1, (0, -45)),  # turned clockwise: its right is down
    (Camera(90, roll_deg=180), (1, 0.5), 1, (-45, 0)),
]


@pytest.mark.parametrize(("camera", "point", "aspect", "expected"), CASES)
def test_directions(
    camera: Camera, point: tuple[float, float], aspect: float, expected: tuple[float, float]
) -> None:
    bearing, elevation = camera.direction(*point, aspect)
    assert elevation == pytest.approx(expected[1], abs=1e-6)
    if abs(expected[1]) < 90:
        assert bearing == pytest.approx(expected[0], abs=1e-6)
