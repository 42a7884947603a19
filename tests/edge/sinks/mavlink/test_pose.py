"""Poses from an autopilot, and the places on earth that the camera reports."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import Geolocator, PoseHistory
from edge.postprocessing.result import identity
from edge.sinks.files.geojson import GeojsonSink
from edge.sinks.files.jsonl import JsonlSink
from tests.conftest import Outcome
from tests.support.ground_station import VEHICLE, GroundStation, common
from tests.support.mavlink_flight import Flight, flying, region, result

GEO = "CAMERA_TRACKING_GEO_STATUS"
GEO_ID = common.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
LATITUDE, LONGITUDE = 473_769_000, 85_417_000
CAMERA = CameraGeometry(90, pitch_deg=-45)


class Autopilot:
    """Autopilot that hovers 100 m above its home and looks north; it speaks through a ground station."""

    def __init__(self, ground: GroundStation, component: int = 1, system: int = VEHICLE) -> None:
        self._ground, self._mav = ground, common.MAVLink(None, system, component)

    def send(self, message: Any) -> None:
        self._ground.write(bytes(message.pack(self._mav)))
        self._mav.seq = (self._mav.seq + 1) % 256

    def send_position(self, latitude: int = LATITUDE, longitude: int = LONGITUDE) -> None:
        message = common.MAVLink_global_position_int_message
        self.send(message(0, latitude, longitude, 500_000, 100_000, 0, 0, 0, 65535))

    def send_pose(self, yaw: float = 0.0) -> None:
        self.send_position()
        self.send(common.MAVLink_attitude_message(0, 0.0, 0.0, yaw, 0, 0, 0))


@pytest.fixture
def locator() -> Geolocator:
    return Geolocator(CAMERA, PoseHistory())


@pytest.fixture
def sortie(ground: GroundStation, locator: Geolocator) -> Iterator[Flight]:
    with flying(ground, locator=locator) as sortie:
        yield sortie


def geo_status(ground: GroundStation, sortie: Flight) -> Any | None:
    """Return the place that the camera reports for a region in the middle of the frame; None for none."""
    sortie.clock.advance(0.11)
    middle = result(region(0.5, 0.5), index=round(sortie.clock() * 30))
    sortie.sink.write(middle)
    statuses = [message for message in ground.flush() if message.get_type() == GEO]
    return statuses[-1] if statuses else None


def test_tracked_region_is_reported_with_its_place(ground: GroundStation, sortie: Flight) -> None:
    assert geo_status(ground, sortie) is None, "no pose yet"
    Autopilot(ground).send_pose(yaw=math.pi / 2)
    ground.flush()
    status = geo_status(ground, sortie)
    assert status is not None
    assert status.lat == pytest.approx(LATITUDE, abs=10)
    east_m = (status.lon - LONGITUDE) / 1e7 * 111_320 * math.cos(math.radians(47.3769))
    assert east_m == pytest.approx(100, abs=1), "45 degrees down from 100 m, to the east"
    assert (status.alt, status.dist) == (400, pytest.approx(141.4, abs=0.1))
    assert status.hdg == pytest.approx(math.pi / 2, abs=1e-3)
    assert 5 < status.h_acc < 50
    assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, GEO_ID) == common.MAV_RESULT_ACCEPTED
    assert ground.command(common.MAV_CMD_SET_MESSAGE_INTERVAL, GEO_ID, -1) == common.MAV_RESULT_ACCEPTED
    assert geo_status(ground, sortie) is None
    assert ground.command(common.MAV_CMD_CAMERA_STOP_TRACKING) == common.MAV_RESULT_ACCEPTED
    rejected = common.MAV_RESULT_TEMPORARILY_REJECTED
    assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, GEO_ID) == rejected


def test_old_and_foreign_poses_give_no_place(ground: GroundStation, sortie: Flight) -> None:
    Autopilot(ground, system=VEHICLE + 1).send_pose()  # another vehicle
    Autopilot(ground, component=191).send_pose()  # a companion computer
    ground.flush()
    assert geo_status(ground, sortie) is None
    autopilot = Autopilot(ground)
    autopilot.send_position(0, 0)  # what autopilots send before they know
    autopilot.send(common.MAVLink_attitude_message(0, math.nan, 0.0, 0.0, 0, 0, 0))
    ground.flush()
    assert geo_status(ground, sortie) is None
    autopilot.send_pose()
    ground.flush()
    assert geo_status(ground, sortie) is not None
    sortie.clock.advance(0.5)
    assert geo_status(ground, sortie) is None, "the pose is old"


def test_lost_fix_gives_no_place_and_reported_accuracy_is_used(ground: GroundStation, sortie: Flight) -> None:
    autopilot = Autopilot(ground)

    def report(fix_type: int, h_acc_mm: int) -> Any | None:
        satellites = 0, fix_type, LATITUDE, LONGITUDE, 500_000, 80, 80, 0, 0, 12
        autopilot.send(common.MAVLink_gps_raw_int_message(*satellites, 0, h_acc_mm, 2_000, 0, 0))
        autopilot.send_pose()
        ground.flush()
        return geo_status(ground, sortie)

    good, poor = report(6, 20), report(3, 25_000)
    assert good is not None
    assert poor is not None
    assert good.h_acc < poor.h_acc
    assert poor.h_acc > 25
    assert report(1, 0) is None
    assert report(0, 0) is not None, "no receiver: the position comes from elsewhere"


def test_quaternions_and_gimbals_are_read(ground: GroundStation) -> None:
    locator = Geolocator(CameraGeometry(90), PoseHistory(), on_gimbal=True)
    autopilot, half = Autopilot(ground), math.radians(-45) / 2
    with flying(ground, locator=locator) as sortie:
        autopilot.send_position()
        north = common.MAVLink_attitude_quaternion_message(0, 1, 0, 0, 0, 0, 0, 0)
        autopilot.send(north)
        ground.flush()
        assert geo_status(ground, sortie) is None, "no gimbal yet"
        flags = common.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME
        down = [math.cos(half), 0, math.sin(half), 0]
        nan = math.nan
        gimbal = Autopilot(ground, component=154)
        gimbal.send(
            common.MAVLink_gimbal_device_attitude_status_message(0, 0, 0, flags, down, nan, nan, nan, 0)
        )
        ground.flush()
        status = geo_status(ground, sortie)
        assert status is not None
        assert (status.lat - LATITUDE) / 1e7 * 111_180 == pytest.approx(100, abs=0.5)


def test_autopilot_is_asked_for_poses_until_they_come(ground: GroundStation, sortie: Flight) -> None:
    asked = {
        ground.wait("COMMAND_LONG", command=common.MAV_CMD_SET_MESSAGE_INTERVAL).param1 for _ in range(3)
    }
    assert asked == {24, 30, 33}
    autopilot = Autopilot(ground)
    sortie.clock.advance(2.1)
    ground.wait("COMMAND_LONG", command=common.MAV_CMD_SET_MESSAGE_INTERVAL)
    for _ in range(4):
        autopilot.send_pose()
        ground.flush()
        sortie.clock.advance(1)
        requests = [each.param1 for each in ground.flush() if each.get_type() == "COMMAND_LONG"]
        assert set(requests) <= {24}, "only the receiver is still silent"


def test_lines_and_geojson_hold_the_places(
    locator: Geolocator, ground: GroundStation, tmp_path: Path
) -> None:
    lines, places = tmp_path / "o.jsonl", tmp_path / "places.geojson"
    with flying(ground, locator=locator) as sortie:
        jsonl = JsonlSink(lines, identity, CAMERA, locator)
        geojson = GeojsonSink(places, identity, locator, sortie.clock, lambda: 1_700_000_000.0)
        unknown = result(region(0.5, 0.5))
        for sink in (jsonl, geojson):
            sink.write(unknown)
        Autopilot(ground).send_pose()
        ground.flush()
        now = round(sortie.clock() * 30)
        for sink in (jsonl, geojson):
            sink.write(result(region(0.5, 0.5), region(0.6, 0.5, 2, coasting=True), index=now))
            sink.write(result(region(0.5, 0.9), index=now))
            sink.finish()
            sink.commit()
    first, second, _ = map(json.loads, lines.read_text().splitlines())
    keys = ("latitude_deg", "longitude_deg", "accuracy_m")
    assert [first["regions"][0][key] for key in keys] == [None, None, None]
    assert second["regions"][0]["latitude_deg"] == pytest.approx(47.3778, abs=1e-4)
    assert second["regions"][1]["latitude_deg"] is None, "only predicted"
    collection = json.loads(places.read_text())
    assert collection["type"] == "FeatureCollection"
    (feature,) = collection["features"]
    assert feature["id"] == 1
    assert feature["geometry"]["coordinates"] == pytest.approx([8.5417, 47.3772], abs=2e-4)
    assert feature["properties"]["frames"] == 2
    assert feature["properties"]["first_seen"] == "2023-11-14T22:13:20.000Z"


def test_command_writes_places_while_an_autopilot_reports_its_pose(
    command: Callable[..., Outcome], ground: GroundStation, video: Path
) -> None:
    lines, places = video.with_name("o.jsonl"), video.with_name("o.geojson")
    stop = threading.Event()

    def fly() -> None:
        autopilot = Autopilot(ground, system=1)
        while not stop.is_set():
            ground.listen(0.02)
            if ground._camera_address[1]:
                autopilot.send_pose()

    pilot = threading.Thread(target=fly)
    pilot.start()
    try:
        options = ["--realtime", "--mavlink", f"udpout:127.0.0.1:{ground.port}", "--fov", 70, "--mount=-50"]
        options += ["--locate", "--min-score", 0, "--jsonl", lines, "--geojson", places]
        outcome = command("run", video, *options)
    finally:
        stop.set()
        pilot.join()
    assert outcome.code == 0, outcome.err
    found = [
        row["latitude_deg"] for line in lines.read_text().splitlines() for row in json.loads(line)["regions"]
    ]
    assert any(latitude is not None and abs(latitude - 47.377) < 0.01 for latitude in found)
    assert json.loads(places.read_text())["features"]
