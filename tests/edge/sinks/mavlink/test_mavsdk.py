"""MAVSDK's own camera and gimbal plugins as the client of the MAVLink camera, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.sinks.video_stream import VideoStream
from tests.support.gimbal_manager import AUTOPILOT, GimbalManager
from tests.support.ground_station import CAMERA, VEHICLE, GroundStation
from tests.support.mavlink_flight import Flight, flying, region, result
from tests.support.ports import free_udp_port
from tests.support.waiting import wait_until

mavsdk = pytest.importorskip("mavsdk", reason="MAVSDK is not installed: pip install mavsdk")


SETPOINT = "GIMBAL_MANAGER_SET_PITCHYAW"


class Client(NamedTuple):
    """A flight that MAVSDK sees, its port, its view of the vehicle, and its camera plugin."""

    flight: Flight
    camera: Any
    plugin: Any
    system: Any
    port: int


@pytest.fixture
def client(ground: GroundStation) -> Iterator[Client]:
    from mavsdk.plugins.camera import camera as plugin

    port = free_udp_port()
    configuration = mavsdk.Configuration.create_with_component_type(mavsdk.ComponentType.GROUND_STATION)
    with mavsdk.Mavsdk(configuration) as station:
        assert station.add_any_connection(f"udpin://127.0.0.1:{port}") == mavsdk.ConnectionResult.SUCCESS
        stream = VideoStream("rtsp", "", 8554, "/saliency", 1280, 720, 30, 4_000_000, True)
        links = [f"udpout:127.0.0.1:{each}" for each in (ground.port, port)]
        with flying(ground, CameraGeometry(68), stream=stream, links=links) as flight:
            flight.sink.write(result(region(), region(0.2, number=2)))

            def find_camera() -> bool:
                flight.clock.advance(1)  # the next heartbeat
                return any(system.has_camera() for system in station.get_systems())

            assert wait_until(find_camera)
            system = next(each for each in station.get_systems() if each.get_system_id() == VEHICLE)
            camera = plugin.Camera(system)
            assert wait_until(lambda: bool(camera.camera_list().cameras))
            yield Client(flight, camera, plugin, system, port)


def tracked(ground: GroundStation, client: Client) -> float:
    """Return the left edge of the region that the camera tracks; NaN for none."""
    ground.flush()
    client.flight.clock.advance(1)
    client.flight.sink.write(result(region(), region(0.2, number=2)))
    return float(ground.wait("CAMERA_TRACKING_IMAGE_STATUS").rec_top_x)


def test_camera_describes_itself_and_its_stream(client: Client) -> None:
    (information,) = client.camera.camera_list().cameras
    assert (information.component_id, information.vendor_name) == (CAMERA, "Aerogaze")
    assert information.model_name == "skd-64"
    assert (information.horizontal_resolution_px, information.vertical_resolution_px) == (160, 90)

    def stream_is_known() -> bool:
        try:
            return bool(client.camera.get_video_stream_info(CAMERA).settings.uri)
        except client.plugin.CameraError:
            return False

    assert wait_until(stream_is_known)
    stream = client.camera.get_video_stream_info(CAMERA)
    assert stream.settings.uri == "rtsp://127.0.0.1:8554/saliency"
    size = stream.settings.horizontal_resolution_pix, stream.settings.vertical_resolution_pix
    assert size == (1280, 720)
    assert stream.status == client.plugin.VideoStreamInfo.VideoStreamStatus.IN_PROGRESS


def test_taps_and_letting_go_work(client: Client, ground: GroundStation) -> None:
    success = client.plugin.CameraResult.SUCCESS
    assert client.camera.track_point(CAMERA, 0.2, 0.5, 0.05) == success
    assert tracked(ground, client) == pytest.approx(0.15)
    assert client.camera.track_rectangle(CAMERA, 0.6, 0.3, 0.9, 0.7) == success
    assert tracked(ground, client) == pytest.approx(0.7)
    with pytest.raises(client.plugin.CameraError) as error:
        client.camera.track_point(CAMERA, 0.45, 0.5, 0.05)
    assert error.value.result == client.plugin.CameraResult.DENIED, "nothing is there"
    with pytest.raises(client.plugin.CameraError) as error:
        client.camera.track_point(CAMERA, 1.45, 0.5, 0.05)
    assert error.value.result == client.plugin.CameraResult.DENIED
    assert tracked(ground, client) == pytest.approx(0.7)
    assert client.camera.track_stop(CAMERA) == success
    assert tracked(ground, client) != tracked(ground, client), "NaN: nothing is tracked"


def test_camera_is_no_gimbal_and_yields_one_that_a_pilot_takes(client: Client, ground: GroundStation) -> None:
    from mavsdk.plugins.gimbal import gimbal as plugin

    def moves_gimbal() -> bool:
        ground.flush()
        client.flight.clock.advance(1)
        client.flight.sink.write(result(region()))
        return any(message.get_type() == SETPOINT for message in ground.flush())

    manager = GimbalManager(client.port, ground)
    try:
        gimbal = plugin.Gimbal(client.system)
        assert wait_until(lambda: bool(gimbal.gimbal_list().gimbals))
        (item,) = gimbal.gimbal_list().gimbals
        assert item.gimbal_manager_component_id == AUTOPILOT, "the camera is none"
        assert moves_gimbal()
        gimbal.take_control(item.gimbal_id, plugin.ControlMode.PRIMARY)
        assert wait_until(lambda: manager.controller not in ((0, 0), (VEHICLE, CAMERA)))
        assert wait_until(lambda: not moves_gimbal())
        assert not moves_gimbal()
        gimbal.release_control(item.gimbal_id)
        assert wait_until(moves_gimbal)
    finally:
        manager.close()
