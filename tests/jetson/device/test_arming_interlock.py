"""A pymavlink autopilot on loopback UDP says whether it is armed."""

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
from jetson.device.arming_interlock import MavlinkAutopilot, NoHeartbeatError, UnknownAutopilot
from tests.conftest import Outcome

pytest.importorskip("pymavlink", reason="pymavlink is not installed")
from pymavlink import mavutil

MAV = mavutil.mavlink


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Vehicle:
    """Sends a heartbeat of an autopilot each so many seconds, and a ground station's beside it."""

    def __init__(
        self,
        port: int,
        autopilot: int = MAV.MAV_AUTOPILOT_PX4,
        *,
        system: int = 1,
        every_s: float = 0.05,
        armed: bool = False,
    ) -> None:
        self.armed, self._autopilot, self._every_s = armed, autopilot, every_s
        self._link = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}", source_system=system, source_component=1
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._stop.wait(self._every_s):
            mode = MAV.MAV_MODE_FLAG_SAFETY_ARMED if self.armed else 0
            send = self._link.mav.heartbeat_send
            send(MAV.MAV_TYPE_GCS, MAV.MAV_AUTOPILOT_INVALID, MAV.MAV_MODE_FLAG_SAFETY_ARMED, 0, 0)
            send(MAV.MAV_TYPE_QUADROTOR, self._autopilot, mode, 0, MAV.MAV_STATE_STANDBY)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._link.close()


@contextmanager
def vehicle(port: int, **options: Any) -> Iterator[Vehicle]:
    flying = Vehicle(port, **options)
    try:
        yield flying
    finally:
        flying.close()


def test_a_disarmed_drone_may_be_touched_and_an_armed_one_not() -> None:
    port = free_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}")
    with vehicle(port) as drone:
        autopilot.check_disarmed()
        drone.armed = True
        with pytest.raises(CheckError, match="the drone is armed"):
            autopilot.check_disarmed()
        drone.armed = False
        autopilot.check_disarmed()


def test_a_neighbour_that_is_heard_first_does_not_speak_for_an_armed_drone() -> None:
    port = free_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}")
    with (
        vehicle(port, system=2),
        vehicle(port, every_s=1.0, armed=True),
        pytest.raises(CheckError, match="the drone is armed"),
    ):
        autopilot.check_disarmed()


def test_ground_stations_and_silence_tell_nothing() -> None:
    port = free_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}", wait_s=0.3)
    with (
        vehicle(port, autopilot=MAV.MAV_AUTOPILOT_INVALID),
        pytest.raises(NoHeartbeatError, match=r"in 0\.3 s"),
    ):
        autopilot.check_disarmed()
    with pytest.raises(NoHeartbeatError, match="say --no-autopilot"):
        autopilot.check_disarmed()
    with pytest.raises(NoHeartbeatError, match="no autopilot is named"):
        UnknownAutopilot().check_disarmed()


def test_a_tcp_link_whose_other_end_hangs_up_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        autopilot = MavlinkAutopilot(f"tcp:127.0.0.1:{server.getsockname()[1]}")
        hang_up = threading.Thread(target=lambda: server.accept()[0].close())
        hang_up.start()
        with pytest.raises(NoHeartbeatError, match=r"broke \(its other end hung up\)"):
            autopilot.check_disarmed()
        hang_up.join()
    with pytest.raises(InputError, match="cannot listen on tcp"):
        autopilot.check_disarmed()
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pymavlink's socket
def test_a_link_that_cannot_be_opened_is_one_line() -> None:
    for link in ("/dev/no-such-line", "udpin:999.0.0.1:1", "udpin:127.0.0.1:99999"):
        with pytest.raises(InputError, match=f"cannot listen on {link}"):
            MavlinkAutopilot(link).check_disarmed()


def test_nothing_is_installed_while_armed(
    command: Callable[..., Outcome], make: Callable[..., Path], public: Path, tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_port()
    command("device", "trust", public, "--root", root)
    words = ["device", "install", make(), "--root", root, "--autopilot", f"udpin:127.0.0.1:{port}"]
    with vehicle(port) as drone:
        drone.armed = True
        refused = command(*words)
        assert refused.code == 1
        assert "the drone is armed" in refused.err
        assert not (root / "state.json").exists()
        drone.armed = False
        assert command(*words).code == 0


class Asking:
    """A vehicle's link that asks system 10 for leave to arm, and hears what it is told."""

    def __init__(self, port: int) -> None:
        self._link = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}", source_system=1, source_component=1
        )

    def ask(self, command: int = MAV.MAV_CMD_ARM_AUTHORIZATION_REQUEST) -> Any:
        self._link.mav.command_long_send(10, 191, command, 0, 1, 0, 0, 0, 0, 0, 0)
        return self._link.recv_match(type="COMMAND_ACK", blocking=True, timeout=0.5)

    def close(self) -> None:
        self._link.close()


def test_leave_to_arm_is_refused_meanwhile_and_only_then() -> None:
    port = free_port()
    autopilot = MavlinkAutopilot(f"udpin:127.0.0.1:{port}")
    with vehicle(port), closing(Asking(port)) as asking:
        with autopilot.deny_arming():
            for _ in range(3):
                told = asking.ask()
                assert told.result == MAV.MAV_RESULT_DENIED
                assert (told.get_srcSystem(), told.get_srcComponent()) == (10, 191)
                assert (told.target_system, told.target_component) == (1, 1)
                assert told.result_param2 == MAV.MAV_ARM_AUTH_DENIED_REASON_GENERIC
                autopilot.check_disarmed()  # which hears the requests, too
            assert asking.ask(MAV.MAV_CMD_COMPONENT_ARM_DISARM) is None, "no other command is answered"
        assert asking.ask() is None
        autopilot.check_disarmed()


def test_an_install_refuses_leave_to_arm(
    command: Callable[..., Outcome], make: Callable[..., Path], public: Path, tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_port()
    command("device", "trust", public, "--root", root)
    words = ["device", "install", str(make()), "--root", str(root), "--autopilot", f"udpin:127.0.0.1:{port}"]
    with vehicle(port), closing(Asking(port)) as asking:
        install = subprocess.Popen([sys.executable, "-m", "edge.cli.main", *words], stderr=subprocess.DEVNULL)
        told = []
        while install.poll() is None:
            told.append(asking.ask())
        assert install.returncode == 0
    assert any(answer is not None and answer.result == MAV.MAV_RESULT_DENIED for answer in told)


def test_whether_it_is_disarmed_can_be_asked_by_itself(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_port()
    words = ["device", "disarmed", "--root", root, "--autopilot", f"udpin:127.0.0.1:{port}"]
    with vehicle(port) as drone:
        assert command(*words).code == 0
        drone.armed = True
        assert command(*words).code == 1
    assert command("device", "disarmed", "--root", root, "--no-autopilot").code == 0
    assert not root.exists()


def test_a_drone_armed_while_its_engines_are_tried_is_not_switched(
    command: Callable[..., Outcome], make: Callable[..., Path], public: Path, tmp_path: Path
) -> None:
    root, port = tmp_path / "drone", free_port()
    command("device", "trust", public, "--root", root)
    words = ["device", "install", str(make()), "--root", str(root), "--autopilot", f"udpin:127.0.0.1:{port}"]
    with vehicle(port) as drone:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge.cli.main", *words], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            drone.armed = drone.armed or "writing slot" in line
        assert process.wait() == 1
        process.stderr.close()
    assert "the drone is armed" in said
    assert "switched to slot" not in said


def test_who_sits_at_the_terminal_is_asked(make: Callable[..., Path], public: Path, tmp_path: Path) -> None:
    root, port = str(tmp_path / "drone"), free_port()
    aerogaze = [sys.executable, "-m", "edge.cli.main", "device"]
    subprocess.run([*aerogaze, "trust", str(public), "--root", root], check=True, capture_output=True)
    words = [*aerogaze, "install", str(make()), "--root", root, "--autopilot", f"udpin:127.0.0.1:{port}"]
    for answer, code in (("n\n", 2), ("y\n", 0)):
        terminal, end = pty.openpty()
        os.write(terminal, answer.encode())
        done = subprocess.run(words, stdin=end, capture_output=True, text=True)
        os.close(end)
        os.close(terminal)
        assert done.returncode == code, done.stderr
        assert "Is the drone disarmed and on the ground?" in done.stderr
