"""Arming interlock, with pymavlink vehicles on loopback UDP."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import CheckError, InputError
from jetson.device import arming_interlock
from jetson.device.arming_interlock import MavlinkAutopilot, NoHeartbeatError, UnknownAutopilot
from tests.conftest import Outcome
from tests.support.ports import free_udp_port

pytest.importorskip("pymavlink", reason="pymavlink is not installed: pip install 'aerogaze[mavlink]'")
from pymavlink import mavutil

MAV = mavutil.mavlink
PATIENCE_S = 30.0
"""Waits for something that must come end when it comes, at the latest after this time."""


class Vehicle:
    """Sends heartbeats of an autopilot, and as many of an armed ground station on the same link."""

    def __init__(
        self,
        port: int,
        autopilot: int = MAV.MAV_AUTOPILOT_PX4,
        *,
        system: int = 1,
        every_s: float = 0.05,
        armed: bool = False,
    ) -> None:
        self._armed, self._autopilot, self._every_s = armed, autopilot, every_s
        self._sending = threading.Lock()
        self._link = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}", source_system=system, source_component=1
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    @property
    def armed(self) -> bool:
        """Whether the autopilot reports armed. Once it is set, no heartbeat with the old value is sent."""
        return self._armed

    @armed.setter
    def armed(self, armed: bool) -> None:
        with self._sending:
            self._armed = armed

    def _send(self) -> None:
        while not self._stop.wait(self._every_s):
            send = self._link.mav.heartbeat_send
            send(MAV.MAV_TYPE_GCS, MAV.MAV_AUTOPILOT_INVALID, MAV.MAV_MODE_FLAG_SAFETY_ARMED, 0, 0)
            with self._sending:
                mode = MAV.MAV_MODE_FLAG_SAFETY_ARMED if self._armed else 0
                send(MAV.MAV_TYPE_QUADROTOR, self._autopilot, mode, 0, MAV.MAV_STATE_STANDBY)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._link.close()


@contextmanager
def run_vehicle(port: int, **options: Any) -> Iterator[Vehicle]:
    vehicle = Vehicle(port, **options)
    try:
        yield vehicle
    finally:
        vehicle.close()


@pytest.fixture
def short_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a check soon after the first heartbeat: there is one vehicle only, which sends many a second."""
    monkeypatch.setattr(arming_interlock, "MIN_LISTEN_S", 0.1)


@pytest.mark.usefixtures("short_listen")
def test_check_raises_only_while_the_vehicle_is_armed() -> None:
    port = free_udp_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=PATIENCE_S)
    with run_vehicle(port) as drone:
        autopilot.check_disarmed()
        drone.armed = True
        with pytest.raises(CheckError, match="the drone is armed"):
            autopilot.check_disarmed()
        drone.armed = False
        autopilot.check_disarmed()


def test_check_raises_if_a_second_vehicle_on_the_link_is_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arming_interlock.MIN_LISTEN_S > 1, "an autopilot sends one heartbeat per second"
    monkeypatch.setattr(arming_interlock, "MIN_LISTEN_S", PATIENCE_S)  # a slow machine may delay heartbeats
    port = free_udp_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=PATIENCE_S)
    with (
        run_vehicle(port, system=2),
        run_vehicle(port, every_s=1.0, armed=True),
        pytest.raises(CheckError, match="the drone is armed"),
    ):
        autopilot.check_disarmed()


def test_check_raises_no_heartbeat_without_an_autopilot() -> None:
    port = free_udp_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=0.3)
    with (
        run_vehicle(port, autopilot=MAV.MAV_AUTOPILOT_INVALID),
        pytest.raises(NoHeartbeatError, match=r"in 0\.3 s"),
    ):
        autopilot.check_disarmed()
    with pytest.raises(NoHeartbeatError, match="use --no-autopilot"):
        autopilot.check_disarmed()
    with pytest.raises(NoHeartbeatError, match="no autopilot is named"):
        UnknownAutopilot().check_disarmed()


def test_check_raises_and_prints_nothing_if_the_tcp_link_closes(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        autopilot = MavlinkAutopilot(f"tcp:127.0.0.1:{server.getsockname()[1]}")
        hang_up = threading.Thread(target=lambda: server.accept()[0].close())
        hang_up.start()
        with pytest.raises(NoHeartbeatError, match=r"broke \(the other end closed the connection\)"):
            autopilot.check_disarmed()
        hang_up.join()
    with pytest.raises(InputError, match="cannot listen on tcp"):
        autopilot.check_disarmed()
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pymavlink's socket
def test_check_raises_input_error_if_the_link_cannot_be_opened() -> None:
    for link in ("/dev/no-such-line", "udpin:999.0.0.1:1", "udpin:127.0.0.1:99999"):
        with pytest.raises(InputError, match=f"cannot listen on {link}"):
            MavlinkAutopilot(link).check_disarmed()


@pytest.mark.usefixtures("short_listen")
def test_install_is_refused_while_the_drone_is_armed(
    command: Callable[..., Outcome], make_bundle: Callable[..., Path], public_key_file: Path, tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_udp_port()
    command("device", "trust", public_key_file, "--root", root)
    words = ["device", "install", make_bundle(), "--root", root, "--autopilot", f"udpin:127.0.0.1:{port}"]
    with run_vehicle(port) as drone:
        drone.armed = True
        refused = command(*words)
        assert refused.code == 1
        assert "the drone is armed" in refused.err
        assert not (root / "state.json").exists()
        drone.armed = False
        assert command(*words).code == 0


def make_heartbeat(component: int, kind: int, autopilot: int, armed: bool = False) -> Any:
    sender = MAV.MAVLink(None, 1, component)
    mode = MAV.MAV_MODE_FLAG_SAFETY_ARMED if armed else 0
    packed = MAV.MAVLink_heartbeat_message(kind, autopilot, mode, 0, MAV.MAV_STATE_ACTIVE, 3).pack(sender)
    return MAV.MAVLink(None).decode(bytearray(packed))


NO_AUTOPILOTS = {
    "camera": (100, MAV.MAV_TYPE_CAMERA),
    "camera with the id of an autopilot": (1, MAV.MAV_TYPE_CAMERA),
    "camera with the type of its vehicle": (101, MAV.MAV_TYPE_QUADROTOR),
    "gimbal": (154, MAV.MAV_TYPE_GIMBAL),
    "gimbal with the type of its vehicle": (171, MAV.MAV_TYPE_HEXAROTOR),
    "ground station": (190, MAV.MAV_TYPE_GCS),
    "ground station with the id of an autopilot": (1, MAV.MAV_TYPE_GCS),
    "companion computer": (191, MAV.MAV_TYPE_ONBOARD_CONTROLLER),
    "companion computer of generic type": (191, MAV.MAV_TYPE_GENERIC),
    "bridge": (240, MAV.MAV_TYPE_ONBOARD_CONTROLLER),
    "script with pymavlink's default id": (0, MAV.MAV_TYPE_GENERIC),
    "telemetry radio": (68, MAV.MAV_TYPE_FIXED_WING),
    "transponder": (156, MAV.MAV_TYPE_ADSB),
    "antenna tracker": (1, MAV.MAV_TYPE_ANTENNA_TRACKER),
    "unknown component": (25, 250),
}


@pytest.mark.parametrize("name", NO_AUTOPILOTS)
@pytest.mark.parametrize("autopilot", [MAV.MAV_AUTOPILOT_GENERIC, MAV.MAV_AUTOPILOT_ARDUPILOTMEGA])
def test_component_that_names_an_autopilot_is_none(name: str, autopilot: int) -> None:
    assert not arming_interlock.is_autopilot(make_heartbeat(*NO_AUTOPILOTS[name], autopilot))


@pytest.mark.parametrize("autopilot", [MAV.MAV_AUTOPILOT_PX4, MAV.MAV_AUTOPILOT_GENERIC])
@pytest.mark.parametrize(
    ("component", "kind"),
    [
        (1, MAV.MAV_TYPE_QUADROTOR),
        (1, MAV.MAV_TYPE_GENERIC),
        (1, MAV.MAV_TYPE_FIXED_WING),
        (1, MAV.MAV_TYPE_VTOL_TILTROTOR),
        (1, MAV.MAV_TYPE_GROUND_ROVER),
        (1, MAV.MAV_TYPE_SUBMARINE),
        (1, MAV.MAV_TYPE_DECAROTOR),
        (1, 250),  # a type of vehicle that is newer than pymavlink
        (50, MAV.MAV_TYPE_QUADROTOR),
    ],
)
def test_flight_controller_of_a_vehicle_is_an_autopilot(component: int, kind: int, autopilot: int) -> None:
    assert arming_interlock.is_autopilot(make_heartbeat(component, kind, autopilot))


@contextmanager
def send_heartbeats(port: int, *heartbeats: Any) -> Iterator[None]:
    """Send messages again and again while the block runs."""
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.wait(0.02):
                for heartbeat in heartbeats:
                    sender.sendto(heartbeat.get_msgbuf(), ("127.0.0.1", port))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_check_raises_no_heartbeat_if_only_other_components_are_heard() -> None:
    port = free_udp_port()
    others = [make_heartbeat(*place, MAV.MAV_AUTOPILOT_GENERIC) for place in NO_AUTOPILOTS.values()]
    with (
        send_heartbeats(port, *others),
        pytest.raises(NoHeartbeatError, match="no heartbeat of an autopilot"),
    ):
        MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=0.5).check_disarmed()


def test_armed_companion_blocks_nobody() -> None:
    port = free_udp_port()
    companion = make_heartbeat(240, MAV.MAV_TYPE_ONBOARD_CONTROLLER, MAV.MAV_AUTOPILOT_GENERIC, armed=True)
    drone = make_heartbeat(1, MAV.MAV_TYPE_QUADROTOR, MAV.MAV_AUTOPILOT_ARDUPILOTMEGA)
    with send_heartbeats(port, companion, drone):
        MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=PATIENCE_S).check_disarmed()


class ArmingRequester:
    """Vehicle that asks system 10 for authorization to arm, and receives the answer."""

    def __init__(self, port: int) -> None:
        self._link = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}", source_system=1, source_component=1
        )

    def request(self, command: int = MAV.MAV_CMD_ARM_AUTHORIZATION_REQUEST, timeout_s: float = 0.5) -> Any:
        self._link.mav.command_long_send(10, 191, command, 0, 1, 0, 0, 0, 0, 0, 0)
        return self._link.recv_match(type="COMMAND_ACK", blocking=True, timeout=timeout_s)

    def request_by_command_int(self, timeout_s: float) -> Any:
        command = MAV.MAV_CMD_ARM_AUTHORIZATION_REQUEST
        self._link.mav.command_int_send(10, 191, 0, command, 0, 0, 1, 0, 0, 0, 0, 0, 0)
        return self._link.recv_match(type="COMMAND_ACK", blocking=True, timeout=timeout_s)

    def close(self) -> None:
        self._link.close()


def test_arming_request_by_command_int_is_denied() -> None:
    port = free_udp_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=PATIENCE_S)
    with closing(ArmingRequester(port)) as requester, autopilot.deny_arming():
        answer = requester.request_by_command_int(PATIENCE_S)
    assert (answer.command, answer.result) == (
        MAV.MAV_CMD_ARM_AUTHORIZATION_REQUEST,
        MAV.MAV_RESULT_DENIED,
    )
    assert (answer.get_srcSystem(), answer.get_srcComponent()) == (10, 191)


@pytest.mark.usefixtures("short_listen")
def test_arming_requests_are_denied_only_within_deny_arming() -> None:
    port = free_udp_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}", timeout_s=PATIENCE_S)
    with run_vehicle(port), closing(ArmingRequester(port)) as requester:
        with autopilot.deny_arming():
            for _ in range(3):
                answer = requester.request(timeout_s=PATIENCE_S)
                assert answer.result == MAV.MAV_RESULT_DENIED
                assert (answer.get_srcSystem(), answer.get_srcComponent()) == (10, 191)
                assert (answer.target_system, answer.target_component) == (1, 1)
                assert answer.result_param2 == MAV.MAV_ARM_AUTH_DENIED_REASON_GENERIC
                autopilot.check_disarmed()  # it receives the requests as well
            assert requester.request(MAV.MAV_CMD_COMPONENT_ARM_DISARM) is None, "no other command is answered"
        assert requester.request() is None
        autopilot.check_disarmed()


def test_install_denies_arming_requests(
    command: Callable[..., Outcome], make_bundle: Callable[..., Path], public_key_file: Path, tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_udp_port()
    command("device", "trust", public_key_file, "--root", root)
    words = [
        "device",
        "install",
        str(make_bundle()),
        "--root",
        str(root),
        "--autopilot",
        f"udpin:127.0.0.1:{port}",
    ]
    with run_vehicle(port), closing(ArmingRequester(port)) as requester:
        install = subprocess.Popen([sys.executable, "-m", "edge.cli.main", *words], stderr=subprocess.DEVNULL)
        answers = []
        while install.poll() is None:
            answers.append(requester.request())
        assert install.returncode == 0
    assert any(answer is not None and answer.result == MAV.MAV_RESULT_DENIED for answer in answers)


@pytest.mark.usefixtures("short_listen")
def test_disarmed_command_exits_with_one_while_armed(command: Callable[..., Outcome], tmp_path: Path) -> None:
    root, port = tmp_path / "drone", free_udp_port()
    words = ["device", "disarmed", "--root", root, "--autopilot", f"udpin:127.0.0.1:{port}"]
    with run_vehicle(port) as drone:
        assert command(*words).code == 0
        drone.armed = True
        assert command(*words).code == 1
    assert command("device", "disarmed", "--root", root, "--no-autopilot").code == 0
    assert not root.exists()


def test_install_does_not_switch_if_the_drone_is_armed_during_the_trial(
    command: Callable[..., Outcome], make_bundle: Callable[..., Path], public_key_file: Path, tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_udp_port()
    command("device", "trust", public_key_file, "--root", root)
    words = [
        "device",
        "install",
        str(make_bundle()),
        "--root",
        str(root),
        "--autopilot",
        f"udpin:127.0.0.1:{port}",
    ]
    with run_vehicle(port) as drone:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge.cli.main", *words], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        output = ""
        for line in process.stderr:
            output += line
            drone.armed = drone.armed or "writing slot" in line
        assert process.wait() == 1
        process.stderr.close()
    assert "the drone is armed" in output
    assert "switched to slot" not in output


IMPATIENT = """
from jetson.device import arming_interlock
arming_interlock.MavlinkAutopilot.__init__.__defaults__ = (0.2,)  # nothing sends heartbeats
from edge.cli.main import main
main()
"""


def test_install_asks_at_the_terminal_if_the_armed_state_is_unknown(
    make_bundle: Callable[..., Path], public_key_file: Path, tmp_path: Path
) -> None:
    root, port = str(tmp_path / "drone"), free_udp_port()
    aerogaze = [sys.executable, "-c", IMPATIENT, "device"]
    subprocess.run(
        [*aerogaze, "trust", str(public_key_file), "--root", root], check=True, capture_output=True
    )
    words = [
        *aerogaze,
        "install",
        str(make_bundle()),
        "--root",
        root,
        "--autopilot",
        f"udpin:127.0.0.1:{port}",
    ]
    for answer, code in (("n\n", 2), ("y\n", 0)):
        terminal, end = pty.openpty()
        os.write(terminal, answer.encode())
        done = subprocess.run(words, stdin=end, capture_output=True, text=True)
        os.close(end)
        os.close(terminal)
        assert done.returncode == code, done.stderr
        assert "Is the drone disarmed and on the ground?" in done.stderr
