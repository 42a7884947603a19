"""File that gets at once what a library writes, through a pipe.

FFmpeg keeps 256 KiB of a file in memory, which are several seconds of video. Into a pipe it writes at once, a
Matroska file in pieces of about a second. So little is lost when the process is killed.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError

_BLOCK_BYTES = 1 << 20


class PipedFile:
    """Copies everything that is written to a pipe into a file, on a thread of its own.

    Args:
        path: The file; its suffix is that of the pipe, too.
        open_writer: Opens the pipe by its name for writing and returns whether it could.

    Attributes:
        is_open: Whether the pipe was opened.
        error: The first error of writing to the file.
    """

    def __init__(self, path: Path, open_writer: Callable[[Path], bool]) -> None:
        self._path = path
        self.error: InputError | None = None
        with translate_write_errors(path), tempfile.TemporaryDirectory(prefix="aerogaze-") as folder:
            # Not beside the file: memory cards with FAT have no named pipes. Once both ends are open, the
            # name is not needed any more.
            pipe = Path(folder) / f"pipe{path.suffix}"
            os.mkfifo(pipe, 0o600)
            self._source = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(self._source, True)
            self.is_open = open_writer(pipe)
        self._thread = threading.Thread(target=self._copy, name="aerogaze-recording", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything is in the file; the pipe's other end must be closed.

        Raises:
            InputError: The file could not be written.
        """
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _copy(self) -> None:
        with open(self._source, "rb", buffering=0) as source:
            try:
                with translate_write_errors(self._path), self._path.open("wb", buffering=0) as target:
                    while block := source.read(_BLOCK_BYTES):
                        while block:
                            block = block[target.write(block) or 0 :]
            except InputError as error:
                self.error = error
            while source.read(_BLOCK_BYTES):  # after an error the pipe is still emptied: its writer may wait
                pass
