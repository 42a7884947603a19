"""`aerogaze device`: what is done on the board, or on a folder that stands in for one."""

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

from edge.core.errors import CheckError, InputError
from edge.hardware.board import read_board_facts
from jetson.device.arming_interlock import (
    Autopilot,
    MavlinkAutopilot,
    NoAutopilot,
    NoHeartbeatError,
    UnknownAutopilot,
)
from jetson.device.board import DeviceBoard
from jetson.device.config import DEFAULT_ROOT, load_board_config
from jetson.device.engine_trial import select_backend
from jetson.device.install import install as install_bundle
from jetson.device.precision_policy import parse_policy
from jetson.device.status import tell
from jetson.signing import keys as signing
from jetson.signing import trust as trusts

PATH = click.Path(path_type=Path)
root_option = click.option(
    "--root",
    type=PATH,
    default=DEFAULT_ROOT,
    show_default=True,
    help="The board's folder, or a stand-in for it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
facts_option = click.option("--facts", type=PATH, hidden=True)


@click.group(epilog="Example: aerogaze device install b.swu")
def device() -> None:
    """Put signed bundles onto this board, and take bad ones back.

    --root DIR lets any folder stand in for a board.
    """


@device.command(epilog="Example: aerogaze device trust k.pub")
@click.argument("key", type=PATH)
@root_option
def trust(key: Path, root: Path) -> None:
    """Say whose bundles are taken: KEY is a .pub, or later a trust document signed by those before."""
    new, signatures = trusts.load_trust_with_signatures(key)
    board(root).set_trust(new, signatures)
    print(f"{root} trusts {', '.join(map(signing.short_key_id, new.keys))}: {new.threshold} must sign")


@device.command(epilog="Example: aerogaze device install b.swu --policy 'fastest within cc>=.995'")
@click.argument("bundle", type=PATH)
@root_option
@click.option("--policy", help="Which precision to fly (default: the board's, else fastest within cc>=.995).")
@click.option("--autopilot", help="Where its heartbeats come from, as udpin:0.0.0.0:14550 or /dev/ttyTHS1.")
@click.option("--no-autopilot", is_flag=True, help="There is no autopilot to ask whether it is armed.")
@click.option("--reinstall", is_flag=True, help="Install again what is flown already.")
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
    """Verify BUNDLE, write it to the slot that is not flown, try it, and fly it; or go back."""
    this = board(root, facts, policy)
    with _stopping():
        install_bundle(this, bundle, _autopilot(root, autopilot, no_autopilot), reinstall)
    tell(this, as_json)


@device.command(epilog="Example: aerogaze device rollback")
@root_option
@click.option("--autopilot", help="As of device install.")
@click.option("--no-autopilot", is_flag=True, help="As of device install.")
@json_option
def rollback(root: Path, autopilot: str | None, no_autopilot: bool, as_json: bool) -> None:
    """Fly the release before this one again."""
    this, asked = board(root), _autopilot(root, autopilot, no_autopilot)
    with _stopping(), asked.deny_arming():
        asked.check_disarmed()
        this.rollback()
    tell(this, as_json)


@device.command(epilog="Example: aerogaze device boot")
@root_option
@json_option
def boot(root: Path, as_json: bool) -> None:
    """Go back from a release that was never marked good; run this before the service starts."""
    this = board(root)
    this.recover_at_boot()
    tell(this, as_json)


@device.command(epilog="Example: aerogaze device disarmed --autopilot udpin:0.0.0.0:14550")
@root_option
@click.option("--autopilot", help="As of device install.")
@click.option("--no-autopilot", is_flag=True, help="As of device install.")
def disarmed(root: Path, autopilot: str | None, no_autopilot: bool) -> None:
    """Ask the autopilot whether the board may be worked on: exit code 1 while it is armed."""
    _autopilot(root, autopilot, no_autopilot).check_disarmed()


@device.command(epilog="Example: aerogaze device verify")
@root_option
def verify(root: Path) -> None:
    """See that each file of the slots is what trusted keys have signed."""
    this = board(root)
    state = this.read_state()
    if not state.slots:
        raise InputError(f"the board {root} has no release: aerogaze device install b.swu --root {root}")
    for name, slot in sorted(state.slots.items()):
        this.verify_slot(name)  # type: ignore[arg-type]
        print(f"slot {name}: {slot.release} counter {slot.counter} is what was signed")


@device.command(epilog="Example: aerogaze device status --json")
@root_option
@json_option
@facts_option
def status(root: Path, as_json: bool, facts: Path | None) -> None:
    """Tell what is flown, why in this precision, whether it is healthy, and what board this is."""
    tell(board(root, facts), as_json, health=True)


@device.command(epilog="Example: aerogaze device history")
@root_option
@json_option
def history(root: Path, as_json: bool) -> None:
    """Tell what was installed, refused and taken back, the latest last."""
    events = board(root).read_state().history
    if as_json:
        print(json.dumps(list(events)))
        return
    for row in events:
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(row["at"]))
        what = f"{row['release']} counter {row['counter']}" if row["release"] else ""
        print(" ".join(filter(None, (at, row["event"], what, row["detail"]))))


@device.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: aerogaze device exec aerogaze run 0 --release {release} --precision {precision}",
)
@root_option
@click.argument("words", nargs=-1, required=True)
def execute(root: Path, words: tuple[str, ...]) -> None:
    """Become the command WORDS, {release}, {precision} and {engine} of what is flown put in."""
    this = board(root)
    flown = this.slot_to_run()
    if flown is None:
        raise InputError(f"the board {root} has no release: aerogaze device install b.swu --root {root}")
    name, slot = flown
    found = {
        "{release}": str(this.release_folder(name)),
        "{precision}": slot.precision,
        "{engine}": slot.engine,
    }
    command = [found.get(word, word) for word in words]
    if shutil.which(command[0]) is None:
        raise InputError(f"no program {command[0]!r}; expected a command to become")
    os.execvp(command[0], command)  # noqa: S606


@device.command(epilog="Example: aerogaze device power 2 --yes")
@click.argument("mode")
@click.option("--yes", is_flag=True, help="Set it without asking.")
@facts_option
def power(mode: str, yes: bool, facts: Path | None) -> None:
    """Set the power mode with that number or name by nvpmodel. Nothing else here ever sets one."""
    modes = read_board_facts(facts or Path("/")).power_modes
    number = next((n for n, name in modes.items() if mode in (n, name)), None)
    if number is None:
        known = ", ".join(f"{n} ({name})" for n, name in modes.items()) or "none (no Jetson?)"
        raise InputError(f"no power mode {mode!r}; this board has {known}")
    if not yes and not (sys.stdin.isatty() and click.confirm(f"Set power mode {modes[number]}?")):
        raise InputError(f"power mode {modes[number]} was not set: say --yes")
    tool = shutil.which("nvpmodel")
    if tool is None:
        raise InputError("nvpmodel is not installed; it comes with Jetson Linux")
    if subprocess.run([tool, "-m", number], stdin=subprocess.DEVNULL).returncode:
        raise CheckError(f"nvpmodel did not set mode {number}; does it need root, or a reboot?")


@device.command(epilog="Example: aerogaze device agent --server https://updates.example.com/DEFAULT --id d7")
@click.option("--server", required=True, help="A hawkBit or gooseBit server, with the tenant.")
@click.option("--id", "name", required=True, help="This drone's name there.")
@click.option("--token-file", type=PATH, help="The device's token, in a file that only root reads.")
@click.option("--once", is_flag=True, help="Ask once, do what there is to do, and end.")
@root_option
@click.option("--autopilot", help="As of device install.")
@click.option("--no-autopilot", is_flag=True, help="As of device install.")
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
    """Ask a server for new bundles, install what it offers, and tell it how that went."""
    from jetson.hawkbit.agent import Agent
    from jetson.hawkbit.ddi_client import Ddi

    token = signing.read_limited(token_file).decode("ascii", "replace").strip() if token_file else None
    polling = Agent(board(root, facts), Ddi(server, name, token), _autopilot(root, autopilot, no_autopilot))
    with _stopping():
        if once:
            polling.once()
        else:
            polling.run()


def board(root: Path, facts: Path | None = None, policy: str | None = None) -> DeviceBoard:
    """Return the board of a folder, set up as its configuration says.

    A stand-in may have a device tree of its own (`proc/device-tree/model`), and so be any board.
    """
    config = load_board_config(root)
    own = root != DEFAULT_ROOT and (root / "proc/device-tree").is_dir()
    return DeviceBoard(
        root.resolve(),
        read_board_facts(facts or (root if own else Path("/"))),
        select_backend(config.engine),
        parse_policy(policy) if policy else config.precision_policy(),
        config.service,
        log=_say,
    )


def _say(line: str) -> None:
    # Whoever listens may have gone, as when SSH is cut: the board's work goes on.
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def _autopilot(root: Path, link: str | None, none: bool) -> Autopilot:
    """A folder that stands in for a board has no autopilot, unless one is named."""
    link = link or load_board_config(root).autopilot
    if none or (link is None and root != DEFAULT_ROOT):
        return NoAutopilot()
    return _Asking(MavlinkAutopilot(link) if link else UnknownAutopilot())


class _Asking:
    """Asks whoever sits at the terminal, once, where no autopilot answers."""

    def __init__(self, autopilot: Autopilot) -> None:
        self._autopilot = autopilot

    def deny_arming(self) -> contextlib.AbstractContextManager[object]:
        """Have the autopilot refused, if there is one."""
        return self._autopilot.deny_arming()

    def check_disarmed(self) -> None:
        """Ask the autopilot, else the user."""
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
def _stopping() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (SSH was cut) end the work like Ctrl-C: what is on trial goes back."""

    def stop(number: int, where: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
