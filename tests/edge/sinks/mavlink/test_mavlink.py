"""MAVLink sink, with a ground station on loopback that reads its datagrams and answers."""

from __future__ import annotations

import math
import os
import pty
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import identity
from edge.sinks.mavlink.camera import MavlinkSettings, MavlinkSink
from edge.sinks.mavlink.link import SharedLinks
from edge.sinks.video_stream import NO_REGION, VideoStream
from tests.conftest import Outcome
from tests.support.ground_station import CAMERA, VEHICLE, GroundStation
from tests.support.mavlink_flight import flying, region, result
from tests.support.waiting import wait_until

common = pytest.importorskip(
    "pymavlink.dialects.v20.common", reason="pymavlink is not installed: pip install 'aerogaze[mavlink]'"
)

NO_RUN = RunInfo("", "", "", "")
TRACKING = "CAMERA_TRACKING_IMAGE_STATUS"
SETPOINT = "GIMBAL_MANAGER_SET_PITCHYAW"
STREAM_INFORMATION_ID = common.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION
STREAM_STATUS_ID = common.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS
TRACKING_ID = common.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS


def kinds(messages: list[Any]) -> list[str]:
    return [message.get_type() for message in messages]


def test_heartbeat_is_sent_every_second_with_the_state(ground: GroundStation) -> None:
    with flying(ground) as (_, status, clock):
        status.set_state("running")
        clock.advance(0.9)
        assert "HEARTBEAT" not in kinds(ground.flush())
        clock.advance(0.2)
        heartbeat = ground.wait("HEARTBEAT")
        assert (heartbeat.type, heartbeat.autopilot) == (
            common.MAV_TYPE_CAMERA,
            common.MAV_AUTOPILOT_INVALID,
        )
        assert (heartbeat.get_srcSystem(), heartbeat.get_srcComponent()) == (VEHICLE, CAMERA)
        assert heartbeat.system_status == common.MAV_STATE_ACTIVE
        status.set_state("stalled")
        clock.advance(1)
        ground.wait("HEARTBEAT", system_status=common.MAV_STATE_CRITICAL)


def test_first_region_is_tracked(ground: GroundStation) -> None:
    with flying(ground) as (sink, _, clock):
        sink.write(result(region(), region(0.2, number=2)))
        tracking = ground.wait(TRACKING)
        assert tracking.tracking_status == common.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
        assert tracking.tracking_mode == common.CAMERA_TRACKING_MODE_RECTANGLE
        box = tracking.rec_top_x, tracking.rec_top_y, tracking.rec_bottom_x, tracking.rec_bottom_y
        assert box == pytest.approx((0.7, 0.4, 0.8, 0.6))
        assert math.isnan(tracking.point_x)
        clock.advance(0.11)
        sink.write(result(region(coasting=True)))
        assert ground.wait(TRACKING).tracking_status == 1 | 8
        clock.advance(0.11)
        sink.write(result())
        assert ground.wait(TRACKING).tracking_status == 0
    assert ground.wait(TRACKING).tracking_status == 0  # sent at the end


def test_commands_choose_and_stop_the_tracked_region(ground: GroundStation) -> None:
    with flying(ground) as (sink, _, _):
        regions = region(), region(0.2, number=2)
        sink.write(result(*regions))
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, 0.22, 0.45) == common.MAV_RESULT_ACCEPTED
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, TRACKING_ID) == common.MAV_RESULT_ACCEPTED
        assert ground.wait(TRACKING).rec_top_x == pytest.approx(0.15)
        sink.write(result(regions[0]))  # the chosen region is gone: no other one replaces it
        ground.command(common.MAV_CMD_REQUEST_MESSAGE, TRACKING_ID)
        ground.wait(TRACKING, tracking_status=0)
        rectangle = 0.6, 0.3, 0.9, 0.7
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_RECTANGLE, *rectangle) == 0
        ground.command(common.MAV_CMD_REQUEST_MESSAGE, TRACKING_ID)
        ground.wait(TRACKING, tracking_status=1)
        assert ground.command(common.MAV_CMD_CAMERA_STOP_TRACKING) == common.MAV_RESULT_ACCEPTED
        ground.command(common.MAV_CMD_REQUEST_MESSAGE, TRACKING_ID)
        ground.wait(TRACKING, tracking_status=0)


def test_camera_information_is_sent_on_request(ground: GroundStation) -> None:
    with flying(ground):  # before the first frame: ground stations ask as soon as they see the heartbeat
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, common.MAVLINK_MSG_ID_CAMERA_INFORMATION) == 0
        information = ground.wait("CAMERA_INFORMATION")
        assert bytes(information.vendor_name).rstrip(b"\0") == b"Aerogaze"
        assert bytes(information.model_name).rstrip(b"\0") == b"skd-64"
        assert (information.resolution_h, information.resolution_v) == (160, 90)


def test_tracking_messages_keep_the_requested_interval(ground: GroundStation) -> None:
    with flying(ground) as (sink, _, clock):
        sink.write(result(region()))
        counts = {}
        for interval_us in (10_000, 100_000, -1, 0):  # 0: the default of 0.1 s
            assert ground.command(common.MAV_CMD_SET_MESSAGE_INTERVAL, TRACKING_ID, interval_us) == 0
            ground.flush()
            for index in range(20):
                clock.advance(0.012)
                sink.write(result(region(), index=index))
            counts[interval_us] = kinds(ground.flush()).count(TRACKING)
        assert counts == {10_000: 20, 100_000: 2, -1: 0, 0: 3}


def test_unknown_commands_are_refused_and_commands_to_others_are_ignored(ground: GroundStation) -> None:
    with flying(ground) as (sink, _, _):
        unsupported = common.MAV_RESULT_UNSUPPORTED
        assert ground.command(common.MAV_CMD_NAV_TAKEOFF) == unsupported
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, 1) == unsupported
        assert ground.command(common.MAV_CMD_SET_MESSAGE_INTERVAL, 1, 100) == unsupported
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, math.nan, 0.5) == common.MAV_RESULT_DENIED
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, math.nan) == unsupported
        assert ground.command(common.MAV_CMD_REQUEST_MESSAGE, STREAM_INFORMATION_ID) == unsupported
        assert ground.command(common.MAV_CMD_VIDEO_STOP_STREAMING) == unsupported
        for component in (0, 101):
            number = common.MAV_CMD_NAV_TAKEOFF
            command = common.MAVLink_command_long_message(VEHICLE, component, number, 0, *[0] * 7)
            ground.mav.send(command)
        assert "COMMAND_ACK" not in kinds(ground.flush())
        sink.write(result())


def test_camera_on_the_airframe_points_the_gimbal(ground: GroundStation) -> None:
    with flying(ground, CameraGeometry(90, pitch_deg=-30)) as (sink, _, clock):
        claim = ground.wait("COMMAND_LONG", command=common.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE)
        assert (claim.param1, claim.param2, claim.param3, claim.param4) == (VEHICLE, CAMERA, -1, -1)
        ground.mav.send(common.MAVLink_command_ack_message(claim.command, 0))
        sink.write(result(region(0.5, 0.5)))
        setpoint = ground.wait(SETPOINT)
        assert (setpoint.pitch, setpoint.yaw) == pytest.approx((math.radians(-30), 0), abs=1e-6)
        assert math.isnan(setpoint.pitch_rate)
        assert setpoint.flags == common.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME
        clock.advance(0.06)
        sink.write(result(region(0.9, coasting=True)))  # a predicted position is no target
        manager_status = common.MAVLink_gimbal_manager_status_message
        ground.mav.send(manager_status(0, 0, 0, 255, 190, 0, 0))  # the pilot takes control
        assert SETPOINT not in kinds(ground.flush())
        sink.write(result(region(0.9)))
        assert SETPOINT not in kinds(ground.flush())
        ground.mav.send(manager_status(0, 0, 0, VEHICLE, CAMERA, 0, 0))
        ground.flush()
        sink.write(result(region(0.9)))
        ground.wait(SETPOINT)
    release = ground.wait("COMMAND_LONG", command=common.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE)
    assert (release.param1, release.param2) == (-3, -3)


def test_gimbal_does_not_move_where_nothing_stands_out(ground: GroundStation) -> None:
    with flying(ground, CameraGeometry(90)) as (sink, _, clock):
        sink.write(result())
        status = ground.wait("CAMERA_TRACKING_IMAGE_STATUS")
        assert status.tracking_mode == common.CAMERA_TRACKING_MODE_NONE
        clock.advance(1)
        sink.write(result())
        assert SETPOINT not in kinds(ground.flush())


@pytest.mark.parametrize("earth", [False, True])
def test_camera_on_the_gimbal_adds_to_the_attitude_of_the_gimbal(ground: GroundStation, earth: bool) -> None:
    with flying(ground, CameraGeometry(90), on_gimbal=True) as (sink, _, clock):
        sink.write(result(region(1.0)))
        assert SETPOINT not in kinds(ground.flush())
        half = math.radians(20) / 2  # yaw of 20 degrees
        frame = (
            common.GIMBAL_DEVICE_FLAGS_YAW_IN_EARTH_FRAME
            if earth
            else common.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME
        )
        attitude = common.MAVLink_gimbal_device_attitude_status_message(
            0, 0, 0, frame, [math.cos(half), 0, 0, math.sin(half)], 0, 0, 0, 0
        )
        ground.mav.send(attitude)
        ground.flush()
        sink.write(result(region(1.0)))
        setpoint = ground.wait(SETPOINT)
        assert (setpoint.pitch, setpoint.yaw) == pytest.approx((0, math.radians(65)), abs=1e-6)
        frames = (
            common.GIMBAL_MANAGER_FLAGS_YAW_IN_EARTH_FRAME,
            common.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME,
        )
        assert setpoint.flags & sum(frames) == frames[0 if earth else 1]
        clock.advance(0.6)  # the attitude is out of date
        sink.write(result(region(0.5)))
        assert SETPOINT not in kinds(ground.flush())


def test_noise_is_survived_and_commands_are_still_answered(ground: GroundStation) -> None:
    rng = np.random.default_rng(0)
    with flying(ground) as (sink, status, clock):
        good = common.MAVLink_command_long_message(VEHICLE, CAMERA, 1, 0, *[0] * 7).pack(ground.mav)
        for size in (1, 7, 280, 1400, 60_000):
            for _ in range(20):
                noise = rng.bytes(size)
                ground.write(noise)
                ground.write(b"\xfd" + noise)  # starts like a message
                ground.write(good[: size % len(good)])
        for _ in range(100):
            damaged = bytearray(good)
            damaged[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
            ground.write(bytes(damaged))
        sink.write(result(region()))
        ground.flush()
        for _ in range(3):
            ground.write(b"\xfd\xff")  # only the start of a long message
            assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, 0.7, 0.5) == 0
        clock.advance(1)
        ground.wait("HEARTBEAT")
    assert status.snapshot().faults == {"mavlink": 1}, "all within one episode"


def test_write_does_not_wait_while_received_data_is_parsed(
    ground: GroundStation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flying(ground) as (sink, _, _):
        parsing, resume, parse = threading.Event(), threading.Event(), sink._inputs[0][1].parse

        def blocked_parse(data: bytes) -> list[Any]:
            parsing.set()
            assert resume.wait(20)
            return parse(data)

        monkeypatch.setattr(sink._inputs[0][1], "parse", blocked_parse)
        ground.write(b"noise")
        assert parsing.wait(20)
        writer = threading.Thread(target=sink.write, args=(result(region()),))
        writer.start()
        writer.join(10)
        assert not writer.is_alive()
        resume.set()


def test_sink_works_without_a_listener() -> None:
    station = GroundStation()
    station.socket.close()
    sink = MavlinkSink([f"udpout:127.0.0.1:{station.port}"], Status(NO_RUN), identity)
    for index in range(50):
        sink.write(result(region(), index=index))
    sink.finish()
    sink.commit()
    sink.commit()


def test_messages_are_sent_over_a_serial_line() -> None:
    master, line = pty.openpty()
    try:
        sink = MavlinkSink([os.ttyname(line) + ":115200"], Status(NO_RUN), identity)
        sink.write(result(region()))
        mav, received = common.MAVLink(None), set[str]()
        mav.robust_parsing = True
        while len(received) < 2:
            received |= {message.get_type() for message in mav.parse_buffer(os.read(master, 4096)) or []}
        sink.discard()
        assert received == {"HEARTBEAT", TRACKING}
    finally:
        os.close(master)
        os.close(line)


def test_noise_on_a_serial_line_is_reported_and_a_truncated_message_is_not() -> None:
    master, line = pty.openpty()
    tty.setraw(line)
    status, rng = Status(NO_RUN), np.random.default_rng(0)
    message = common.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3).pack(common.MAVLink(None, 1, 1))
    try:
        sink = MavlinkSink([os.ttyname(line)], status, identity)
        for part in (message[5:], *[message] * 5):  # like a line that is opened in the middle of a message
            os.write(master, part)
            time.sleep(0.1)
        assert status.snapshot().faults == {}
        for _ in range(8):  # like a wrong baud rate
            os.write(master, rng.integers(0, 0xFD, 100, np.uint8).tobytes())
            time.sleep(0.15)
        assert wait_until(lambda: status.snapshot().faults == {"mavlink": 1})
        sink.discard()
    finally:
        os.close(master)
        os.close(line)


def test_stray_datagram_is_a_fault_that_ends(ground: GroundStation) -> None:
    status = Status(RunInfo("skd-64", "int8", "none", "camera"), recovery_s=0.2)
    sink = MavlinkSink([f"udpout:127.0.0.1:{ground.port}"], status, identity, MavlinkSettings(VEHICLE))
    try:
        ground.wait("HEARTBEAT")
        ground.write(b"\xfd\xff and no more")
        assert wait_until(lambda: status.snapshot().faults == {"mavlink": 1})
        assert wait_until(lambda: status.snapshot().open_faults == {})
    finally:
        sink.discard()


def test_full_serial_line_does_not_block_the_sink() -> None:
    master, line = pty.openpty()
    try:
        sink = MavlinkSink([os.ttyname(line) + ":115200"], Status(NO_RUN), identity)

        def fill() -> None:
            for _ in range(3000):  # far more than the buffer of the line holds
                sink.write(result(region()))
            sink.discard()

        writer = threading.Thread(target=fill, daemon=True)
        writer.start()
        writer.join(60)
        assert not writer.is_alive()
    finally:
        os.close(master)
        os.close(line)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("udpin:0.0.0.0:14550", "expected udpout:HOST:PORT"),
        ("udpout:127.0.0.1", "expected udpout:HOST:PORT"),
        ("udpout:127.0.0.1:99999", "expected udpout:HOST:PORT"),
        ("udpout:no.such.host.invalid:14550", "cannot resolve the MAVLink host no.such.host.invalid"),
        ("/dev/no-such-line", "cannot open /dev/no-such-line at 57600 baud"),
        ("/dev/ttyS0:fast", "expected a baud rate"),
    ],
)
def test_invalid_link_is_one_clear_line(link: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MavlinkSink([link], Status(NO_RUN), identity)


def test_command_sends_tracking_and_setpoints_to_a_ground_station(
    command: Callable[..., Outcome], ground: GroundStation, video: Path
) -> None:
    link = f"udpout:127.0.0.1:{ground.port}"
    options = [
        "--mavlink",
        link,
        "--mavlink-system",
        7,
        "--gimbal",
        "--fov",
        70,
        "--mount=-20",
        "--min-score",
        0,
    ]
    outcome = command("run", video, *map(str, options))
    assert outcome.code == 0, outcome.err
    ground.listen(0.2)
    last = {message.get_type(): message for message in ground.received}
    assert last["HEARTBEAT"].get_srcSystem() == 7
    tracking = [message.tracking_status for message in ground.received if message.get_type() == TRACKING]
    assert tracking[0] == common.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
    assert abs(last[SETPOINT].yaw) <= math.radians(35)


def test_two_cameras_are_two_components_on_one_line(ground: GroundStation) -> None:
    links = SharedLinks([f"udpout:127.0.0.1:{ground.port}"])
    statuses = [Status(NO_RUN), Status(NO_RUN)]
    sinks = [
        MavlinkSink(links, status, identity, MavlinkSettings(VEHICLE, number=number))
        for number, status in enumerate(statuses)
    ]
    try:
        for component in (CAMERA, CAMERA + 1):
            heartbeat = None
            while heartbeat is None or heartbeat.get_srcComponent() != component:
                heartbeat = ground.wait("HEARTBEAT")
            command, number = common.MAV_CMD_REQUEST_MESSAGE, common.MAVLINK_MSG_ID_CAMERA_INFORMATION
            ground.mav.command_long_send(VEHICLE, component, command, 0, number, 0, 0, 0, 0, 0, 0)
            assert ground.wait("CAMERA_INFORMATION").get_srcComponent() == component
        statuses[0].set_state("stopped")
        sinks[0].discard()
        ended = ground.wait("HEARTBEAT", system_status=common.MAV_STATE_POWEROFF)
        assert ended.get_srcComponent() == CAMERA
        assert ground.wait("HEARTBEAT").get_srcComponent() == CAMERA + 1
    finally:
        for sink in sinks:
            sink.discard()


def test_video_marks_the_region_that_a_pilot_has_picked(ground: GroundStation) -> None:
    stream = VideoStream("udp", "127.0.0.1", 5600, "", 320, 180, 30, 500_000)
    with flying(ground, stream=stream) as (sink, _, _):
        assert stream.followed_id is None
        sink.write(result(region(), region(0.2, number=2)))
        assert stream.followed_id == 1
        assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, 0.2, 0.5) == 0
        assert wait_until(lambda: stream.followed_id == 2)
        assert ground.command(common.MAV_CMD_CAMERA_STOP_TRACKING) == 0
        assert wait_until(lambda: stream.followed_id == NO_REGION)
