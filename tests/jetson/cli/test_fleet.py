"""The command `aerogaze fleet`, with folders as boards, some with faults, and a real sshd on loopback."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jetson.cli.device import open_board
from jetson.device.slot_state import load_state
from jetson.signing.keys import SigningKey, generate_key
from tests.conftest import Outcome
from tests.support import fleets
from tests.support.boards import copy_release
from tests.support.fleets import (
    copy_boards,
    current_counter,
    inject_faults,
    make_first_board,
    write_inventory,
)

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from tests.support.pages import ROOT, run_page
from tests.support.sshd import SshServer, cutting_proxy

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
TOLERANT_RING = '[[rings]]\nhosts = {}\nerror = "50%"\nsuccess = "50%"\n'
ALL_AT_ONCE = TOLERANT_RING.format('"all"')
PATIENT = f"[rollout]\ntries = 100\nbackoff-s = 0.2\n{ALL_AT_ONCE}"
"""As long as a test holds one of the boards, such a roll-out does not end."""


@pytest.fixture(scope="session")
def smallest_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest student, in int8 only."""
    folder = tmp_path_factory.mktemp("tiny") / "release"
    return copy_release(folder, "int8", name="skd-32", student=Path("skd-32"))


@pytest.fixture
def next_bundle(make_bundle: MakeBundle, smallest_release: Path) -> Path:
    return make_bundle(release=smallest_release, counter=2, compatible=fleets.ORIN_NANO)


@pytest.fixture
def make_boards(
    make_bundle: MakeBundle, smallest_release: Path, key: SigningKey, tmp_path: Path
) -> Callable[[int], list[str]]:
    """Make a number of boards that fly counter 1."""
    return lambda count: copy_boards(
        tmp_path,
        make_first_board(tmp_path / "first", make_bundle(release=smallest_release, counter=1), key),
        count,
    )


def read_report_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a report by host."""
    return {row["host"]: row for row in json.loads(path.read_text())["hosts"]}


@pytest.mark.parametrize(
    ("count", "fault_count", "rings"),
    [
        (16, len(fleets.FAULTS), "".join(TOLERANT_RING.format(hosts) for hosts in ("1", '"10%"', '"all"'))),
        pytest.param(1000, 50, "", marks=pytest.mark.long),
    ],
)
def test_fleet_with_some_faults_reports_each_outcome(
    smallest_release: Path, tmp_path: Path, count: int, fault_count: int, rings: str
) -> None:
    arguments, faults = fleets.make_fleet(tmp_path, smallest_release, count, count // fault_count, rings)
    assert len(faults) == fault_count
    code, _, peak_mb = fleets.measure_memory(fleets.aerogaze_command(*arguments))
    assert code == 1
    assert peak_mb < 400
    rows = read_report_rows(tmp_path / "report.json")
    assert {name for name, row in rows.items() if row["outcome"] == "failed"} == set(faults)
    for name, row in rows.items():
        assert row["outcome"] in ("done", "failed")
        assert faults.get(name, "int8: fastest") in row["why"]
        assert row["tries"] == 1, "these faults are not tried again"
        if faults.get(name) != "is not the canonical JSON":
            assert current_counter(tmp_path / name) == (1 if name in faults else 2)
    ended = [[row["ended_at"] for row in rows.values() if row["ring"] == ring] for ring in (1, 2, 3)]
    second = math.ceil(count / 10)
    assert [len(ring) for ring in ended] == [1, second, count - second - 1]
    assert max(ended[0]) <= min(ended[1])
    assert max(ended[1]) <= min(ended[2])
    shutil.rmtree(tmp_path / "boards")  # pytest keeps the folder, and 1,000 boards are large


def test_failed_first_ring_stops_the_rollout(
    command: Command, next_bundle: Path, make_boards: Callable[[int], list[str]], tmp_path: Path
) -> None:
    names = make_boards(20)
    (message,) = inject_faults(tmp_path, names[:1]).values()
    out = tmp_path / "report.json"
    outcome = command("fleet", next_bundle, write_inventory(tmp_path, names), "--out", out)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("aerogaze: stopped: ring 1: 1 of 1 hosts failed; the limit is 10 %")
    assert f"{names[0]} failed: {message}" in outcome.err
    assert [row["outcome"] for row in read_report_rows(out).values()] == ["failed", *["left"] * 19]
    assert {current_counter(tmp_path / name) for name in names} == {1}


def test_failed_hosts_are_tried_again_only_with_retry_failed(
    command: Command, next_bundle: Path, make_boards: Callable[[int], list[str]], tmp_path: Path
) -> None:
    names = make_boards(2)
    inject_faults(tmp_path, names[:1])
    fleet = write_inventory(tmp_path, names)
    assert command("fleet", next_bundle, fleet).code == 1
    (tmp_path / names[0] / "proc/device-tree/model").write_text(str(fleets.NANO_FACTS.model))
    assert command("fleet", next_bundle, fleet).code == 1, (
        "a failed host is not tried again without the option"
    )
    outcome = command("fleet", next_bundle, fleet, "--retry-failed", "--json")
    assert outcome.code == 0, outcome.err
    assert [row["outcome"] for row in json.loads(outcome.out)["hosts"]] == ["done", "done"]


def test_host_whose_address_changed_is_done_again(
    command: Command, next_bundle: Path, make_boards: Callable[[int], list[str]], tmp_path: Path
) -> None:
    make_boards(2)
    for number in (1, 2):
        fleet = write_inventory(tmp_path, ["drone"], options={"drone": f'address = "boards/{number:04}"'})
        outcome = command("fleet", next_bundle, fleet)
        assert outcome.code == 0, outcome.err
        assert current_counter(tmp_path / f"boards/{number:04}") == 2


def test_dry_run_shows_rings_and_changes_nothing(
    command: Command, next_bundle: Path, make_boards: Callable[[int], list[str]], tmp_path: Path
) -> None:
    names = make_boards(5)
    fleet = write_inventory(tmp_path, names)
    before = sorted(tmp_path.rglob("*"))
    outcome = command("fleet", next_bundle, fleet, "--dry-run")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "ring 1: 1 host; continues at 90 % done, stops above 10 % failed", "  boards/0001",
        "ring 2: 1 host; continues at 90 % done, stops above 10 % failed", "  boards/0002",
        "ring 3: 3 hosts; continues at 90 % done, stops above 10 % failed", *(f"  {n}" for n in names[2:]),
    ]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_interrupted_rollout_continues_with_the_remaining_hosts(
    command: Command,
    next_bundle: Path,
    make_boards: Callable[[int], list[str]],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    names = make_boards(6)
    fleet, state, out = (
        write_inventory(tmp_path, names, PATIENT),
        tmp_path / "state",
        tmp_path / "report.json",
    )
    arguments: list[str | Path] = ["fleet", next_bundle, fleet, "--state", state]
    with open_board(tmp_path / names[-1]).lock():
        process = subprocess.Popen(
            fleets.aerogaze_command(*arguments, "--out", out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(finished := read_journal_rows(state)) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert "of 6 hosts are finished; the same command continues" in err
        assert {name for name, row in read_report_rows(out).items() if row["outcome"] == "done"} >= {
            json.loads(line)["host"] for line in finished
        }
    finished = read_journal_rows(state)
    flown = {name: load_state(tmp_path / name) for name in names if current_counter(tmp_path / name) == 2}
    for _ in range(600):  # a program that the killed one was about to start may still hold the state
        outcome = command(*arguments)
        if "is being written by another aerogaze" not in outcome.err:
            break
        time.sleep(0.1)
    assert outcome.code == 0, outcome.err
    assert read_journal_rows(state)[: len(finished)] == finished, "finished hosts are not done again"
    assert len(read_journal_rows(state)) == 6
    for name in names:
        history = [row["event"] for row in load_state(tmp_path / name).history if row["counter"] == 2]
        assert history.count("install") == 1
        assert current_counter(tmp_path / name) == 2
        assert flown.get(name, load_state(tmp_path / name)) == load_state(tmp_path / name)


def read_journal_rows(state: Path) -> list[str]:
    return state.read_text().splitlines()[1:] if state.exists() else []


def test_busy_board_is_tried_again(
    command: Command, next_bundle: Path, make_boards: Callable[[int], list[str]], tmp_path: Path
) -> None:
    (name,) = make_boards(1)
    is_held, is_done = threading.Event(), threading.Event()

    def hold() -> None:
        with open_board(tmp_path / name).lock():
            is_held.set()
            is_done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    fleet, state = write_inventory(tmp_path, [name], "[rollout]\nbackoff-s = 0.2\n"), tmp_path / "state"
    arguments = fleets.aerogaze_command("fleet", next_bundle, fleet, "--state", state)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "another aerogaze command works on the board" in line:
            break
    is_done.set()
    holder.join()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(read_journal_rows(state)[0])["tries"] > 1


def test_second_rollout_at_the_same_time_is_refused(
    command: Command, next_bundle: Path, make_boards: Callable[[int], list[str]], tmp_path: Path
) -> None:
    names, state = make_boards(4), tmp_path / "state"
    fleet = write_inventory(tmp_path, names, PATIENT)
    arguments: list[str | Path] = ["fleet", next_bundle, fleet, "--state", state]
    with open_board(tmp_path / names[-1]).lock():
        process = subprocess.Popen(
            fleets.aerogaze_command(*arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while not read_journal_rows(state):
            assert process.poll() is None
            time.sleep(0.02)
        second = command(*arguments)
    assert process.wait(60) == 0
    assert second.code == 2
    assert "is being written by another aerogaze" in second.err


def test_invalid_input_exits_with_one_line(
    command: Command,
    make_bundle: MakeBundle,
    next_bundle: Path,
    make_boards: Callable[[int], list[str]],
    tmp_path: Path,
) -> None:
    fleet, state = write_inventory(tmp_path, make_boards(1)), tmp_path / "state"
    generate_key(tmp_path / "stranger")

    def error_of(*arguments: str | Path, code: int = 2) -> str:
        outcome = command("fleet", *arguments)
        assert outcome.code == code
        assert outcome.err.count("\n") == 1, outcome.err
        return outcome.err

    assert "cannot read" in error_of(tmp_path / "none.swu", fleet)
    assert "cannot read" in error_of(next_bundle, tmp_path / "none.toml")
    assert "fleet.toml ends too early" in error_of(fleet, fleet)
    assert "is not valid TOML" in error_of(next_bundle, next_bundle)
    for text, message in (
        ("", "is not the journal of a roll-out"),
        ("[]\n", "is not the journal of a roll-out"),
        ("\xff", "is not the journal of a roll-out"),
        ('{"schema": 1, "bundle": "0"}\n', "is the journal of a roll-out of another bundle"),
    ):
        state.write_text(text, "latin-1")
        assert message in error_of(next_bundle, fleet, "--state", state)
    trusting = write_inventory(tmp_path, ["./new"], f'[defaults]\ntrust = "{tmp_path}/stranger.pub"\n')
    assert "is signed by 0 of the trusted keys" in error_of(next_bundle, trusting, code=1)
    assert not (tmp_path / "new").exists()


def write_ssh_inventory(server: SshServer, folder: Path, *wires: int) -> Path:
    """Write an inventory of boards behind ports of this server, each with its own root.

    They are done one at a time: unlike real boards they share one home folder for uploads.
    """
    target, _, identity, _, known, _, aerogaze = server.flash_arguments(0)
    text = (
        f'[defaults]\nidentity = "{identity}"\nknown-hosts = "{known}"\naerogaze = "{aerogaze}"\n'
        f"[rollout]\nat-once = 1\nbackoff-s = 0.1\ntries = 3\n{ALL_AT_ONCE}"
    )
    login = target.rsplit(":", 1)[0]
    hosts = {
        f"drone-{n}": f'address = "{login}:{port}", root = "{folder}/boards/{n:04}"'
        for n, port in enumerate(wires, start=1)
    }
    return write_inventory(folder, hosts, text, hosts)


def test_rollout_over_ssh_retries_a_broken_connection(
    command: Command,
    next_bundle: Path,
    server: SshServer,
    make_boards: Callable[[int], list[str]],
    tmp_path: Path,
) -> None:
    make_boards(4)
    out = tmp_path / "report.json"
    with cutting_proxy(server.port, 2000, times=1) as wire:
        fleet = write_ssh_inventory(server, tmp_path, server.port, wire.port, 1, server.port)
        inject_faults(tmp_path, ["boards/0004"])
        outcome = command("fleet", next_bundle, fleet, "--out", out)
    assert outcome.code == 1, outcome.err
    rows = read_report_rows(out)
    assert {name: (row["outcome"], row["tries"]) for name, row in rows.items()} == {
        "drone-1": ("done", 1), "drone-2": ("done", 2), "drone-3": ("failed", 3), "drone-4": ("failed", 1),
    }  # fmt: skip
    assert "cannot reach" in rows["drone-3"]["why"]
    assert [current_counter(tmp_path / f"boards/{n:04}") for n in range(1, 5)] == [2, 2, 1, 1]


def test_commands_of_the_fleet_page_run(tmp_path: Path) -> None:
    run_page(ROOT / "docs/reference/fleet.md", tmp_path, long=False)
    assert {current_counter(tmp_path / name) for name in ("drones/1", "drones/2", "drones/3")} == {1}
    assert {row["outcome"] for row in read_report_rows(tmp_path / "report.json").values()} == {"done"}
