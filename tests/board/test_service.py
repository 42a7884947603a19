"""The unit under a real systemd: start, notification, watchdog, restart, and what its sandbox forbids."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

import jetson
from tests.support.virtual_board import Board, service_state
from tests.support.waiting import wait_until

UNIT = Path(jetson.__file__).parent / "aerogaze.service"
MAX_EXPOSURE = 4.0
"""What `systemd-analyze security` may give the unit, from 0 (closed) to 10 (open)."""
PROBE = Path(__file__).with_name("sandbox_probe.py")
CHANGE_S = 60.0
"""Longest time until a change of the service is seen."""


def start_service(board: Board) -> None:
    board.script("systemctl reset-failed aerogaze; systemctl restart aerogaze")


def test_service_is_active_when_the_board_has_booted(board: Board) -> None:
    state, sub_state, user, text = service_state(board, "ActiveState", "SubState", "User", "StatusText")
    assert (state, sub_state, user) == ("active", "running", "aerogaze")
    is_told = wait_until(lambda: "running" in service_state(board, "StatusText")[0], CHANGE_S)
    assert is_told, f"no status of the run in time, at first {text!r}"
    journal = board.script("journalctl -u aerogaze --no-pager -o cat")
    assert "Started aerogaze.service" in journal, "systemd got READY=1"


def test_hung_service_is_killed_by_the_watchdog_and_comes_back(board: Board) -> None:
    (before,) = service_state(board, "MainPID")
    board.script(f"kill -STOP {before}")
    assert wait_until(lambda: service_state(board, "MainPID")[0] not in (before, "0"), CHANGE_S)
    assert wait_until(lambda: service_state(board, "ActiveState") == ["active"], CHANGE_S)
    assert "Watchdog timeout" in board.script("journalctl -u aerogaze --no-pager")


def test_crashed_service_is_restarted(board: Board) -> None:
    (before,) = service_state(board, "MainPID")
    board.script(f"kill -SEGV {before}")
    assert wait_until(lambda: service_state(board, "MainPID")[0] not in (before, "0"), CHANGE_S)
    assert wait_until(lambda: service_state(board, "ActiveState") == ["active"], CHANGE_S)


def test_stopped_service_ends_in_order(board: Board) -> None:
    board.script("systemctl stop aerogaze")
    assert service_state(board, "Result", "ExecMainStatus") == ["success", "0"]
    start_service(board)


def sandbox_options() -> list[str]:
    """Return the lines of the unit that restrict the service, or name what it may use."""
    lines = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines()
    return [
        line for line in lines if "=" in line and not re.match(r"#|Exec|Type|Watchdog|Timeout|Restart", line)
    ]


@pytest.fixture(scope="module")
def probed_board(board: Board) -> Board:
    """The board with what the probe needs."""
    board.ssh("sudo", "tee", "/usr/local/lib/sandbox_probe.py", stdin=PROBE.read_text())
    board.script("install -m 4755 /usr/bin/id /usr/local/bin/root-id; mkdir -p /usr/lib/modules")
    return board


def run_probes(board: Board, *probes: tuple[Sequence[str], Sequence[str]]) -> list[dict[str, str]]:
    """Run the probe in sandboxes.

    Args:
        board: The board.
        probes: For each run the options of its unit, and the attempts; none for all.

    Returns:
        For each run what each attempt ended with.
    """
    lines = []
    for options, attempts in probes:
        words = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--pipe",
            *(f"--property={option}" for option in options),
        ]
        lines.append(shlex.join([*words, "/usr/bin/python3", "/usr/local/lib/sandbox_probe.py", *attempts]))
    return [json.loads(line) for line in board.script("\n".join(lines)).splitlines()]


def test_sandbox_refuses_everything_but_its_own_work(probed_board: Board) -> None:
    without, inside = run_probes(probed_board, ((), ()), (sandbox_options(), ()))
    allowed = {name for name, outcome in without.items() if outcome == "allowed"}
    assert allowed == set(without), "the probe proves nothing that is impossible without the sandbox, too"
    assert {name for name, outcome in inside.items() if outcome == "allowed"} == {
        "write its own recordings", "open its own camera's network",
    }  # fmt: skip


FORBIDDEN: dict[str, Sequence[str]] = {
    "User": ("read what root alone may read",),
    "NoNewPrivileges": ("gain privileges",),
    "ProtectSystem": ("write /etc", "write the runtime", "write the board's state"),
    "ProtectHome": ("read the home folders", "read root's home"),
    "ProtectKernelModules": ("read the kernel's modules",),
    "ProtectKernelLogs": ("read the kernel's log",),
    "ProtectKernelTunables": ("change a setting of the kernel",),
    "ProtectControlGroups": ("make a control group",),
    "ProtectClock": ("ask for the settings of the clock",),
    "ProtectHostname": ("change the host name",),
    "LockPersonality": ("run as another kind of system",),
    "RestrictRealtime": ("take real-time priority",),
    "RestrictNamespaces": ("make a user namespace", "make a network namespace"),
    "RestrictSUIDSGID": ("make a file set-user-ID",),
    "SystemCallArchitectures": ("call as a 32-bit program",),
    "SystemCallFilter": (
        "mount a file system", "ask for the settings of the clock", "ask for the table of segments",
        "ask for a reboot",
    ),
    "RestrictAddressFamilies": ("open a socket for raw packets",),
    "CapabilityBoundingSet": ("use a capability",),
    "DevicePolicy": ("open a device of others",),
}  # fmt: skip
"""What each option of the unit forbids by itself."""
PERMITTING = {
    "Environment",
    "SupplementaryGroups",
    "StateDirectory",
    "WorkingDirectory",
    "DeviceAllow",
    "SystemCallErrorNumber",
}
"""Options that forbid nothing."""


@pytest.mark.long
def test_each_option_of_the_sandbox_forbids_by_itself(probed_board: Board) -> None:
    options = {line.split("=")[0]: line for line in sandbox_options()}
    assert set(options) == set(FORBIDDEN) | PERMITTING, "each option has an attempt"
    # Root may do everything that no option forbids. Only another user has privileges to gain.
    others = {"NoNewPrivileges": ["User=nobody"], "SystemCallFilter": ["SystemCallErrorNumber=EPERM"]}
    alone = [([*others.get(name, []), options[name]], FORBIDDEN[name]) for name in FORBIDDEN]
    before = [(others.get(name, []), FORBIDDEN[name]) for name in FORBIDDEN]
    outcomes = run_probes(probed_board, *before, *alone)
    for name, without, inside in zip(FORBIDDEN, outcomes, outcomes[len(before) :], strict=False):
        assert set(without.values()) == {"allowed"}, f"{name}: {without}"
        assert "allowed" not in inside.values(), f"{name}: {inside}"


def test_systemd_rates_the_exposure_of_the_unit(board: Board) -> None:
    text = board.ssh("systemd-analyze", "security", "--no-pager", "aerogaze.service", check=False).stdout
    match = re.search(r"Overall exposure level for aerogaze.service: ([\d.]+)", text)
    assert match, text
    assert float(match.group(1)) <= MAX_EXPOSURE, text
