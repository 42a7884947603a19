"""Bearing and elevation, compared with angles calculated by hand."""

from __future__ import annotations

import pytest

from edge.postprocessing.camera_geometry import CameraGeometry

ROOT = 35.26438968  # arctan(1 / sqrt 2): the elevation of a cube's corner
CASES = [
    (CameraGeometry(90), (0.5, 0.5), 1, (0, 0)),
    (CameraGeometry(90), (1, 0.5), 1, (45, 0)),  # half the field of view
    (CameraGeometry(90), (0, 0.5), 1, (-45, 0)),
    (CameraGeometry(90), (0.5, 0), 1, (0, 45)),
    (CameraGeometry(90), (1, 0), 1, (45, ROOT)),  # the ray (1, 1, 1)
    (CameraGeometry(60), (0.75, 0.5), 1, (16.10211375, 0)),  # arctan(0.5 tan 30 degrees)
    (CameraGeometry(90), (0.5, 1), 9 / 16, (0, -29.3577535)),  # arctan(9/16)
    (CameraGeometry(90, pitch_deg=-90), (0.5, 0.5), 1, (0, -90)),  # straight down
    (CameraGeometry(90, pitch_deg=-90), (0.5, 0), 1, (0, -45)),  # the upper edge is ahead
    (CameraGeometry(90, pitch_deg=-90), (1, 0.5), 1, (90, -45)),
    (CameraGeometry(90, pitch_deg=-45), (0.5, 0), 1, (0, 0)),
    (CameraGeometry(90, pitch_deg=30), (0.5, 0.5), 1, (0, 30)),
    (CameraGeometry(90, yaw_deg=90), (1, 0.5), 1, (135, 0)),
    (CameraGeometry(90, pitch_deg=-45, yaw_deg=-90), (0.5, 0.5), 1, (-90, -45)),
    (CameraGeometry(90, roll_deg=90), (1, 0.5), 1, (0, -45)),  # rotated clockwise: its right is down
    (CameraGeometry(90, roll_deg=180), (1, 0.5), 1, (-45, 0)),
]


@pytest.mark.parametrize(("camera", "point", "aspect", "expected"), CASES)
def test_direction_equals_the_angles_calculated_by_hand(
    camera: CameraGeometry, point: tuple[float, float], aspect: float, expected: tuple[float, float]
) -> None:
    bearing, elevation = camera.direction(*point, aspect)
    assert elevation == pytest.approx(expected[1], abs=1e-6)
    if abs(expected[1]) < 90:
        assert bearing == pytest.approx(expected[0], abs=1e-6)
