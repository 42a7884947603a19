"""Push target for a folder that stands in for a board."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from jetson.deploy.command_output import forward_lines, read_output
from jetson.deploy.push import CommandResult, Log, OnProgress


class FolderTarget:
    """Runs the board's commands on this machine, with the folder as the board's root."""

    def __init__(self, root: Path) -> None:
        self.name, self._root = str(root), root

    async def run(self, arguments: Sequence[str], log: Log | None = None) -> CommandResult:
        """Run `aerogaze device ARGUMENTS` in a process of its own, as on a board."""
        command = [sys.executable, "-m", "edge.cli.main", "device", *arguments, "--root", str(self._root)]
        pipe = asyncio.subprocess.PIPE
        # In a new session, the process gets no Ctrl-C from the terminal: only the SIGTERM below stops it.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            stdout, last_line = await asyncio.gather(
                read_output(process.stdout), forward_lines(process.stderr, log)
            )
            return CommandResult(await process.wait(), stdout, last_line)
        finally:
            if process.returncode is None:
                process.terminate()  # the device command handles SIGTERM: it reverts a running trial
                await process.wait()

    async def send(self, path: Path, digest: str, on_progress: OnProgress) -> str:
        """Return the path of the local file; nothing has to be sent."""
        return str(path.resolve())

    async def remove(self, name: str) -> None:
        """Do nothing: the file belongs to the user."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""
