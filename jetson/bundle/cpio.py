"""SWUpdate's container, in one spelling only: a cpio archive in the "crc" format of cpio(5).

Each member is a header of 110 characters ("070702" and 13 numbers of 8 hex digits), its name with a
zero, and its data, both padded with zeros to 4 bytes; "TRAILER!!!" ends it, padded to 512 bytes. All that
a reader could overlook (inode, owner, times, padding) has one value here, and other values are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from edge.core.errors import InputError

BLOCK_BYTES = 1 << 18
MAX_MEMBER_BYTES = 1 << 30
_HEADER = 110
_TRAILER = "TRAILER!!!"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""No folders, no leading dot, nothing that a file system or terminal takes for something else."""


def validate_member_name(name: str) -> str:
    """Return a member's name if it is a plain file name.

    Raises:
        InputError: it has folders, odd characters, or is longer than 100.
    """
    if not _NAME.fullmatch(name) or name == _TRAILER:
        raise InputError(
            f"{name[:120]!r} cannot be in a bundle; expected a plain file name of at most 100 of "
            "A-Z a-z 0-9 . _ + - that starts with a letter or digit"
        )
    return name


def size_and_checksum(blocks: Iterable[bytes]) -> tuple[int, int]:
    """Return size and checksum (the sum of all bytes, 32 bits) of a member's data."""
    size = total = 0
    for block in blocks:
        size += len(block)
        total = _sum(total, block)
    return size, total


def _sum(total: int, block: bytes) -> int:
    return (total + int(np.frombuffer(block, np.uint8).sum(dtype=np.uint64))) & 0xFFFFFFFF


def encode_header(index: int, name: str, size: int, check: int) -> bytes:
    """Return what stands before a member's data: `index` is 1 for the first, 0 for the trailer."""
    mode, links = (0o100644, 1) if index else (0, 1)
    numbers = (index, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name) + 1, check)
    text = b"070702" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return text + bytes(-len(text) % 4)


def encode_trailer(before: int) -> bytes:
    """Return the archive's end, `before` bytes from its start."""
    end = encode_header(0, _TRAILER, 0, 0)
    return end + bytes(-(before + len(end)) % 512)


@dataclass
class ArchiveMember:
    """A member that was met: its data must be read to the end before the next one."""

    name: str
    size: int
    reader: ArchiveReader
    check: int

    def blocks(self) -> Iterator[bytes]:
        """Give the data in blocks.

        Raises:
            InputError: the archive ends in it, or the sum or padding is wrong.
        """
        left, total = self.size, 0
        while left:
            block = self.reader.take(min(BLOCK_BYTES, left))
            left -= len(block)
            total = _sum(total, block)
            yield block
        if total != self.check:
            raise InputError(f"{self.reader.what}: the checksum of {self.name} is wrong: it was damaged")
        self.reader.expect(bytes(-self.size % 4))

    def read(self, most: int) -> bytes:
        """Return all the data, if it is at most `most` bytes.

        Raises:
            InputError: it is more, or as `blocks` says.
        """
        if self.size > most:
            raise InputError(
                f"{self.reader.what}: {self.name} has {self.size} bytes; expected at most {most}"
            )
        return b"".join(self.blocks())


class ArchiveReader:
    """Reads an archive from its start, member by member, and refuses any other spelling of it."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self._index = 0
        self._at = 0
        self.what = what

    def next_member(self, *names: str) -> ArchiveMember:
        """Return the next member, which must have one of these names, of different lengths.

        Raises:
            InputError: it has not, is too large, or its header is spelt otherwise.
        """
        self._index += 1
        start = self.take(_HEADER)
        if not re.fullmatch(b"070702[0-9A-F]{104}", start):
            raise InputError(
                f"{self.what} is no aerogaze bundle, or damaged: no cpio header where {names[-1]} starts"
            )
        size, length, check = (int(start[at : at + 8], 16) for at in (54, 94, 102))
        name = next((name for name in names if len(name) + 1 == length), names[-1])
        if size > MAX_MEMBER_BYTES:
            raise InputError(f"{self.what}: {name} has {size} bytes; expected at most {MAX_MEMBER_BYTES}")
        expected = encode_header(self._index, name, size, check)
        if start != expected[:_HEADER]:
            raise InputError(
                f"{self.what}: the header of {name} is not as aerogaze writes it: it was changed"
            )
        self.expect(expected[_HEADER:])
        return ArchiveMember(name, size, self, check)

    def end(self) -> None:
        """See that the archive ends here.

        Raises:
            InputError: it does not, or is spelt otherwise.
        """
        self.expect(encode_trailer(self._at))
        if self._file.read(1):
            raise InputError(f"{self.what} goes on after its end: it was changed")

    def take(self, size: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            InputError: the archive ends before.
        """
        data = self._file.read(size)
        if len(data) < size:
            raise InputError(f"{self.what} ends too early, after {self._at + len(data)} bytes: copy it whole")
        self._at += size
        return data

    def expect(self, data: bytes) -> None:
        """Read exactly these bytes.

        Raises:
            InputError: others are there.
        """
        where = self._at
        if self.take(len(data)) != data:
            raise InputError(
                f"{self.what} is not as aerogaze writes it, at byte {where} or after: it was changed"
            )
