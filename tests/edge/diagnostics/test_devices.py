"""Checks of cameras, meters, clocks, disk and autopilot on trees and stand-ins."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.diagnostics.devices import check_autopilot, check_cameras, check_disk, check_sensors
from edge.hardware.board import read_board_facts
from tests.support.machines import write_orin
from tests.support.ports import free_udp_port
from tests.support.sensor_trees import DESKTOP_FILES, write_tree

WEBCAM = {
    "dev/video0": "",
    "dev/video1": "",
    "sys/class/video4linux/video0/name": "HD Webcam\n",
    "sys/class/video4linux/video0/index": "0\n",
    "sys/class/video4linux/video1/name": "HD Webcam\n",
    "sys/class/video4linux/video1/index": "1\n",
}
CSI = {"dev/video0": "", "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n"}


def test_camera_is_listed_once_with_its_name(tmp_path: Path) -> None:
    root = write_tree(tmp_path, WEBCAM)
    (finding,) = check_cameras(root, read_board_facts(root))
    assert (finding.state, finding.text) == ("ok", "/dev/video0 (HD Webcam)")


def test_camera_that_is_refused_needs_the_group_video(tmp_path: Path) -> None:
    root = write_tree(tmp_path, WEBCAM)
    (finding,) = check_cameras(root, read_board_facts(root), lambda path: "Permission denied")
    assert finding.state == "lacks"
    assert finding.remedy.startswith("sudo usermod -aG video $USER")


def test_csi_camera_of_a_board_needs_the_daemon(tmp_path: Path) -> None:
    root = write_tree(write_orin(tmp_path), CSI)
    camera, daemon = check_cameras(root, read_board_facts(root))
    assert camera.text == "csi:0 (imx219 9-0010)"
    assert daemon.remedy == "sudo systemctl restart nvargus-daemon"
    write_tree(root, {"tmp/argus_socket": ""})
    assert len(list(check_cameras(root, read_board_facts(root)))) == 1


def test_machine_without_a_camera_lacks_none(tmp_path: Path) -> None:
    (finding,) = check_cameras(tmp_path, read_board_facts(tmp_path))
    assert finding.state == "none"


def test_meters_and_clocks_of_a_board_are_readable(tmp_path: Path) -> None:
    meter, sensors = check_sensors(write_orin(tmp_path), None)
    assert (meter.state, sensors.state) == ("ok", "ok")
    assert "VDD_IN" in meter.text
    assert sensors.text == "readable: clocks (2), temperatures (2), throttling (2)"


def test_container_says_what_it_cannot_read(tmp_path: Path) -> None:
    meter, sensors = check_sensors(tmp_path, None)
    assert (meter.state, sensors.state) == ("none", "none")
    assert "not readable here: clocks, temperatures, throttling" in sensors.text


def test_desktop_reads_the_processor(tmp_path: Path) -> None:
    meter, _ = check_sensors(write_tree(tmp_path, DESKTOP_FILES), None)
    assert "RAPL" in meter.text


def test_full_disk_is_named_with_the_variable_that_moves_the_cache(tmp_path: Path) -> None:
    folders = {"cache": tmp_path / "cache", "here": tmp_path}
    assert check_disk(folders, lambda path: 10**10).state == "ok"
    finding = check_disk(folders, lambda path: 10**9)
    assert finding.state == "lacks"
    assert "cache, here" in finding.text
    assert "AEROGAZE_CACHE" in finding.remedy


class _Link:
    """Link that gives messages and then nothing."""

    def __init__(self, *messages: Any) -> None:
        self.messages, self.closed = list(messages), False

    def recv_match(self, **_: Any) -> Any:
        return self.messages.pop(0) if self.messages else None

    def close(self) -> None:
        self.closed = True


def _heartbeat(autopilot: int, mode: int) -> SimpleNamespace:
    return SimpleNamespace(autopilot=autopilot, base_mode=mode, get_srcSystem=lambda: 7)


def test_autopilot_is_heard_and_a_ground_station_is_not_one() -> None:
    link = _Link(_heartbeat(8, 128), _heartbeat(3, 0))
    finding = check_autopilot("udpin:0.0.0.0:14550", lambda endpoint: link)
    assert (finding.state, finding.text) == ("ok", "system 7 is heard, disarmed")
    assert link.closed


def test_silent_link_says_what_to_check() -> None:
    finding = check_autopilot("udpin:0.0.0.0:14550", lambda endpoint: _Link(), timeout_s=0.01)
    assert finding.state == "lacks"
    assert "no heartbeat" in finding.text
    assert "baud rate" in finding.remedy


def test_missing_package_of_a_link_is_named_with_its_extra() -> None:
    def fail(endpoint: str) -> Any:
        raise ModuleNotFoundError("No module named 'serial'", name="serial")

    finding = check_autopilot("/dev/ttyTHS1", fail)
    assert "serial" in finding.text
    assert finding.remedy == "pip install 'aerogaze[mavlink]'"


@pytest.mark.parametrize("error", [OSError("busy"), ValueError("no port")])
def test_link_that_does_not_open_is_a_lack(error: Exception) -> None:
    def fail(endpoint: str) -> Any:
        raise error

    finding = check_autopilot("udpin:nonsense", fail)
    assert "does not open" in finding.text


def test_peer_that_waits_for_a_heartbeat_answers_on_udpout() -> None:
    mavutil = pytest.importorskip(
        "pymavlink.mavutil", reason="pymavlink is not installed: pip install 'aerogaze[mavlink]'"
    )
    port = free_udp_port()
    vehicle = mavutil.mavlink_connection(f"udpin:127.0.0.1:{port}", source_system=9)

    def answer() -> None:
        if vehicle.recv_match(type="HEARTBEAT", blocking=True, timeout=20) is not None:
            vehicle.mav.heartbeat_send(2, 12, 0, 0, 4)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        finding = check_autopilot(f"udpout:127.0.0.1:{port}", timeout_s=20)
    finally:
        thread.join()
        vehicle.close()
    assert (finding.state, finding.text) == ("ok", "system 9 is heard, disarmed")


def test_heartbeat_over_udp_is_heard() -> None:
    mavutil = pytest.importorskip(
        "pymavlink.mavutil", reason="pymavlink is not installed: pip install 'aerogaze[mavlink]'"
    )
    port, done = free_udp_port(), threading.Event()
    sender = mavutil.mavlink_connection(f"udpout:127.0.0.1:{port}", source_system=7)

    def send() -> None:
        while not done.wait(0.05):
            sender.mav.heartbeat_send(2, 3, 128, 0, 4)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        finding = check_autopilot(f"udpin:127.0.0.1:{port}", timeout_s=20)
    finally:
        done.set()
        thread.join()
        sender.close()
    assert (finding.state, finding.text) == ("ok", "system 7 is heard, armed")
