"""A folder that stands in for a board, reached as a board is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from jetson.deploy.push import CommandResult, Log, OnProgress, forward_lines


class FolderTarget:
    """Runs the board's commands here, with the folder as their root."""

    def __init__(self, root: Path) -> None:
        self.name, self._root = str(root), root

    async def run(self, words: Sequence[str], log: Log | None = None) -> CommandResult:
        """Run them in a process of their own, as on a board."""
        command = [sys.executable, "-m", "edge.cli.main", "device", *words, "--root", str(self._root)]
        pipe = asyncio.subprocess.PIPE
        # A session of its own: Ctrl-C at the desk reaches it once, through us.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            out, last = await asyncio.gather(process.stdout.read(), forward_lines(process.stderr, log))
            return CommandResult(await process.wait(), out.decode(), last)
        finally:
            if process.returncode is None:
                process.terminate()  # it goes back, if it was on trial
                await process.wait()

    async def send(self, place: Path, digest: str, on_progress: OnProgress) -> str:
        """It is here already."""
        return str(place.resolve())

    async def remove(self, name: str) -> None:
        """Keep it: it is the desk's."""

    async def close(self) -> None:
        """Nothing is held."""
