"""The interlock: nothing is installed or switched while the autopilot says that it is armed.

Meanwhile whoever asks the board for leave to arm is refused: MAV_CMD_ARM_AUTHORIZATION_REQUEST (MAVLink,
common messages), which PX4 sends to the system of its parameter COM_ARM_AUTH_ID. Others cannot be asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

from edge.core.errors import CheckError, InputError

WAIT_S = 3.0
"""Autopilots send a heartbeat each second (MAVLink, "Heartbeat/Connection Protocol")."""
LISTEN_S = 1.5
"""Listened at least, for on a shared link others may be heard first."""
PAUSE_S = 0.05
"""Between looks for who asks for leave to arm."""
ARMED_MESSAGE = "the drone is armed"
REMEDY = "name its link with --autopilot udpin:0.0.0.0:14550, or say --no-autopilot"


class ArmedError(CheckError):
    """The drone flies, or is about to."""


class NoHeartbeatError(InputError):
    """Nobody can tell whether the drone is armed."""


class Autopilot(Protocol):
    """Whom to ask before the board is touched."""

    def check_disarmed(self) -> None:
        """Return if the vehicle is disarmed.

        Raises:
            ArmedError: it is armed.
            NoHeartbeatError: nobody can tell.
        """

    def deny_arming(self) -> AbstractContextManager[object]:
        """Refuse leave to arm, to those that ask for it, for as long as the block lasts."""


class NoAutopilot:
    """There is none to ask, and somebody has said so."""

    def deny_arming(self) -> AbstractContextManager[object]:
        """Do nothing: nobody asks."""
        return nullcontext()

    def check_disarmed(self) -> None:
        """Do nothing."""


class UnknownAutopilot(NoAutopilot):
    """None is named, and nobody has said that there is none."""

    def check_disarmed(self) -> None:
        """Refuse.

        Raises:
            NoHeartbeatError: always.
        """
        raise NoHeartbeatError(
            f"no autopilot is named, so nobody can tell whether the drone is armed; {REMEDY}"
        )


class MavlinkAutopilot:
    """An autopilot that speaks MAVLink; its heartbeat has a flag for being armed.

    `link`: as pymavlink has it. Each check listens anew, so that what it hears is of now.
    """

    def __init__(self, link: str, wait_s: float = WAIT_S) -> None:
        self._link, self._wait_s = link, wait_s
        self._lock = threading.Lock()
        self._held: Any = None

    def check_disarmed(self) -> None:
        """Listen for heartbeats of autopilots (no ground station, no camera): none may say armed."""
        with nullcontext(self._held) if self._held else self._opened() as connection, self._lock:
            try:
                armed = self._listen(connection)
            except OSError as error:
                raise NoHeartbeatError(
                    f"{self._link} broke ({error}), so nobody can tell whether the drone is armed; {REMEDY}"
                ) from None
        if armed is None:
            raise NoHeartbeatError(
                f"no heartbeat of an autopilot on {self._link} in {self._wait_s:g} s, so nobody can tell "
                f"whether the drone is armed; {REMEDY}"
            )
        if armed:
            raise ArmedError(f"{ARMED_MESSAGE}: nothing is installed or switched until it is disarmed")

    @contextmanager
    def deny_arming(self) -> Iterator[None]:
        """Keep the link open, and answer in a thread of its own.

        Raises:
            InputError: the link cannot be opened.
        """
        over = threading.Event()

        def answer() -> None:
            while not over.wait(PAUSE_S):
                with suppress(OSError), self._lock:  # as of a serial line that another program reads, too
                    _refuse(self._held, self._held.recv_match(type="COMMAND_LONG", blocking=False))

        with self._opened() as self._held:
            thread = threading.Thread(target=answer, name="autopilot", daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                self._held = None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            from pymavlink import mavutil
        except ModuleNotFoundError:
            raise InputError(
                "asking an autopilot needs pymavlink, which is not installed: pip install 'aerogaze[jetson]'"
            ) from None
        try:
            connection = mavutil.mavlink_connection(self._link, baud=57600, retries=1)
        except (OSError, ValueError, OverflowError, ImportError) as error:  # OverflowError: no such port
            raise InputError(f"cannot listen on {self._link} ({error}): name another link") from None
        for ended in ("handle_eof", "handle_disconnect"):  # of TCP: they print, and it reads on for nothing
            setattr(connection, ended, _ended)
        try:
            yield connection
        finally:
            connection.close()

    def _listen(self, connection: Any) -> bool | None:
        """Return whether any autopilot says armed; None: none was heard."""
        from pymavlink.mavutil import mavlink

        begun, armed = time.monotonic(), None
        end = begun + self._wait_s
        while (left := end - time.monotonic()) > 0:
            found = connection.recv_match(type=["HEARTBEAT", "COMMAND_LONG"], blocking=True, timeout=left)
            if found is None or found.get_type() == "COMMAND_LONG":
                _refuse(connection, found)
                continue
            if found.autopilot == mavlink.MAV_AUTOPILOT_INVALID:
                continue
            if found.base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED:
                return True
            armed, end = False, min(end, begun + LISTEN_S)
        return armed


def _ended() -> None:
    raise ConnectionResetError("its other end hung up")


def _refuse(connection: Any, command: Any) -> None:
    """Answer a request for leave to arm, in the name of whom it was sent to; no other command is ours."""
    from pymavlink.dialects.v20 import common

    if command is None or command.command != common.MAV_CMD_ARM_AUTHORIZATION_REQUEST:
        return
    asked = command.target_system or 1, command.target_component or common.MAV_COMP_ID_ONBOARD_COMPUTER
    board, vehicle = common.MAVLink(None, *asked), (command.get_srcSystem(), command.get_srcComponent())
    why = common.MAV_ARM_AUTH_DENIED_REASON_GENERIC
    answer = board.command_ack_encode(command.command, common.MAV_RESULT_DENIED, 0, why, *vehicle)
    connection.write(answer.pack(board))
