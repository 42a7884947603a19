"""Places on earth, against made flights whose truth is known from a camera model of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import (
    ATTITUDE_SD_DEG,
    HEADING_SD_DEG,
    HEIGHT_SD_M,
    POSITION_SD_M,
    Attitude,
    Geolocator,
    GeoPoint,
    PoseHistory,
    Position,
    euler_to_rotation,
    quaternion_to_rotation,
)
from edge.postprocessing.regions import Region
from edge.simulation.camera import SceneCamera

HOME = 47.3769, 8.5417
WIDTH, HEIGHT = 1280, 720
ASPECT = HEIGHT / WIDTH
STILL = np.zeros(3)


class View(NamedTuple):
    """What a camera of the simulation sees of a target on the ground, and the pose of its vehicle."""

    region: Region
    position: Position
    yaw: float
    pitch: float
    roll: float
    fov_deg: float
    target: NDArray[np.float64]


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Return the length of a degree of latitude and of longitude: the series of the WGS84 ellipsoid."""
    phi = math.radians(latitude_deg)
    north = 111_132.954 - 559.822 * math.cos(2 * phi) + 1.175 * math.cos(4 * phi)
    return north, 111_412.84 * math.cos(phi) - 93.5 * math.cos(3 * phi) + 0.118 * math.cos(5 * phi)


def spot(x: float, y: float, size: float = 0.0, coasting: bool = False) -> Region:
    return Region(x, y, x - size, y - size, x + size, y + size, 0.9, 1, 1.0, coasting)


def make_views(count: int, seed: int = 0) -> list[View]:
    """Return views of targets that are inside the frame, with a camera fixed to the vehicle's axes."""
    rng = np.random.default_rng(seed)
    views: list[View] = []
    while len(views) < count:
        height, fov = rng.uniform(30, 150), math.radians(rng.uniform(40, 90))
        yaw, pitch, roll = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.4), rng.uniform(-0.3, 0.3)
        east, north = rng.uniform(-200, 200, 2)
        camera = SceneCamera.from_angles(
            np.array([east, north, height]), yaw, pitch, roll, WIDTH / 2 / math.tan(fov / 2), WIDTH, HEIGHT
        )
        target = np.array([*rng.uniform(-300, 300, 2), 0])
        pixel, depth = camera.project(target)
        if depth < 1 or not (0 <= pixel[0] <= WIDTH and 0 <= pixel[1] <= HEIGHT):
            continue
        per_north, per_east = metres_per_degree(HOME[0])
        latitude, longitude = HOME[0] + north / per_north, HOME[1] + east / per_east
        position = Position(0, latitude, longitude, 400 + height, height, STILL)
        region = spot(pixel[0] / WIDTH, pixel[1] / HEIGHT)
        views.append(View(region, position, yaw, -pitch, roll, math.degrees(fov), target))
    return views


def poses_of(
    position: Position, rotation: NDArray[np.float64], rate: NDArray[np.float64] = STILL
) -> PoseHistory:
    poses = PoseHistory()
    poses.add_position(position)
    poses.add_attitude(Attitude(position.time_s, rotation, rate))
    return poses


def error_m(point: GeoPoint, target: NDArray[np.float64]) -> float:
    per_north, per_east = metres_per_degree(HOME[0])
    north, east = (point.latitude_deg - HOME[0]) * per_north, (point.longitude_deg - HOME[1]) * per_east
    return math.hypot(east - target[0], north - target[1])


@pytest.mark.parametrize("way", ["airframe", "mount", "gimbal to north", "gimbal to the vehicle"])
def test_place_is_that_of_the_target_however_the_camera_is_mounted(way: str) -> None:
    for view in make_views(50):
        rotation = euler_to_rotation(view.roll, view.pitch, view.yaw)
        camera, on_gimbal = CameraGeometry(view.fov_deg), way.startswith("gimbal")
        poses = poses_of(view.position, rotation)
        if way == "mount":  # the vehicle is level
            angles = math.degrees(view.pitch), 0.0, math.degrees(view.roll)
            camera = CameraGeometry(view.fov_deg, *angles)
            poses = poses_of(view.position, euler_to_rotation(0, 0, view.yaw))
        elif on_gimbal:  # the vehicle banks and looks elsewhere; the gimbal is level
            poses = poses_of(view.position, euler_to_rotation(0.4, 0.2, 1.0))
            is_relative = way.endswith("vehicle")
            yaw = view.yaw - 1.0 if is_relative else view.yaw
            poses.add_gimbal(Attitude(0, euler_to_rotation(view.roll, view.pitch, yaw), STILL, is_relative))
        point = Geolocator(camera, poses, on_gimbal).locate(view.region, 0, ASPECT)
        assert point is not None
        assert error_m(point, view.target) < 0.05
        assert point.altitude_m == pytest.approx(400)
        assert point.distance_m == pytest.approx(
            math.hypot(view.position.height_m, *(_offset_of(view))), rel=1e-3
        )


def _offset_of(view: View) -> tuple[float, float]:
    """Return how far east and north of the vehicle the target is."""
    per_north, per_east = metres_per_degree(HOME[0])
    east = (view.position.longitude_deg - HOME[1]) * per_east
    north = (view.position.latitude_deg - HOME[0]) * per_north
    return view.target[0] - east, view.target[1] - north


def test_expected_error_is_that_of_poses_with_the_assumed_errors() -> None:
    rng, shares = np.random.default_rng(1), []
    per_north, per_east = metres_per_degree(HOME[0])
    for view in make_views(400, seed=2):
        north, east = rng.normal(0, POSITION_SD_M / math.sqrt(2), 2)
        height = view.position.height_m + rng.normal(0, HEIGHT_SD_M)
        position = replace(
            view.position,
            latitude_deg=view.position.latitude_deg + north / per_north,
            longitude_deg=view.position.longitude_deg + east / per_east,
            height_m=height,
            altitude_m=400 + height,
        )
        turned = rng.normal(0, math.radians(ATTITUDE_SD_DEG), 3)
        heading = view.yaw + rng.normal(0, math.radians(HEADING_SD_DEG))
        rotation = euler_to_rotation(view.roll + turned[0], view.pitch + turned[1], heading)
        locator = Geolocator(CameraGeometry(view.fov_deg), poses_of(position, rotation))
        if (point := locator.locate(view.region, 0, ASPECT)) is not None:
            shares.append(error_m(point, view.target) / point.accuracy_m)
    assert len(shares) > 350
    assert 0.75 < math.sqrt(np.mean(np.square(shares))) < 1.25
    assert np.mean(np.array(shares) < 2) > 0.9


def test_pose_is_moved_on_to_the_time_of_the_frame() -> None:
    camera = CameraGeometry(60, pitch_deg=-60)
    velocity, rate = np.array([12.0, -5.0, 1.5]), np.array([0.0, 0.0, 0.6])
    start = Position(10.0, *HOME, 480, 80, velocity)
    moved_m = velocity * 0.2
    per_north, per_east = metres_per_degree(HOME[0])
    there = Position(
        10.2,
        HOME[0] + moved_m[0] / per_north,
        HOME[1] + moved_m[1] / per_east,
        480 - moved_m[2],
        80 - moved_m[2],
        velocity,
    )
    early = Geolocator(camera, poses_of(start, euler_to_rotation(0, 0, 1), rate))
    exact = Geolocator(camera, poses_of(there, euler_to_rotation(0, 0, 1.12), rate))
    expected, point = (locator.locate(spot(0.6, 0.4), 10.2, ASPECT) for locator in (exact, early))
    assert expected is not None
    assert point is not None
    assert point.latitude_deg == pytest.approx(expected.latitude_deg, abs=1e-7)
    assert point.longitude_deg == pytest.approx(expected.longitude_deg, abs=1e-7)
    late_stamps = Geolocator(camera, early.poses, delay_s=0.5)
    assert late_stamps.locate(spot(0.6, 0.4), 10.7, ASPECT) == point


def test_delay_of_ten_seconds_finds_its_poses_at_a_hundred_per_second() -> None:
    poses, level = PoseHistory(), euler_to_rotation(0, -0.7, 0)
    for index in range(1200):
        poses.add_position(Position(index / 100, *HOME, 400 + index, index, STILL))
        poses.add_attitude(Attitude(index / 100, level, STILL))
    point = Geolocator(CameraGeometry(60), poses, delay_s=10).locate(spot(0.5, 0.5), 11.0, ASPECT)
    assert point is not None
    assert point.distance_m == pytest.approx(100 / math.sin(0.7)), "the height of one second after the start"


def test_ground_at_a_given_height_is_used_instead_of_home() -> None:
    poses = poses_of(Position(0, *HOME, 500, 40, STILL), euler_to_rotation(0, -math.pi / 4, 0))
    point = Geolocator(CameraGeometry(60), poses, ground_m=400).locate(spot(0.5, 0.5), 0, ASPECT)
    assert point is not None
    assert point.altitude_m == 400
    assert point.distance_m == pytest.approx(100 * math.sqrt(2))
    assert point.heading_deg == pytest.approx(0, abs=1e-9)
    assert (point.latitude_deg - HOME[0]) * metres_per_degree(HOME[0])[0] == pytest.approx(100, abs=0.1)


def locate(**changes: object) -> GeoPoint | None:
    """Return the place of a region in front of a level flight, with some things changed."""
    values = {"time_s": 0.0, "latitude": HOME[0], "height": 80.0, "pitch": -0.7, "y": 0.5, "coasting": False}
    values |= changes  # type: ignore[arg-type]
    position = Position(0.0, values["latitude"], HOME[1], 400 + values["height"], values["height"], STILL)
    poses = poses_of(position, euler_to_rotation(0, values["pitch"], 0))
    poses.has_fix = bool(values.get("fix", True))
    region = spot(0.5, values["y"], 0.0, bool(values["coasting"]))
    return Geolocator(CameraGeometry(60), poses).locate(region, values["time_s"], ASPECT)


def test_no_coordinate_is_better_than_a_wrong_one() -> None:
    assert locate() is not None
    assert locate(time_s=0.31) is None, "the attitude is old"
    assert locate(time_s=-0.31) is None
    assert locate(pitch=0.0) is None, "the horizon"
    assert locate(pitch=-0.04) is None, "just below the horizon"
    assert locate(pitch=0.3, y=0.0) is None, "the sky"
    assert locate(pitch=-0.1, y=0.0) is None, "the sky at the top of the frame"
    assert locate(height=5.0) is None, "the error of the height is as large as the height"
    assert locate(height=-20.0) is None, "below the ground"
    assert locate(coasting=True) is None
    assert locate(fix=False) is None
    assert locate(latitude=89.9) is None
    assert Geolocator(CameraGeometry(60), PoseHistory()).locate(spot(0.5, 0.5), 0, ASPECT) is None
    only_vehicle = poses_of(Position(0, *HOME, 480, 80, STILL), euler_to_rotation(0, -0.7, 0))
    assert Geolocator(CameraGeometry(60), only_vehicle, on_gimbal=True).locate(spot(0.5, 0.5), 0, 1) is None


def test_error_grows_towards_the_horizon_with_rotation_and_with_the_region() -> None:
    errors = [point.accuracy_m for pitch in (-1.5, -1.0, -0.5, -0.2) if (point := locate(pitch=pitch))]
    assert len(errors) == 4
    assert errors == sorted(errors)
    position, level = Position(0, *HOME, 480, 80, STILL), euler_to_rotation(0, -0.7, 0)
    steady, turning = (
        Geolocator(CameraGeometry(60), poses_of(position, level, rate)) for rate in (STILL, np.ones(3))
    )
    points = [
        steady.locate(spot(0.5, 0.5), 0, ASPECT),
        steady.locate(spot(0.5, 0.5, 0.2), 0, ASPECT),
        turning.locate(spot(0.5, 0.5), 0, ASPECT),
    ]
    small, large, turned = (point.accuracy_m for point in points if point)
    assert small < large
    assert small < turned


def test_longitude_goes_on_across_the_date_line() -> None:
    poses = poses_of(Position(0, -17.0, 179.9999, 100, 100, STILL), euler_to_rotation(0, -0.7, math.pi / 2))
    point = Geolocator(CameraGeometry(60), poses).locate(spot(0.5, 0.5), 0, ASPECT)
    assert point is not None
    assert -180 <= point.longitude_deg < -179.99


def test_gimbal_that_looks_straight_down_has_no_singular_angle() -> None:
    half = math.sqrt(0.5)
    rotation = quaternion_to_rotation(half, 0, -half, 0)
    assert rotation is not None
    poses = poses_of(Position(0, *HOME, 500, 100, STILL), euler_to_rotation(0, 0, 0))
    poses.add_gimbal(Attitude(0, rotation, STILL))
    point = Geolocator(CameraGeometry(90), poses, on_gimbal=True).locate(spot(0.5, 0.0), 0, 1.0)
    assert point is not None
    assert (point.latitude_deg - HOME[0]) * metres_per_degree(HOME[0])[0] == pytest.approx(100, abs=0.1)
    assert quaternion_to_rotation(0, 0, 0, 0) is None
    assert quaternion_to_rotation(math.nan, 0, 0, 0) is None


@pytest.mark.parametrize(
    ("pitch", "roll", "expected"),
    [
        (0, 0, ((0, 0.5), (1, 0.5))),
        (
            -10,
            0,
            ((0, 0.5 - 0.5 * math.tan(math.radians(10)) / ASPECT), (1, 0.343)),
        ),  # looks down: it is higher
        (0, 90, ((0.5, 0), (0.5, 1))),
        (-60, 0, None),
    ],
)
def test_horizon_is_where_rays_are_level(
    pitch: float, roll: float, expected: tuple[tuple[float, float], tuple[float, float]] | None
) -> None:
    poses, camera = PoseHistory(), CameraGeometry(90)
    locator = Geolocator(camera, poses)
    assert locator.horizon(0.0, ASPECT) is None, "no pose"
    rotation = euler_to_rotation(math.radians(roll), math.radians(pitch), math.radians(30))
    poses.add_attitude(Attitude(0.0, rotation, STILL))
    horizon = locator.horizon(0.0, ASPECT)
    assert (horizon is None) == (expected is None)
    for point, wanted in zip(horizon or (), expected or (), strict=True):
        assert point == pytest.approx(wanted, abs=1e-3)
        assert (rotation @ camera.ray(*point, ASPECT))[2] == pytest.approx(0, abs=1e-9)
    assert locator.horizon(10.0, ASPECT) is None, "an old pose"
