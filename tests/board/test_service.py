"""The unit under a real systemd: start, notification, watchdog, restart, and what its sandbox forbids."""

from __future__ import annotations

import json
import re
from pathlib import Path

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


def probe_unit(text: str, hardened: bool) -> str:
    """Return a unit that runs the probe with the sandbox of the project's unit, or without."""
    lines = text.partition("[Service]")[2].partition("[Install]")[0].splitlines()
    sandbox = [
        line for line in lines if "=" in line and not re.match(r"#|Exec|Type|Watchdog|Timeout|Restart", line)
    ]
    own = [] if hardened else ["WorkingDirectory=/", "User=root"]
    command = "ExecStart=/usr/bin/python3 /usr/local/lib/sandbox_probe.py"
    return "\n".join(["[Service]", "Type=oneshot", command, *(sandbox if hardened else own)]) + "\n"


def run_probe(board: Board, hardened: bool) -> dict[str, str]:
    """Return what each attempt of the probe ended with."""
    name = f"probe-{'hardened' if hardened else 'open'}"
    board.ssh(
        "sudo", "tee", f"/run/systemd/system/{name}.service", stdin=probe_unit(UNIT.read_text(), hardened)
    )
    board.ssh("sudo", "tee", "/usr/local/lib/sandbox_probe.py", stdin=PROBE.read_text())
    journal = board.script(
        f"systemctl daemon-reload; systemctl start {name} || true; journalctl -u {name} -o cat --no-pager"
    )
    (line,) = (line for line in journal.splitlines() if line.startswith("{"))
    outcome: dict[str, str] = json.loads(line)
    return outcome


def test_sandbox_refuses_what_its_options_forbid(board: Board) -> None:
    without, inside = run_probe(board, hardened=False), run_probe(board, hardened=True)
    allowed = {name for name, outcome in without.items() if outcome == "allowed"}
    assert allowed == set(without), "the probe proves nothing that is impossible without the sandbox, too"
    assert {name for name, outcome in inside.items() if outcome == "allowed"} == {
        "write its own recordings", "open its own camera's network",
    }  # fmt: skip


def test_systemd_rates_the_exposure_of_the_unit(board: Board) -> None:
    text = board.ssh("systemd-analyze", "security", "--no-pager", "aerogaze.service", check=False).stdout
    match = re.search(r"Overall exposure level for aerogaze.service: ([\d.]+)", text)
    assert match, text
    assert float(match.group(1)) <= MAX_EXPOSURE, text
