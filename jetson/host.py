"""A board by its name at the desk, with the options of `aerogaze flash` that it is reached and asked with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import InputError
from jetson.config import ROOT
from jetson.flash import Cargo, OnBytes, Say, Target, Wish, flash
from jetson.folder import FolderTarget
from jetson.ssh import Login, SshTarget, parse_login


@dataclass(frozen=True)
class Host:
    """`address`: user@host, user@host:port, or a folder that stands in for a board.

    Raises:
        InputError: it is none of these.
    """

    address: str
    trust: Path | None = None
    root: Path = ROOT
    """The board's folder there."""
    aerogaze: str = "aerogaze"
    """The command there."""
    sudo: bool = False
    identity: Path | None = None
    known_hosts: Path | None = None
    policy: str | None = None
    autopilot: str | None = None
    no_autopilot: bool = False
    reinstall: bool = False

    def __post_init__(self) -> None:
        if self.login is None and "@" in self.address and "/" not in self.address:
            raise InputError(f"{self.address!r} is no board; expected user@host, user@host:port, or a folder")

    @property
    def login(self) -> Login | None:
        """Where SSH goes; None for a folder."""
        return parse_login(self.address, identity=self.identity, known_hosts=self.known_hosts)

    async def flash(self, cargo: Cargo, say: Say, on_bytes: OnBytes, dry_run: bool = False) -> dict[str, Any]:
        """Put a bundle onto it, as `jetson.flash.flash` says, and let go of it."""
        target = self._target()
        try:
            return await flash(target, cargo, Wish(self.trust, self._options(), dry_run), say, on_bytes)
        finally:
            await target.close()

    def _target(self) -> Target:
        login = self.login
        if login is None:
            return FolderTarget(Path(self.address))
        return SshTarget(login, self.root, self.aerogaze, self.sudo)

    def _options(self) -> tuple[str, ...]:
        named = (("--policy", self.policy), ("--autopilot", self.autopilot))
        flags = (("--no-autopilot", self.no_autopilot), ("--reinstall", self.reinstall))
        words = [word for option, value in named if value for word in (option, value)]
        return (*words, *(flag for flag, asked in flags if asked))
