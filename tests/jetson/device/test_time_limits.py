"""Time limits follow the measured start of the releases on a board, within stated bounds."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import CheckError
from edge.pipeline.systemd import SystemdNotifier, extend_watchdog
from jetson.device.board import DeviceBoard
from jetson.device.service import CommandService
from jetson.device.status import status_document
from jetson.device.time_limits import MAX_REVERT_S, TimeLimits, derive_limits, measure_start
from tests.support.boards import install_bundle


@pytest.mark.parametrize(
    ("start_s", "expected"),
    [
        (None, TimeLimits(7, 6, 8)),
        (1.0, TimeLimits(7, 6, 8)),
        (8.0, TimeLimits(24, 8, 10)),
        (500.0, TimeLimits(60, 28, 30)),
    ],
)
def test_limits_grow_with_the_start_between_minimum_and_maximum(
    start_s: float | None, expected: TimeLimits
) -> None:
    assert derive_limits(start_s) == expected
    assert derive_limits(start_s).revert_s <= MAX_REVERT_S == 210
    assert expected.watch_s > expected.watchdog_s


def test_times_of_the_owner_stay_as_they_are() -> None:
    service = CommandService(("true",), watch_s=3, command_s=2).limited(8.0)
    assert (service.watch_s, service.command_s) == (3, 2)
    assert CommandService(("true",)).limited(8.0).command_s == 24


def test_start_is_stored_with_the_flown_precision_and_shown_in_the_status(
    board: DeviceBoard, make_bundle: Callable[..., Path]
) -> None:
    install_bundle(board, make_bundle(counter=1))
    assert status_document(board, board.read_state(), None)["limits"] is None, "without a service"
    board.service = CommandService(("true",))
    board.measure_start = lambda folder, precision, engine: 8.0
    state = install_bundle(board, make_bundle(counter=2))
    assert state.current_slot is not None
    assert [row["start_s"] for row in state.current_slot.measured] == [8.0]
    expected = {"start_s": 8.0, "command_s": 24.0, "watchdog_s": 8.0, "watch_s": 10.0, "revert_s": 82.0}
    assert status_document(board, board.read_state(), None)["limits"] == expected


def test_restart_of_a_slow_board_has_the_time_that_its_start_needs(
    board: DeviceBoard, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []
    monkeypatch.setattr(CommandService, "_run", lambda self, *words: limits.append(self.command_s))
    board.service = CommandService(("true",))
    board.measure_start = lambda folder, precision, engine: 9.0
    install_bundle(board, make_bundle(counter=1))
    assert limits == [27.0]


def test_release_that_does_not_start_by_itself_is_refused(
    board: DeviceBoard, make_bundle: Callable[..., Path]
) -> None:
    install_bundle(board, make_bundle(counter=1))
    folder = board.release_folder("a")
    assert measure_start(folder, "int8", "onnxruntime") > 0
    with pytest.raises(CheckError, match="does not start in a process of its own: aerogaze: "):
        measure_start(folder / "missing", "int8", "onnxruntime")


def test_watchdog_is_extended_for_the_program_that_follows(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "6000000"}
        extend_watchdog(5.0, 15.0, environ)
        assert environ["WATCHDOG_USEC"] == "6000000", "never shorter"
        extend_watchdog(9.5, 28.5, environ)
        assert listener.recv(100) == b"WATCHDOG_USEC=28500000", "it has not started yet"
        assert environ["WATCHDOG_USEC"] == "9500000"
        SystemdNotifier([], environ).ready()
        assert listener.recv(100) == b"READY=1\nWATCHDOG_USEC=9500000"
    for unwatched in ({}, {"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"}):
        before = dict(unwatched)
        extend_watchdog(9.5, 28.5, unwatched)
        assert unwatched == before
