from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.sinks.files.piped_file import PipedFile


def test_file_that_cannot_be_opened_is_an_error_at_the_end_and_its_writer_never_waits(tmp_path: Path) -> None:
    (tmp_path / "o.mkv").mkdir()
    opened = []

    def open_writer(pipe: Path) -> bool:
        opened.append(pipe.open("wb", buffering=0))
        return True

    piped = PipedFile(tmp_path / "o.mkv", open_writer)
    for _ in range(4):
        opened[0].write(bytes(1 << 20))  # more than a pipe holds
    opened[0].close()
    with pytest.raises(InputError, match=r"cannot write .*o\.mkv: Is a directory"):
        piped.finish()
