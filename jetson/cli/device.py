"""The command `aerogaze device`: operations on the board itself, or on a folder that stands in for one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from edge.cli.console import print_next_step
from edge.cli.options import FILE, FOLDER
from edge.core.errors import CheckError, InputError
from edge.core.foreign_text import printable
from edge.hardware.board import read_board_facts
from edge.pipeline.systemd import extend_watchdog
from jetson.cli.options import autopilot_options, policy_option, reinstall_option
from jetson.device.arming_interlock import (
    Autopilot,
    MavlinkAutopilot,
    NoAutopilot,
    NoHeartbeatError,
    UnknownAutopilot,
)
from jetson.device.board import DeviceBoard
from jetson.device.compatibility import day_text
from jetson.device.config import DEFAULT_ROOT, load_board_config
from jetson.device.engine_trial import select_backend
from jetson.device.install import install as install_bundle
from jetson.device.precision_policy import parse_policy
from jetson.device.status import print_status
from jetson.device.time_limits import derive_limits, longest_start_s
from jetson.signing.keys import read_limited, short_key_id
from jetson.signing.trust import load_trust_with_signatures

root_option = click.option(
    "--root",
    type=FOLDER,
    default=DEFAULT_ROOT,
    show_default=True,
    help="Folder of the board; another folder stands in for a board.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
facts_option = click.option("--facts", type=FOLDER, hidden=True)


@click.group(epilog="Example: aerogaze device install b.swu")
def device() -> None:
    """Install signed bundles on this board, and revert bad ones.

    With --root DIR, any folder stands in for a board.
    """


@device.command(
    short_help="Set the keys that must sign bundles.", epilog="Example: aerogaze device trust k.pub"
)
@click.argument("key", type=FILE)
@root_option
def trust(key: Path, root: Path) -> None:
    """Set the keys that bundles must be signed with.

    KEY is a .pub at first, and later a trust document signed by the keys trusted before.
    """
    new_trust, signatures = load_trust_with_signatures(key)
    open_board(root).set_trust(new_trust, signatures)
    print(f"{root} trusts {', '.join(map(short_key_id, new_trust.keys))}: {new_trust.threshold} must sign")


@device.command(
    short_help="Verify a bundle, try it, and switch to it.",
    epilog="Example: aerogaze device install b.swu --policy 'fastest within cc>=0.995'",
)
@click.argument("bundle", type=FILE)
@root_option
@policy_option
@autopilot_options
@reinstall_option
@json_option
@facts_option
def install(
    bundle: Path,
    root: Path,
    policy: str | None,
    autopilot: str | None,
    no_autopilot: bool,
    reinstall: bool,
    as_json: bool,
    facts: Path | None,
) -> None:
    """Verify BUNDLE, write it to the slot that is not flown, try it, and switch to it.

    If the service does not stay healthy, the board goes back to the release before.
    """
    board = open_board(root, facts, policy)
    with _interrupt_on_termination():
        install_bundle(board, bundle, _select_autopilot(root, autopilot, no_autopilot), reinstall)
    print_status(board, as_json)
    if not as_json:
        print_next_step(f"aerogaze device status{_root_option_text(root)}")


@device.command(epilog="Example: aerogaze device rollback")
@root_option
@autopilot_options
@json_option
def rollback(root: Path, autopilot: str | None, no_autopilot: bool, as_json: bool) -> None:
    """Go back to the release before the current one."""
    board, interlock = open_existing_board(root), _select_autopilot(root, autopilot, no_autopilot)
    with _interrupt_on_termination(), interlock.deny_arming():
        interlock.check_disarmed()
        board.rollback()
    print_status(board, as_json)


@device.command(
    "reset-clock",
    short_help="Forget the latest day that the board has seen.",
    epilog="Example: aerogaze device reset-clock",
)
@root_option
def reset_clock(root: Path) -> None:
    """Make the board forget the latest time that its clock has ever shown.

    Bundles with an expiry date are checked against that time. If the clock was once wrong, set it, and use
    this command as root.
    """
    before, now = open_existing_board(root).reset_clock()
    print(f"the board remembers {day_text(now)} now; it was {day_text(before)}")


@device.command(short_help="Revert an unfinished install.", epilog="Example: aerogaze device boot")
@root_option
@json_option
def boot(root: Path, as_json: bool) -> None:
    """Revert an unfinished install; run this before the service starts."""
    board = open_existing_board(root)
    board.recover_at_boot()
    print_status(board, as_json)


@device.command(
    short_help="Ask the autopilot whether the drone is armed.",
    epilog="Example: aerogaze device disarmed --autopilot udpin:0.0.0.0:14550",
)
@root_option
@autopilot_options
def disarmed(root: Path, autopilot: str | None, no_autopilot: bool) -> None:
    """Ask the autopilot whether the board may be changed: exit code 1 while the drone is armed."""
    _select_autopilot(root, autopilot, no_autopilot).check_disarmed()


@device.command(short_help="Check the signed files of both slots.", epilog="Example: aerogaze device verify")
@root_option
def verify(root: Path) -> None:
    """Check that each file of both slots is the one that trusted keys have signed."""
    board = open_existing_board(root)
    state = board.read_state()
    if not state.slots:
        raise _no_release(root)
    for name, slot in sorted(state.slots.items()):
        board.verify_slot(name)  # type: ignore[arg-type]
        print(f"slot {name}: {slot.release} counter {slot.counter} is what was signed")


@device.command(
    short_help="Print the release that is flown and its health.",
    epilog="Example: aerogaze device status --json",
)
@root_option
@json_option
@facts_option
def status(root: Path, as_json: bool, facts: Path | None) -> None:
    """Print the release that is flown, why in this precision, its health, and facts about the board."""
    # A desk asks a new board in JSON, before the first install makes the folder.
    board = open_board(root, facts) if as_json else open_existing_board(root, facts)
    print_status(board, as_json, check_health=True)


@device.command(
    short_help="Print what was installed and reverted.", epilog="Example: aerogaze device history"
)
@root_option
@json_option
def history(root: Path, as_json: bool) -> None:
    """Print what was installed, rejected and reverted, oldest first."""
    events = open_existing_board(root).read_state().history
    if as_json:
        print(json.dumps(list(events)))
        return
    for row in events:
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(row["at"]))
        release = f"{row['release']} counter {row['counter']}" if row["release"] else ""
        print(printable(" ".join(filter(None, (at, row["event"], release, row["detail"])))))


@device.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Run a command with the release that is flown.",
    epilog="Example: aerogaze device exec aerogaze run 0 --release {release} --precision {precision}",
)
@root_option
@click.argument("words", nargs=-1, required=True)
def execute(root: Path, words: tuple[str, ...]) -> None:
    """Replace this process by the command WORDS.

    The words {release}, {precision} and {engine} are replaced by those of the release to fly.
    """
    board = open_existing_board(root)
    slot_to_run = board.slot_to_run()
    if slot_to_run is None:
        raise _no_release(root)
    name, slot = slot_to_run
    values = {
        "{release}": str(board.release_folder(name)),
        "{precision}": slot.precision,
        "{engine}": slot.engine,
    }
    command = [values.get(word, word) for word in words]
    if shutil.which(command[0]) is None:
        raise InputError(f"no program {command[0]!r}; expected a command to run")
    if start_s := longest_start_s(board.read_state().slots.values()):
        limits = derive_limits(start_s)
        extend_watchdog(limits.watchdog_s, limits.command_s)
    board.mark_flown(name)
    os.execvp(command[0], command)  # noqa: S606


@device.command(
    short_help="Set the power mode with nvpmodel.", epilog="Example: aerogaze device power 2 --yes"
)
@click.argument("mode")
@click.option("--yes", is_flag=True, help="Set it without asking.")
@facts_option
def power(mode: str, yes: bool, facts: Path | None) -> None:
    """Set the power mode of this number or name with nvpmodel. No other command changes the power mode."""
    modes = read_board_facts(facts or Path("/")).power_modes
    number = next((number for number, name in modes.items() if mode in (number, name)), None)
    if number is None:
        known = ", ".join(f"{number} ({name})" for number, name in modes.items()) or "none (no Jetson?)"
        raise InputError(f"no power mode {mode!r}; this board has {known}")
    if not yes and not (sys.stdin.isatty() and click.confirm(f"Set power mode {modes[number]}?")):
        raise InputError(f"power mode {modes[number]} was not set: confirm with --yes")
    tool = shutil.which("nvpmodel")
    if tool is None:
        raise InputError("nvpmodel is not installed; it is part of Jetson Linux")
    if subprocess.run([tool, "-m", number], stdin=subprocess.DEVNULL).returncode:
        raise CheckError(f"nvpmodel did not set mode {number}; does it need root, or a reboot?")


@device.command(
    short_help="Install what an update server offers.",
    epilog="Example: aerogaze device agent --server https://updates.example.com/DEFAULT --id d7",
)
@click.option(
    "--server", metavar="URL", required=True, help="URL of a hawkBit or gooseBit server, with the tenant."
)
@click.option("--id", "name", metavar="NAME", required=True, help="Name of this drone on the server.")
@click.option("--token-file", type=FILE, help="File with the device's token, which only root may read.")
@click.option("--once", is_flag=True, help="Ask once, install what is offered, and exit.")
@root_option
@autopilot_options
@facts_option
def agent(
    server: str,
    name: str,
    token_file: Path | None,
    once: bool,
    root: Path,
    autopilot: str | None,
    no_autopilot: bool,
    facts: Path | None,
) -> None:
    """Ask a server for new bundles, install them, and report the result to the server."""
    from jetson.hawkbit.agent import UpdateAgent
    from jetson.hawkbit.ddi_client import DdiClient

    expected = "a file with the token of this device, as the server shows it"
    token = read_limited(token_file, expected).decode("ascii", "replace").strip() if token_file else None
    interlock = _select_autopilot(root, autopilot, no_autopilot)
    update_agent = UpdateAgent(open_board(root, facts), DdiClient(server, name, token), interlock)
    with _interrupt_on_termination():
        if once:
            _print_log_line(f"asking {server} what to install")
            update_agent.poll_once(log_idle=True)
        else:
            _print_log_line(f"asking {server} again and again; Ctrl-C stops")
            update_agent.run()


def open_board(root: Path, facts: Path | None = None, policy: str | None = None) -> DeviceBoard:
    """Return the board of a folder, set up by its configuration.

    Args:
        root: Folder of the board. If it stands in for a board and has a device tree of its own
            (`proc/device-tree/model`), it counts as the board that the device tree names.
        facts: Folder to read facts about the board from; None for the device tree above, else this machine.
        policy: Policy instead of the configured one.
    """
    config = load_board_config(root)
    has_device_tree = root != DEFAULT_ROOT and (root / "proc/device-tree").is_dir()
    return DeviceBoard(
        root.resolve(),
        read_board_facts(facts or (root if has_device_tree else Path("/"))),
        select_backend(config.engine),
        parse_policy(policy) if policy else config.precision_policy(),
        config.service,
        log=_print_log_line,
    )


def open_existing_board(root: Path, facts: Path | None = None) -> DeviceBoard:
    """Return the board of a folder, as `open_board`, for a command that only makes sense if it exists.

    The default folder may be missing: that is a board before its first install.

    Raises:
        InputError: The named folder does not exist.
    """
    if root != DEFAULT_ROOT and not root.is_dir():
        raise InputError(
            f"no folder {root}; expected the folder of a board: correct --root, or make a board there with "
            f"aerogaze device trust k.pub --root {root}"
        )
    return open_board(root, facts)


def _root_option_text(root: Path) -> str:
    return "" if root == DEFAULT_ROOT else f" --root {root}"


def _no_release(root: Path) -> InputError:
    return InputError(f"the board {root} has no release: aerogaze device install b.swu --root {root}")


def _print_log_line(line: str) -> None:
    # The reader may be gone, as after a lost SSH connection: the work on the board goes on.
    with contextlib.suppress(OSError):
        click.echo(printable(line), err=True)


def _select_autopilot(root: Path, link: str | None, none: bool) -> Autopilot:
    """Return the autopilot of a link. A folder that stands in for a board has none unless a link is named."""
    link = link or load_board_config(root).autopilot
    if none or (link is None and root != DEFAULT_ROOT):
        return NoAutopilot()
    return _ConfirmingAutopilot(MavlinkAutopilot(link) if link else UnknownAutopilot())


class _ConfirmingAutopilot:
    """Autopilot that asks the user at the terminal, once, if the armed state is unknown."""

    def __init__(self, autopilot: Autopilot) -> None:
        self._autopilot = autopilot

    def deny_arming(self) -> contextlib.AbstractContextManager[object]:
        """Deny requests to arm for as long as the block runs."""
        return self._autopilot.deny_arming()

    def check_disarmed(self) -> None:
        """Check the autopilot; if its state is unknown, ask the user."""
        if sys.stderr.isatty():  # it takes up to three seconds
            click.echo("asking the autopilot whether the drone is armed", err=True)
        try:
            self._autopilot.check_disarmed()
        except NoHeartbeatError as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"{error}", err=True)
            if not click.confirm("Is the drone disarmed and on the ground?", err=True):
                raise
            self._autopilot = NoAutopilot()


@contextlib.contextmanager
def _interrupt_on_termination() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP (lost SSH connection) like Ctrl-C, so that a trial is reverted."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
