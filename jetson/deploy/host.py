"""Board as the desk knows it: its address, and the options of `aerogaze flash` that apply to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from jetson.bundle.manifest import BundleManifest
from jetson.deploy.folder_target import FolderTarget
from jetson.deploy.push import LoadedBundle, Log, OnProgress, PushOptions, push_bundle
from jetson.deploy.runtime_provisioning import ProvisioningPolicy, RuntimeProvisioner
from jetson.deploy.ssh_target import SshLogin, SshTarget, parse_login
from jetson.device.config import DEFAULT_ROOT
from jetson.device.precision_policy import parse_policy


@dataclass(frozen=True)
class Host:
    """Address of a board and the options for installing a bundle on it.

    The fields, written with hyphens, are the keys of a host in an inventory (`jetson.fleet.inventory`).

    Attributes:
        address: user@host, user@host:port, or a folder that stands in for a board: an existing one, or one
            that is written as a path, such as ./drone.
        folder: The address is a folder, whatever it looks like.
        trust: Keys for a board that trusts none yet.
        root: Aerogaze's folder on the board.
        aerogaze: Command on the board; None for the one in /opt/aerogaze, else the one in PATH.
        runtime: True to always install aerogaze on the board, False for never; None to install it if it is
            missing or older than the bundle requires.
        sudo: Run commands on the board with sudo.
        identity: Private SSH key; None for the default keys and the agent.
        known_hosts: File of host keys; None for ~/.ssh/known_hosts.
        policy: Precision policy instead of the board's own.
        autopilot: Link to the autopilot instead of the board's own.
        no_autopilot: The board has no autopilot to ask.
        reinstall: Install the bundle even if the board has it already.

    Raises:
        InputError: The address or the policy is invalid, or a runtime is requested for a folder.
    """

    address: str
    trust: Path | None = None
    root: Path = DEFAULT_ROOT
    aerogaze: str | None = None
    runtime: bool | None = None
    sudo: bool = False
    identity: Path | None = None
    known_hosts: Path | None = None
    policy: str | None = None
    autopilot: str | None = None
    no_autopilot: bool = False
    reinstall: bool = False
    folder: bool = False

    def __post_init__(self) -> None:
        if self.policy is not None:
            parse_policy(self.policy)
        if self.login is None and not self.folder:
            check_folder(self.address)
        if self.login is None and self.runtime:
            raise InputError(
                f"{self.address} is a folder, which uses the aerogaze of this desk: omit --runtime"
            )

    @property
    def login(self) -> SshLogin | None:
        """SSH login of the board; None for a folder."""
        if self.folder:
            return None
        return parse_login(self.address, identity=self.identity, known_hosts=self.known_hosts)

    @property
    def board_key(self) -> str:
        """Key that is the same for two hosts if they are the same board, however the address is written."""
        login = self.login
        if login is None:
            return str(Path(self.address).resolve())
        return f"{login.host}:{login.port or 22}{self.root}"

    async def flash(
        self, bundle: LoadedBundle, log: Log, on_progress: OnProgress, dry_run: bool = False
    ) -> dict[str, Any]:
        """Install a bundle on the board, after its runtime if needed, and close the connection.

        Args:
            bundle: The bundle to install.
            log: Called with each line of progress.
            on_progress: Called with the number of bytes sent and the total.
            dry_run: Only check whether the bundle fits.

        Returns:
            Status of the board, as `jetson.deploy.push.push_bundle` returns it.

        Raises:
            InputError: As `push_bundle`.
            CheckError: As `push_bundle`.
        """
        login = self.login
        options = PushOptions(self.trust, self._install_options(), dry_run)
        if login is None:
            return await push_bundle(FolderTarget(Path(self.address)), bundle, options, log, on_progress)
        target = SshTarget(login, self.root, sudo=self.sudo)
        policy: ProvisioningPolicy = (
            "needed" if self.runtime is None else "always" if self.runtime else "never"
        )
        provisioner = RuntimeProvisioner(
            policy, self.aerogaze, ("--root", str(self.root), *self._autopilot_options())
        )

        async def prepare_runtime(manifest: BundleManifest) -> str | None:
            return await provisioner.ensure(target, manifest, dry_run, log, on_progress)

        try:
            options = replace(options, prepare_runtime=prepare_runtime)
            return await push_bundle(target, bundle, options, log, on_progress)
        finally:
            await target.close()

    def _autopilot_options(self) -> tuple[str, ...]:
        """Return the options of `aerogaze device` that select the autopilot."""
        link = ("--autopilot", self.autopilot) if self.autopilot else ()
        return (*link, *(("--no-autopilot",) if self.no_autopilot else ()))

    def _install_options(self) -> tuple[str, ...]:
        policy = ("--policy", self.policy) if self.policy else ()
        reinstall = ("--reinstall",) if self.reinstall else ()
        return (*policy, *self._autopilot_options(), *reinstall)


def check_folder(address: str, base: Path = Path()) -> None:
    """Check that an address which is no SSH login clearly means a folder, and not a mistyped host.

    Args:
        address: The address.
        base: Folder at which a relative path starts.

    Raises:
        InputError: The address is neither written as a path nor an existing folder.
    """
    is_written_as_path = address.startswith(("/", "./", "../")) or ("/" in address and "@" not in address)
    if not is_written_as_path and not (base / address).is_dir():
        raise InputError(
            f"{address!r} is neither a board nor an existing folder; expected user@host, user@host:port "
            f"or a folder: write ./{address} for a new folder that stands in for a board"
        )
