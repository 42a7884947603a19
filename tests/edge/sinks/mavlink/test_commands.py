"""Commands of one ground station, and of two: taps, letting go, video stream."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.sinks.video_stream import VideoStream
from tests.support.ground_station import CAMERA, VEHICLE, GroundStation, common
from tests.support.mavlink_flight import Flight, flying, region, result

ACCEPTED, DENIED = common.MAV_RESULT_ACCEPTED, common.MAV_RESULT_DENIED
NOTHING_THERE, UNSUPPORTED = common.MAV_RESULT_TEMPORARILY_REJECTED, common.MAV_RESULT_UNSUPPORTED
POINT, RECTANGLE = common.MAV_CMD_CAMERA_TRACK_POINT, common.MAV_CMD_CAMERA_TRACK_RECTANGLE
STOP, REQUEST = common.MAV_CMD_CAMERA_STOP_TRACKING, common.MAV_CMD_REQUEST_MESSAGE
INFORMATION, STATUS = (
    common.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION,
    common.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS,
)


def tracked(ground: GroundStation) -> float | None:
    """Return the left edge of the tracked region; None if the camera tracks nothing."""
    ground.command(REQUEST, common.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS)
    status = ground.wait("CAMERA_TRACKING_IMAGE_STATUS")
    return None if math.isnan(status.rec_top_x) else round(status.rec_top_x, 2)


@pytest.fixture
def sortie(ground: GroundStation) -> Iterator[Flight]:
    """A flight whose camera sees two regions: one at 0.15 to 0.25, one at 0.7 to 0.8."""
    with flying(ground) as sortie:
        sortie.sink.write(result(region(), region(0.2, number=2)))
        yield sortie


def test_tap_on_nothing_is_rejected_and_changes_nothing(ground: GroundStation, sortie: Flight) -> None:
    for point in ((0.5, 0.5), (0.2, 0.95), (0.0, 0.0)):
        assert ground.command(POINT, *point) == NOTHING_THERE
    assert tracked(ground) == 0.7
    assert ground.command(POINT, 0.28, 0.5) == ACCEPTED, "a finger's breadth beside the box"
    assert tracked(ground) == 0.15
    assert ground.command(POINT, 0.5, 0.5) == NOTHING_THERE
    assert tracked(ground) == 0.15
    assert ground.command(POINT, 0.5, 0.5, 0.25) == ACCEPTED, "the ground station's radius"
    sortie.sink.write(result())
    assert ground.command(POINT, 0.2, 0.5) == NOTHING_THERE


def test_rectangle_picks_what_it_overlaps_most_from_any_corner(ground: GroundStation, sortie: Flight) -> None:
    assert ground.command(RECTANGLE, 0.0, 0.0, 0.72, 1.0) == ACCEPTED
    assert tracked(ground) == 0.15
    assert ground.command(RECTANGLE, 1.0, 1.0, 0.6, 0.0) == ACCEPTED
    assert tracked(ground) == 0.7
    assert ground.command(RECTANGLE, 0.2, 0.5, 0.2, 0.5) == ACCEPTED, "a drag without a size is a tap"
    assert tracked(ground) == 0.15
    assert ground.command(RECTANGLE, 0.4, 0.0, 0.6, 1.0) == NOTHING_THERE
    assert ground.command(RECTANGLE, 0.4, 0.0, 1.6, 1.0) == DENIED


def test_numbers_that_are_no_position_are_denied(ground: GroundStation, sortie: Flight) -> None:
    for point in ((math.nan, 0.5), (0.5, math.inf), (-0.1, 0.5), (0.5, 1.01)):
        assert ground.command(POINT, *point) == DENIED
    assert ground.command(REQUEST, math.inf) == UNSUPPORTED
    assert ground.command(common.MAV_CMD_SET_MESSAGE_INTERVAL, math.inf, 0) == UNSUPPORTED
    assert tracked(ground) == 0.7


def test_letting_go_ends_tracking_and_setpoints_until_the_next_tap(ground: GroundStation) -> None:
    with flying(ground, CameraGeometry(90)) as (sink, _, clock):
        sink.write(result(region()))
        ground.wait("GIMBAL_MANAGER_SET_PITCHYAW")
        assert ground.command(STOP) == ACCEPTED
        assert tracked(ground) is None
        for _ in range(3):
            clock.advance(1)
            sink.write(result(region()))
        assert "GIMBAL_MANAGER_SET_PITCHYAW" not in [each.get_type() for each in ground.flush()]
        assert ground.command(POINT, 0.75, 0.5) == ACCEPTED
        clock.advance(1)
        sink.write(result(region()))
        ground.wait("GIMBAL_MANAGER_SET_PITCHYAW")


def test_commands_come_as_integers_too(ground: GroundStation, sortie: Flight) -> None:
    ground.mav.send(
        common.MAVLink_command_int_message(VEHICLE, CAMERA, 0, POINT, 0, 0, 0.2, 0.5, 0, 0, 0, 0, 0)
    )
    assert ground.wait("COMMAND_ACK", command=POINT).result == ACCEPTED
    assert tracked(ground) == 0.15


def test_last_tap_of_two_pilots_counts_and_each_gets_an_answer() -> None:
    first, second = GroundStation(system=255), GroundStation(system=254)
    links = [f"udpout:127.0.0.1:{station.port}" for station in (first, second)]
    try:
        with flying(first, links=links) as (sink, _, clock):
            second.wait("HEARTBEAT")
            sink.write(result(region(), region(0.2, number=2)))
            assert first.command(POINT, 0.75, 0.5) == ACCEPTED
            assert second.command(POINT, 0.2, 0.5) == ACCEPTED
            assert (tracked(first), tracked(second)) == (0.15, 0.15)
            assert first.command(POINT, 0.75, 0.5, repetition=1) == ACCEPTED, "its acknowledgement was lost"
            assert tracked(second) == 0.15, "the repetition does not undo the other pilot's tap"
            clock.advance(10)
            assert first.command(POINT, 0.75, 0.5, repetition=1) == ACCEPTED
            assert tracked(second) == 0.7
            assert second.command(STOP) == ACCEPTED
            assert tracked(first) is None
    finally:
        first.socket.close()
        second.socket.close()


def test_one_station_that_is_gone_does_not_silence_the_other(ground: GroundStation) -> None:
    gone = GroundStation()
    gone.socket.close()
    links = [f"udpout:127.0.0.1:{port}" for port in (gone.port, ground.port)]
    with flying(ground, links=links) as (sink, _, _):
        sink.write(result(region()))
        ground.wait("CAMERA_TRACKING_IMAGE_STATUS")


def test_line_that_is_down_stops_no_message_on_the_other_one(ground: GroundStation) -> None:
    down = "udpout:255.255.255.255:14550"  # the kernel refuses to send there
    links = [down, f"udpout:127.0.0.1:{ground.port}"]
    configure = common.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE
    with flying(ground, CameraGeometry(68), links=links) as (sink, _, _):
        with pytest.raises(PermissionError):
            sink.write(result(region()))
        ground.wait("GIMBAL_MANAGER_SET_PITCHYAW")
        assert ground.command(REQUEST, common.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
        ground.wait("CAMERA_INFORMATION")
    assert ground.wait("COMMAND_LONG", command=configure, param1=-3), "control is given back at the end"


def test_video_stream_is_described_to_ground_stations(ground: GroundStation) -> None:
    stream = VideoStream("rtsp", "", 8554, "/saliency", 1280, 720, 29.97, 4_000_000, True)
    with flying(ground, CameraGeometry(68), stream=stream) as (_, _, _):
        assert ground.command(REQUEST, common.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
        flags = ground.wait("CAMERA_INFORMATION").flags
        assert flags & common.CAMERA_CAP_FLAGS_HAS_VIDEO_STREAM
        for stream_id in (0, 1):
            assert ground.command(REQUEST, INFORMATION, stream_id) == ACCEPTED
            information = ground.wait("VIDEO_STREAM_INFORMATION")
            assert (information.stream_id, information.count) == (1, 1)
        assert information.uri == "rtsp://127.0.0.1:8554/saliency"
        assert information.type == common.VIDEO_STREAM_TYPE_RTSP
        assert (information.resolution_h, information.resolution_v) == (1280, 720)
        assert (information.bitrate, information.hfov) == (4_000_000, 68)
        assert information.encoding == common.VIDEO_STREAM_ENCODING_H264
        assert ground.command(REQUEST, INFORMATION, 2) == DENIED
        stream.is_running, stream.bit_rate = False, 1_000_000
        assert ground.command(common.MAV_CMD_REQUEST_VIDEO_STREAM_STATUS, 1) == ACCEPTED
        status = ground.wait("VIDEO_STREAM_STATUS")
        assert (status.flags, status.bitrate) == (0, 1_000_000)
        assert ground.command(common.MAV_CMD_VIDEO_START_STREAMING, 1) == ACCEPTED
        assert ground.command(common.MAV_CMD_VIDEO_STOP_STREAMING, 1) == DENIED, "another one may watch"


def test_udp_stream_is_named_by_its_port(ground: GroundStation) -> None:
    stream = VideoStream("udp", "192.168.1.10", 5600, "", 640, 360, 30, 2_000_000)
    with flying(ground, stream=stream):
        assert ground.command(REQUEST, INFORMATION) == ACCEPTED
        information = ground.wait("VIDEO_STREAM_INFORMATION")
        assert (information.uri, information.type) == ("5600", common.VIDEO_STREAM_TYPE_RTPUDP)
