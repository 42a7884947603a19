"""A board over its life: bare, upgraded, rolled back; bad releases and disks, cut cables, 1970, two desks."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.board_images import CONFIG, BoardImages, aerogaze, flash
from tests.support.goosebit import running_goosebit
from tests.support.power_cuts import check_flown, find_orphans
from tests.support.virtual_board import NETWORK, Board, Desk, call, service_state
from tests.support.waiting import wait_until

MakeBundle = Callable[[int], Path]
FlashProcess = Callable[..., "subprocess.Popen[str]"]
PROGRAM = "/opt/aerogaze/bin/aerogaze"
PLACE = "/var/lib/aerogaze"
UPLOADS = "home/pilot/.cache/aerogaze/arrived"
CHANGE_S = 120.0
"""Longest time until a change of a board is seen."""
MAKE_CLOCK = """
mkdir -p /opt/old/bin /etc/systemd/system/aerogaze.service.d
library=$(find /usr/lib -name libfaketime.so.1)
cat > /opt/old/bin/aerogaze <<END
#!/bin/sh
export LD_PRELOAD=$library FAKETIME="@1970-01-01 00:10:00"
exec /opt/aerogaze/bin/aerogaze "\\$@"
END
chmod 755 /opt/old/bin/aerogaze
cat > /etc/systemd/system/aerogaze.service.d/clock.conf <<END
[Service]
Environment=LD_PRELOAD=$library "FAKETIME=@1970-01-01 00:10:00"
END
systemctl daemon-reload
"""
"""Makes aerogaze see 1970 as the time. Boards share the kernel's clock with this machine."""
MAKE_FAULTY = """
mkdir -p /run/real
echo > /run/faults
mount --bind {place} /run/real
mount --make-private /run/real  # the mount over {place} must not show here, too
export FUSE_LIBRARY_PATH=/desk/libfuse.so.2 PYTHONPATH=/desk
systemd-run --quiet --unit=faulty-disk --setenv=FUSE_LIBRARY_PATH --setenv=PYTHONPATH \\
    python3 /desk/faulty_disk.py /run/real {place} /run/faults
until mountpoint -q {place}; do sleep 0.1; done
"""
"""Puts a disk with errors over a folder; /run/faults names the operations that fail."""
FAULTY_DISK = Path(__file__).parents[1] / "support/faulty_disk.py"
AGENT_UNITS = {
    "aerogaze-agent.service": """
[Service]
Type=oneshot
Environment=SSL_CERT_FILE=/etc/aerogaze/server.pem
ExecStart=/opt/aerogaze/bin/aerogaze device agent --once --server {url}/DEFAULT --id drone-1 --no-autopilot
""",
    "aerogaze-agent.timer": """
[Timer]
OnActiveSec=1
OnUnitInactiveSec=1
AccuracySec=100ms
""",
}
END_SESSIONS = """
for process in /proc/[0-9]*; do
    if grep -q 'sshd: pilot' $process/cmdline; then kill ${process#/proc/}; fi
done
"""
"""Ends all SSH sessions. It must not run in one of them."""


def read_status(board: Board) -> dict[str, object]:
    status: dict[str, object] = json.loads(board.ssh("sudo", PROGRAM, "device", "status", "--json").stdout)
    return status


def set_config(board: Board, **limits: float) -> None:
    config = {"service": {**CONFIG["service"], **limits}}
    board.ssh("sudo", "tee", f"{PLACE}/config.json", stdin=json.dumps(config))


@pytest.fixture
def start_flash(images: BoardImages) -> Iterator[FlashProcess]:
    """Start a flash of a board and return its process, whose standard error can be read."""
    started: list[subprocess.Popen[str]] = []

    def start(board: Board, bundle: Path, *options: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            board.desk.command(*aerogaze(*board.flash_words(bundle, *options))),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **images.desk_environment()},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return the first line of a flash that has these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return line
    raise AssertionError("".join(lines))


def test_upgrade_restarts_and_watches_the_service_and_rollback_goes_back(
    board: Board, images: BoardImages, bundles: MakeBundle
) -> None:
    (before,) = service_state(board, "MainPID")
    said = flash(images, board, bundles(2))
    assert "watching the service" in said
    assert check_flown(board, {2}) == 2
    assert service_state(board, "MainPID") != [before]
    limits = read_status(board)["limits"]
    assert isinstance(limits, dict)
    assert limits["start_s"] > 0, "the trial measured the start"
    board.ssh("sudo", PROGRAM, "device", "rollback", "--no-autopilot")
    assert check_flown(board, {1}) == 1
    assert find_orphans(board) == []


@pytest.mark.long
def test_unhealthy_release_comes_back_by_itself(
    board: Board, images: BoardImages, bundles: MakeBundle
) -> None:
    # A camera that does not exist: the run ends, and systemd tries again.
    board.script("sed -i.kept 's/^source.*/source = \"\\/dev\\/video9\"/' /etc/aerogaze/run.toml")
    set_config(board, command_s=20)
    try:
        with pytest.raises(RuntimeError, match=r"did not stay healthy.*back to counter 1"):
            flash(images, board, bundles(3))
    finally:
        board.script("mv /etc/aerogaze/run.toml.kept /etc/aerogaze/run.toml; systemctl restart aerogaze")
        set_config(board)
    assert check_flown(board, {1}) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("left_kb", "message"),
    [
        (8000, r"MiB free, .* are needed: free some space"),
        (0, r"the home folder on .* has 0 MiB free, 1 are needed: free some space"),
    ],
)
def test_full_disk_is_said_and_harms_nothing(
    left_kb: int, message: str, board: Board, images: BoardImages, bundles: MakeBundle
) -> None:
    board.script(f"fallocate -l $(($(df --output=avail -B1 / | tail -1) - {left_kb}000)) /fill")
    try:
        with pytest.raises(RuntimeError, match=message):
            flash(images, board, bundles(4))
    finally:
        board.script("rm /fill")
    assert check_flown(board, {1}) == 1


@pytest.mark.long
def test_read_only_disk_is_said_and_harms_nothing(
    board: Board, images: BoardImages, bundles: MakeBundle
) -> None:
    board.script(f"mount --bind {PLACE} {PLACE}; mount -o remount,bind,ro {PLACE}")
    try:
        with pytest.raises(RuntimeError, match=r"cannot write the board .*: Read-only file system"):
            flash(images, board, bundles(4))
        board.script("systemctl restart aerogaze")
        assert check_flown(board, {1}) == 1
    finally:
        # The service holds its slot open.
        board.script(f"umount --lazy {PLACE}; systemctl restart aerogaze")


@pytest.fixture
def faulty_board(desk: Desk, flown_disk: Path) -> Iterator[Board]:
    """A board whose folder lies on a disk with errors."""
    libraries = [*Path("/usr/lib/python3").glob("*/fusepy.py"), *Path("/usr/lib").glob("*/libfuse.so.2")]
    if len(libraries) != 2:
        pytest.skip("no fusepy or no libfuse here (apt-get install python3-fusepy)")
    with desk.board(desk.clone(flown_disk, "faulty.img")) as board:
        board.start()
        for path in (*libraries, FAULTY_DISK):
            (board.shared / path.name).write_bytes(path.read_bytes())
        board.script(MAKE_FAULTY.format(place=PLACE))
        yield board


@pytest.mark.long
def test_disk_with_errors_is_said_and_harms_nothing(
    faulty_board: Board, images: BoardImages, bundles: MakeBundle
) -> None:
    board = faulty_board
    for operation in ("write", "fsync", "rename", "mkdir"):
        board.script(f"echo {operation} > /run/faults")
        with pytest.raises(RuntimeError, match=r"cannot write .*: Input/output error"):
            flash(images, board, bundles(2))
        board.script("systemctl restart aerogaze")
        assert check_flown(board, {1}) == 1, operation
    board.script("echo > /run/faults")
    flash(images, board, bundles(2))
    assert check_flown(board, {2}) == 2


@contextmanager
def address_dropped(board: Board) -> Iterator[None]:
    """Let a board have no address in the block."""
    words = (f"{board.address}/24", "dev", "cable")
    call("ip", "-n", board.name, "address", "delete", *words)
    try:
        yield
    finally:
        call("ip", "-n", board.name, "address", "add", *words)


def read_error(process: subprocess.Popen[str]) -> str:
    """Return the error of a flash that ends with exit code 2."""
    line = read_until(process, "aerogaze: ")
    assert process.wait() == 2
    return line


@pytest.mark.long
@pytest.mark.parametrize("cut", ["connection", "address"])
def test_install_goes_on_if_ssh_is_cut_and_the_same_command_finds_it(
    cut: str, board: Board, images: BoardImages, bundles: MakeBundle, start_flash: FlashProcess
) -> None:
    counter = {"connection": 5, "address": 6}[cut]
    process = start_flash(board, bundles(counter))
    read_until(process, "writing slot")
    if cut == "connection":
        (board.shared / "end-sessions").write_text(END_SESSIONS)
        board.ssh("sudo", "systemd-run", "--quiet", "sh", "/desk/end-sessions", check=False)
        error = read_error(process)
    else:
        with address_dropped(board):
            error = read_error(process)
    assert "may go on: run aerogaze device status on the board" in error
    assert wait_until(lambda: read_status(board)["counter"] == counter, CHANGE_S)
    assert wait_until(lambda: read_status(board)["state"] == "good", CHANGE_S)
    assert "this release is flown already" in flash(images, board, bundles(counter))
    assert check_flown(board, {counter}) == counter
    assert not list((board.root / UPLOADS).glob("*.swu")), "the upload was removed"


@pytest.mark.long
def test_second_desk_is_told_who_works_on_the_board(
    board: Board, images: BoardImages, bundles: MakeBundle, start_flash: FlashProcess
) -> None:
    first = start_flash(board, bundles(7))
    read_until(first, "writing slot")
    error = read_error(start_flash(board, bundles(8)))
    assert "another aerogaze command works on the board" in error
    assert re.search(r"\(device install, process \d+\): wait until it has ended", error), error
    assert first.wait() == 0
    assert check_flown(board, {7}) == 7
    flash(images, board, bundles(8))
    assert check_flown(board, {8}) == 8


@pytest.mark.long
def test_board_whose_clock_shows_1970_boots_and_is_flashed_and_its_clock_is_set_later(
    board: Board, images: BoardImages, bundles: MakeBundle
) -> None:
    def read_state() -> dict[str, Any]:
        state: dict[str, Any] = json.loads(board.script(f"cat {PLACE}/state.json"))
        return state

    board.script(MAKE_CLOCK)
    board.shut_down()
    board.start()
    before = check_flown(board, set(range(1, 9)))
    seen_at = read_state()["seen_at"]
    flash(images, board, bundles(before + 1), "--aerogaze", "/opt/old/bin/aerogaze", "--no-runtime")
    state = read_state()
    assert state["history"][-1]["at"] < 3600
    assert state["seen_at"] == seen_at, "the latest day is not forgotten"
    board.script("rm /etc/systemd/system/aerogaze.service.d/clock.conf; systemctl daemon-reload")
    flash(images, board, bundles(before + 2))
    assert check_flown(board, {before + 2})
    assert read_state()["seen_at"] > seen_at


@pytest.mark.long
def test_flash_of_a_bare_board_is_resumed_by_the_same_command(
    desk: Desk, images: BoardImages, bundles: MakeBundle, start_flash: FlashProcess
) -> None:
    trust = ("--trust", images.folder / "k.pub")
    with desk.board(desk.clone(images.debian, "bare.img")) as board:
        board.start()
        assert not (board.root / "opt/aerogaze").exists(), "it has python3 alone"
        wheels = board.root / UPLOADS / "wheels"

        def count_sent_bytes() -> int:
            return sum(path.stat().st_size for path in wheels.glob("*"))

        def count_received_bytes() -> int:
            return int(board.script("cat /sys/class/net/cable/statistics/rx_bytes"))

        process = start_flash(board, bundles(1), *trust)
        assert wait_until(lambda: count_sent_bytes() > 30e6, CHANGE_S)
        with address_dropped(board):
            assert "run the command again to resume it" in read_error(process)
        sent, received = count_sent_bytes(), count_received_bytes()
        flash(images, board, bundles(1), *trust)
        assert count_received_bytes() - received < count_sent_bytes() - sent / 2, "nothing is sent twice"
        assert read_status(board)["counter"] == 1
        assert find_orphans(board) == []


@pytest.mark.long
def test_fleet_goes_on_if_a_board_dies_and_finishes_it_later(
    desk: Desk, flown_disk: Path, images: BoardImages, bundles: MakeBundle, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        boards = [stack.enter_context(desk.board(desk.clone(flown_disk, f"{n}.img"))) for n in "xyz"]
        for board in boards:
            board.start()
        (tmp_path / "fleet.toml").write_text(
            f'[defaults]\nsudo = true\nno-autopilot = true\nidentity = "{desk.identity}"\n'
            f'known-hosts = "{boards[0].known_hosts}"\n[rollout]\ntries = 1\n'
            '[[rings]]\nhosts = "all"\nsuccess = "50%"\nerror = "50%"\n[hosts]\n'
            + "".join(f'"{board.login}" = {{}}\n' for board in boards)
        )
        words = aerogaze("fleet", bundles(2), tmp_path / "fleet.toml", "--json")
        with subprocess.Popen(
            desk.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **images.desk_environment()},
        ) as process:
            slot = boards[1].root / "var/lib/aerogaze/slots/b"
            assert wait_until(slot.exists, CHANGE_S)
            boards[1].pull_plug()
            report, error = process.communicate()
        assert process.returncode == 1
        assert "1 of 3 hosts failed; repair, then use --retry-failed" in error
        assert [host["outcome"] for host in json.loads(report)["hosts"]] == ["done", "failed", "done"]
        boards[1].start()
        assert check_flown(boards[1], {1}) == 1
        done = desk.run(*words, "--retry-failed", environment=images.desk_environment())
        assert done.returncode == 0, done.stderr
        assert [check_flown(board, {2}) for board in boards] == [2, 2, 2]


@pytest.mark.long
def test_agent_as_a_timer_installs_what_goosebit_offers_over_the_boards_network(
    desk: Desk, flown_disk: Path, bundles: MakeBundle, tmp_path: Path
) -> None:
    with (
        desk.board(desk.clone(flown_disk, "agent.img")) as board,
        desk.entered(),
        running_goosebit(tmp_path, f"{NETWORK}.1", uses_tls=True) as goosebit,
    ):
        board.start()
        assert goosebit.certificate is not None
        board.ssh("sudo", "tee", "/etc/aerogaze/server.pem", stdin=goosebit.certificate.read_text())
        for name, text in AGENT_UNITS.items():
            unit = text.format(url=goosebit.url)
            board.ssh("sudo", "tee", f"/etc/systemd/system/{name}", stdin=unit)
        board.script("systemctl daemon-reload; systemctl start aerogaze-agent.timer")

        def last_state() -> str | None:
            rows = goosebit.request("/api/v1/devices")["devices"]
            return rows[0]["last_state"] if rows else None

        assert wait_until(last_state, CHANGE_S), "the board registered"
        goosebit.roll_out(bundles(2))
        assert wait_until(lambda: last_state() == "Finished", CHANGE_S)
        assert check_flown(board, {2}) == 2
        assert goosebit.device("drone-1")["sw_version"] == "2.0.0"
        # The next release does not stay healthy, and the board says so.
        board.script("sed -i 's/^source.*/source = \"\\/dev\\/video9\"/' /etc/aerogaze/run.toml")
        set_config(board, command_s=20)
        goosebit.roll_out(bundles(3))
        assert wait_until(lambda: last_state() == "Error", CHANGE_S)
        assert read_status(board)["counter"] == 2
