"""Output of a board's command, with limits: the desk trusts no board with its memory, time or terminal."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Protocol

from edge.core.errors import InputError
from edge.core.foreign_text import printable

MAX_OUTPUT_CHARS = 1 << 20
"""Most characters of each of a command's two streams. An install writes some thousand."""
MAX_LINE_CHARS = 2000
"""Longest line that is logged; longer ones are cut."""
BLOCK = 1 << 16


class Stream(Protocol):
    """Stream of a process, here or on a board."""

    async def read(self, n: int = -1, /) -> str | bytes:
        """Return what has arrived, at most `n`; nothing at the end."""


async def read_output(stream: Stream) -> str:
    """Return the whole content of a stream.

    Raises:
        InputError: It is longer than `MAX_OUTPUT_CHARS`.
    """
    output = _LimitedText()
    blocks = []
    while block := await stream.read(BLOCK):
        blocks.append(output.decode(block))
    return "".join(blocks)


async def forward_lines(stream: Stream, log: Callable[[str], None] | None) -> str:
    """Pass each line of a stream to `log` except error messages, and return the last line.

    The prefix `aerogaze: ` marks an error message, and is removed from it. What could control a terminal is
    replaced.

    Raises:
        InputError: The content is longer than `MAX_OUTPUT_CHARS`.
    """
    output, last_line, rest = _LimitedText(), "", ""
    while block := await stream.read(BLOCK):
        *lines, rest = (rest + output.decode(block)).split("\n")
        for line in lines:
            last_line = _forward(line, log) or last_line
    return _forward(rest, log) or last_line


def _forward(line: str, log: Callable[[str], None] | None) -> str:
    text = printable(line.strip(), MAX_LINE_CHARS)
    message = text.removeprefix("aerogaze: ")
    if text and message == text and log is not None:
        log(text)
    return message


class _LimitedText:
    """Decoder of blocks that counts their characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chars = 0

    def decode(self, block: str | bytes) -> str:
        text = block if isinstance(block, str) else self._decoder.decode(block)
        self._chars += len(text)
        if self._chars > MAX_OUTPUT_CHARS:
            raise InputError(
                f"the output of the board's command exceeds {MAX_OUTPUT_CHARS} characters: "
                "check that the command is aerogaze"
            )
        return text
