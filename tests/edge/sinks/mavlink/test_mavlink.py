"""A ground station on loopback reads the datagrams that the sink sends, and answers."""

from __future__ import annotations

import math
import os
import pty
import socket
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, identity
from edge.sinks.mavlink.camera import MavlinkSink
from tests.conftest import Outcome

common = pytest.importorskip("pymavlink.dialects.v20.common", reason="pymavlink is not installed")

VEHICLE, CAMERA = 7, common.MAV_COMP_ID_CAMERA
IMAGE = np.zeros((90, 160, 3), np.uint8)


def region(x: float = 0.75, y: float = 0.5, number: int = 1, coasting: bool = False) -> Region:
    return Region(x, y, x - 0.05, y - 0.1, x + 0.05, y + 0.1, 0.4, number, 1.0, coasting)


def result(*regions: Region, index: int = 0) -> Result:
    return Result(Frame(index, index / 30, IMAGE), np.zeros((8, 8), np.float32), 2.0, regions)


class GroundStation:
    """A socket, and pymavlink to read and write what goes through it."""

    def __init__(self, component: int = 190, system: int = VEHICLE) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.mav = common.MAVLink(self, system, component)
        self.seen: list[Any] = []
        self.peer = ("", 0)

    def write(self, data: bytes) -> None:
        self.socket.sendto(data, self.peer)

    def listen(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data, self.peer = self.socket.recvfrom(65536)
            except TimeoutError:
                return
            self.seen += self.mav.parse_buffer(data) or []

    def wait(self, kind: str, seconds: float = 3, **fields: object) -> Any:
        """Return the next message of a kind, with these fields."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for at, message in enumerate(self.seen):
                if message.get_type() == kind and all(getattr(message, k) == v for k, v in fields.items()):
                    del self.seen[: at + 1]
                    return message
            self.listen(0.02)
        raise AssertionError(f"no {kind} {fields} in {seconds} s")

    def settle(self) -> None:
        """Wait until all that was sent before has been read: an answer comes only then."""
        self.command(common.MAV_CMD_REQUEST_MESSAGE, common.MAVLINK_MSG_ID_HEARTBEAT)

    def command(self, number: int, *params: float, component: int = CAMERA) -> int:
        values = (*params, *[0.0] * (7 - len(params)))
        self.mav.send(common.MAVLink_command_long_message(VEHICLE, component, number, 0, *values))
        return int(self.wait("COMMAND_ACK", command=number).result)


@pytest.fixture
def ground() -> Iterator[GroundStation]:
    station = GroundStation()
    yield station
    station.socket.close()


@contextmanager
def flying(
    ground: GroundStation, gimbal: CameraGeometry | None = None, on_gimbal: bool = False
) -> Iterator[tuple[MavlinkSink, Status]]:
    status = Status(RunInfo("skd-64", "int8", "none", "camera"))
    sink = MavlinkSink(f"udpout:127.0.0.1:{ground.port}", status, identity, VEHICLE, gimbal, on_gimbal)
    try:
        ground.wait("HEARTBEAT")
        yield sink, status
    finally:
        sink.discard()


def test_heartbeats_come_each_second_and_tell_the_state(ground: GroundStation) -> None:
    with flying(ground) as (_, status):
        status.set_state("running")
        times = []
        for _ in range(2):
            beat = ground.wait("HEARTBEAT")
            times.append(time.monotonic())
        assert times[1] - times[0] == pytest.approx(1, abs=0.5)
        assert (beat.type, beat.autopilot) == (common.MAV_TYPE_CAMERA, common.MAV_AUTOPILOT_INVALID)
        assert (beat.get_srcSystem(), beat.get_srcComponent()) == (VEHICLE, CAMERA)
        assert beat.system_status == common.MAV_STATE_ACTIVE
        status.set_state("stalled")
        ground.wait("HEARTBEAT", system_status=common.MAV_STATE_CRITICAL)


def test_the_first_region_is_tracked(ground: GroundStation) -> None:
    with flying(ground) as (sink, _):
        sink.write(result(region(), region(0.2, number=2)))
        told = ground.wait("CAMERA_TRACKING_IMAGE_STATUS")
        assert told.tracking_status == common.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
        assert told.tracking_mode == common.CAMERA_TRACKING_MODE_RECTANGLE
        box = told.rec_top_x, told.rec_top_y, told.rec_bottom_x, told.rec_bottom_y
        assert box == pytest.approx((0.7, 0.4, 0.8, 0.6))
        assert math.isnan(told.point_x)
        time.sleep(0.11)
        sink.write(result(region(coasting=True)))
        assert ground.wait("CAMERA_TRACKING_IMAGE_STATUS").tracking_status == 1 | 8
        time.sleep(0.11)
        sink.write(result())
        assert ground.wait("CAMERA_TRACKING_IMAGE_STATUS").tracking_status == 0
    assert ground.wait("CAMERA_TRACKING_IMAGE_STATUS").tracking_status == 0  # said at the end


def test_what_is_tracked_may_be_chosen_and_stopped(ground: GroundStation) -> None:
    with flying(ground) as (sink, _):
        regions = region(), region(0.2, number=2)
        sink.write(result(*regions))
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, 0.25, 0.45) == common.MAV_RESULT_ACCEPTED
        asked = common.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, asked) == common.MAV_RESULT_ACCEPTED
        assert ground.wait("CAMERA_TRACKING_IMAGE_STATUS").rec_top_x == pytest.approx(0.15)
        sink.write(result(regions[0]))  # the chosen one is gone, and no other is taken for it
        ground.command(common.MAV_CMD_REQUEST_MESSAGE, asked)
        ground.wait("CAMERA_TRACKING_IMAGE_STATUS", tracking_status=0)
        rectangle = 0.6, 0.3, 0.9, 0.7
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_RECTANGLE, *rectangle) == 0
        ground.command(common.MAV_CMD_REQUEST_MESSAGE, asked)
        ground.wait("CAMERA_TRACKING_IMAGE_STATUS", tracking_status=1)
        assert ground.command(common.MAV_CMD_CAMERA_STOP_TRACKING) == common.MAV_RESULT_ACCEPTED
        ground.command(common.MAV_CMD_REQUEST_MESSAGE, asked)
        ground.wait("CAMERA_TRACKING_IMAGE_STATUS", tracking_status=0)


def test_it_says_what_it_is_and_keeps_the_interval_asked_for(ground: GroundStation) -> None:
    with flying(ground) as (sink, _):
        sink.write(result(region()))
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, common.MAVLINK_MSG_ID_CAMERA_INFORMATION) == 0
        about = ground.wait("CAMERA_INFORMATION")
        assert bytes(about.vendor_name).rstrip(b"\0") == b"Aerogaze"
        assert bytes(about.model_name).rstrip(b"\0") == b"skd-64"
        assert (about.resolution_h, about.resolution_v) == (160, 90)
        asked = common.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
        for interval_us in (10_000, 100_000, -1, 0):
            assert ground.command(common.MAV_CMD_SET_MESSAGE_INTERVAL, asked, interval_us) == 0
            ground.seen.clear()
            started = time.monotonic()
            for index in range(20):
                sink.write(result(region(), index=index))
                time.sleep(0.012)
            most = (time.monotonic() - started) / 0.1 + 1
            ground.listen(0.05)
            told = [m for m in ground.seen if m.get_type() == "CAMERA_TRACKING_IMAGE_STATUS"]
            if interval_us == 10_000:
                assert len(told) >= 12
            else:
                assert (len(told) >= 2) == (interval_us != -1)
                assert len(told) <= most


def test_what_is_not_understood_is_refused_and_what_is_for_others_is_not_answered(
    ground: GroundStation,
) -> None:
    with flying(ground) as (sink, _):
        unsupported = common.MAV_RESULT_UNSUPPORTED
        assert ground.command(common.MAV_CMD_NAV_TAKEOFF) == unsupported
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, 1) == unsupported
        assert ground.command(common.MAV_CMD_SET_MESSAGE_INTERVAL, 1, 100) == unsupported
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, math.nan, 0.5) == unsupported
        for component in (0, 101):
            number = common.MAV_CMD_NAV_TAKEOFF
            command = common.MAVLink_command_long_message(VEHICLE, component, number, 0, *[0] * 7)
            ground.mav.send(command)
        ground.listen(0.3)
        assert not [m for m in ground.seen if m.get_type() == "COMMAND_ACK"]
        sink.write(result())


def test_a_gimbal_is_pointed_by_a_camera_on_the_airframe(ground: GroundStation) -> None:
    with flying(ground, CameraGeometry(90, pitch_deg=-30)) as (sink, _):
        claim = ground.wait("COMMAND_LONG", command=common.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE)
        assert (claim.param1, claim.param2, claim.param3, claim.param4) == (VEHICLE, CAMERA, -1, -1)
        ground.mav.send(common.MAVLink_command_ack_message(claim.command, 0))
        sink.write(result(region(0.5, 0.5)))
        told = ground.wait("GIMBAL_MANAGER_SET_PITCHYAW")
        assert (told.pitch, told.yaw) == pytest.approx((math.radians(-30), 0), abs=1e-6)
        assert math.isnan(told.pitch_rate)
        assert told.flags == common.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME
        time.sleep(0.06)
        sink.write(result(region(0.9, coasting=True)))  # nobody saw it there
        status = common.MAVLink_gimbal_manager_status_message
        ground.mav.send(status(0, 0, 0, 255, 190, 0, 0))  # the pilot takes over
        ground.settle()
        sink.write(result(region(0.9)))
        ground.listen(0.1)
        assert not [m for m in ground.seen if m.get_type() == "GIMBAL_MANAGER_SET_PITCHYAW"]
        ground.mav.send(status(0, 0, 0, VEHICLE, CAMERA, 0, 0))
        ground.settle()
        sink.write(result(region(0.9)))
        ground.wait("GIMBAL_MANAGER_SET_PITCHYAW")
    release = ground.wait("COMMAND_LONG", command=common.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE)
    assert (release.param1, release.param2) == (-3, -3)


@pytest.mark.parametrize("earth", [False, True])
def test_a_camera_on_the_gimbal_adds_to_the_gimbals_attitude(ground: GroundStation, earth: bool) -> None:
    with flying(ground, CameraGeometry(90), on_gimbal=True) as (sink, _):
        sink.write(result(region(1.0)))
        ground.listen(0.2)
        assert not [m for m in ground.seen if m.get_type() == "GIMBAL_MANAGER_SET_PITCHYAW"]
        half = math.radians(20) / 2  # yaw 20 degrees
        frame = (
            common.GIMBAL_DEVICE_FLAGS_YAW_IN_EARTH_FRAME
            if earth
            else common.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME
        )
        attitude = common.MAVLink_gimbal_device_attitude_status_message(
            0, 0, 0, frame, [math.cos(half), 0, 0, math.sin(half)], 0, 0, 0, 0
        )
        ground.mav.send(attitude)
        ground.settle()
        sink.write(result(region(1.0)))
        told = ground.wait("GIMBAL_MANAGER_SET_PITCHYAW")
        assert (told.pitch, told.yaw) == pytest.approx((0, math.radians(65)), abs=1e-6)
        frames = (
            common.GIMBAL_MANAGER_FLAGS_YAW_IN_EARTH_FRAME,
            common.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME,
        )
        assert told.flags & sum(frames) == frames[0 if earth else 1]
        time.sleep(0.6)  # the attitude grows old
        sink.write(result(region(0.5)))
        ground.listen(0.1)
        assert not [m for m in ground.seen if m.get_type() == "GIMBAL_MANAGER_SET_PITCHYAW"]


def test_garbage_is_survived_and_answers_still_come(ground: GroundStation) -> None:
    rng = np.random.default_rng(0)
    with flying(ground) as (sink, status):
        good = common.MAVLink_command_long_message(VEHICLE, CAMERA, 1, 0, *[0] * 7).pack(ground.mav)
        for size in (1, 7, 280, 1400, 60_000):
            for _ in range(20):
                noise = rng.bytes(size)
                ground.write(noise)
                ground.write(b"\xfd" + noise)  # begins as a message does
                ground.write(good[: size % len(good)])
        for _ in range(100):
            spoilt = bytearray(good)
            spoilt[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
            ground.write(bytes(spoilt))
        started = time.perf_counter()
        sink.write(result(region()))
        assert time.perf_counter() - started < 0.5  # the lock is not held while noise is read
        time.sleep(1.2)  # what is left unread is dropped by the system, or read by now
        ground.seen.clear()
        for _ in range(3):
            ground.write(b"\xfd\xff")  # the beginning of a long message, and no more
            assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, 0.7, 0.5) == 0
        ground.wait("HEARTBEAT")
    assert status.snapshot().faults == {"mavlink": 1}, "all of it is one episode"


def test_nobody_listening_is_no_matter() -> None:
    station = GroundStation()
    station.socket.close()
    sink = MavlinkSink(f"udpout:127.0.0.1:{station.port}", Status(RunInfo("", "", "", "")), identity)
    for index in range(50):
        sink.write(result(region(), index=index))
    sink.finish()
    sink.commit()
    sink.commit()


def test_a_serial_line_carries_it_too() -> None:
    master, line = pty.openpty()
    try:
        sink = MavlinkSink(os.ttyname(line) + ":115200", Status(RunInfo("", "", "", "")), identity)
        sink.write(result(region()))
        mav, kinds = common.MAVLink(None), set[str]()
        mav.robust_parsing = True
        end = time.monotonic() + 3
        while len(kinds) < 2 and time.monotonic() < end:
            kinds |= {m.get_type() for m in mav.parse_buffer(os.read(master, 4096)) or []}
        sink.discard()
        assert kinds == {"HEARTBEAT", "CAMERA_TRACKING_IMAGE_STATUS"}
    finally:
        os.close(master)
        os.close(line)


def test_noise_between_pauses_is_told_on_a_serial_line_and_half_a_message_is_not() -> None:
    master, line = pty.openpty()
    tty.setraw(line)
    status, rng = Status(RunInfo("", "", "", "")), np.random.default_rng(0)
    whole = common.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3).pack(common.MAVLink(None, 1, 1))
    try:
        sink = MavlinkSink(os.ttyname(line), status, identity)
        for part in (whole[5:], *[whole] * 5):  # as where a line is opened in the middle
            os.write(master, part)
            time.sleep(0.1)
        assert status.snapshot().faults == {}
        for _ in range(8):  # as at a wrong rate
            os.write(master, rng.integers(0, 0xFD, 100, np.uint8).tobytes())
            time.sleep(0.15)
        assert status.snapshot().faults == {"mavlink": 1}
        sink.discard()
    finally:
        os.close(master)
        os.close(line)


def test_a_stray_datagram_is_an_episode_that_ends(ground: GroundStation) -> None:
    status = Status(RunInfo("skd-64", "int8", "none", "camera"), quiet_s=0.2)
    sink = MavlinkSink(f"udpout:127.0.0.1:{ground.port}", status, identity, VEHICLE)
    try:
        ground.wait("HEARTBEAT")
        ground.write(b"\xfd\xff and no more")
        end = time.monotonic() + 5
        while not status.snapshot().faults and time.monotonic() < end:
            time.sleep(0.01)
        assert status.snapshot().faults == {"mavlink": 1}
        while status.snapshot().open_faults and time.monotonic() < end:
            time.sleep(0.01)
        assert status.snapshot().open_faults == {}
    finally:
        sink.discard()


def test_a_serial_line_that_nobody_reads_holds_nothing_up() -> None:
    master, line = pty.openpty()
    try:
        sink = MavlinkSink(os.ttyname(line) + ":115200", Status(RunInfo("", "", "", "")), identity)
        started = time.monotonic()
        for _ in range(3000):  # far more than the line's buffer takes
            sink.write(result(region()))
        sink.discard()
        assert time.monotonic() - started < 20
    finally:
        os.close(master)
        os.close(line)


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("udpin:0.0.0.0:14550", "expected udpout:HOST:PORT"),
        ("udpout:127.0.0.1", "expected udpout:HOST:PORT"),
        ("udpout:127.0.0.1:99999", "expected udpout:HOST:PORT"),
        ("udpout:no.such.host.invalid:14550", "cannot find no.such.host.invalid"),
        ("/dev/no-such-line", "cannot open /dev/no-such-line at 57600 baud"),
        ("/dev/ttyS0:fast", "expected a rate"),
    ],
)
def test_links_that_cannot_be_are_one_line(link: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        MavlinkSink(link, Status(RunInfo("", "", "", "")), identity)


def test_the_command_tells_a_ground_station(
    command: Callable[..., Outcome], ground: GroundStation, video: Path
) -> None:
    link = f"udpout:127.0.0.1:{ground.port}"
    words = ["--mavlink", link, "--mavlink-system", 7, "--gimbal", "--fov", 70, "--mount=-20"]
    done = command("run", video, *map(str, words))
    assert done.code == 0, done.err
    ground.listen(0.2)
    told = {message.get_type(): message for message in ground.seen}
    assert told["HEARTBEAT"].get_srcSystem() == 7
    status = [m.tracking_status for m in ground.seen if m.get_type() == "CAMERA_TRACKING_IMAGE_STATUS"]
    assert status[0] == common.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
    assert abs(told["GIMBAL_MANAGER_SET_PITCHYAW"].yaw) <= math.radians(35)
