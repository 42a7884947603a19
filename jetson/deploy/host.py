"""A board by its name at the desk, with the options of `aerogaze flash` that it is reached and asked with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from jetson.bundle.manifest import BundleManifest
from jetson.deploy.folder_target import FolderTarget
from jetson.deploy.push import LoadedBundle, Log, OnProgress, PushOptions, push_bundle
from jetson.deploy.runtime_provisioning import RuntimePolicy, RuntimeProvisioner
from jetson.deploy.ssh_target import SshLogin, SshTarget, parse_login
from jetson.device.config import DEFAULT_ROOT
from jetson.device.precision_policy import parse_policy


@dataclass(frozen=True)
class Host:
    """`address`: user@host, user@host:port, or a folder that stands in for a board.

    Raises:
        InputError: it is none of these, or the policy is none.
    """

    address: str
    trust: Path | None = None
    root: Path = DEFAULT_ROOT
    """The board's folder there."""
    aerogaze: str | None = None
    """The command there; None: the one of /opt/aerogaze, else the one on its path."""
    runtime: bool | None = None
    """Bring aerogaze there, or never; None: if it has none, or an older one than the bundle needs."""
    sudo: bool = False
    identity: Path | None = None
    known_hosts: Path | None = None
    policy: str | None = None
    autopilot: str | None = None
    no_autopilot: bool = False
    reinstall: bool = False

    def __post_init__(self) -> None:
        if self.policy is not None:
            parse_policy(self.policy)
        if self.login is None and "@" in self.address and "/" not in self.address:
            raise InputError(f"{self.address!r} is no board; expected user@host, user@host:port, or a folder")
        if self.login is None and self.runtime:
            raise InputError(
                f"{self.address} is a folder, which this desk's own aerogaze works on: leave --runtime out"
            )

    @property
    def login(self) -> SshLogin | None:
        """Where SSH goes; None for a folder."""
        return parse_login(self.address, identity=self.identity, known_hosts=self.known_hosts)

    @property
    def place(self) -> str:
        """Return what tells its board from others, however it is spelt."""
        login = self.login
        if login is None:
            return str(Path(self.address).resolve())
        return f"{login.host}:{login.port or 22}{self.root}"

    async def flash(
        self, cargo: LoadedBundle, log: Log, on_progress: OnProgress, dry_run: bool = False
    ) -> dict[str, Any]:
        """Put a bundle onto it, as `jetson.deploy.push.flash` says, and let go of it."""
        login = self.login
        wish = PushOptions(self.trust, self._options(), dry_run)
        if login is None:
            return await push_bundle(FolderTarget(Path(self.address)), cargo, wish, log, on_progress)
        board = SshTarget(login, self.root, sudo=self.sudo)
        when: RuntimePolicy = "needed" if self.runtime is None else "always" if self.runtime else "never"
        carry = RuntimeProvisioner(when, self.aerogaze, ("--root", str(self.root), *self._asked()))

        async def prepare(manifest: BundleManifest) -> str | None:
            return await carry.ensure(board, manifest, dry_run, log, on_progress)

        try:
            return await push_bundle(board, cargo, replace(wish, prepare=prepare), log, on_progress)
        finally:
            await board.close()

    def _asked(self) -> tuple[str, ...]:
        """Return how the board asks its autopilot."""
        named = ("--autopilot", self.autopilot) if self.autopilot else ()
        return (*named, *(("--no-autopilot",) if self.no_autopilot else ()))

    def _options(self) -> tuple[str, ...]:
        policy = ("--policy", self.policy) if self.policy else ()
        return (*policy, *self._asked(), *(("--reinstall",) if self.reinstall else ()))
