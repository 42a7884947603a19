"""Structure of video files: whether the end of a file is missing, and how many frames it shows.

The number of frames that FFmpeg announces is an estimate for Matroska, made from the longest track. For an
MP4 it includes frames that the edit list hides, as after trimming without encoding. So a file with fewer
frames than announced need not be damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

MAX_INDEX_BYTES = 64 << 20
"""Largest index (moov box) of an MP4 that is read: 10 hours of video have about 10 MB."""
MAX_SAMPLES = 10_000_000
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"pnot"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_cut(path: Path) -> bool:
    """Return whether a file ends before its own structure does: MP4, AVI and Matroska."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            return _last_end(_riff_chunks(file, size)) > size + 1  # the last chunk may lack its padding byte
        if head[:4] == _EBML:
            return _matroska_end(file) > size
        if head[4:8] in _MP4_BOXES:
            return _last_end(_boxes(file, 0, size)) > size
    return False


def count_frames(path: Path, announced: int | None) -> int | None:
    """Return the exact number of frames that a file shows; None where its structure does not tell it.

    Args:
        path: The file.
        announced: Number of frames that FFmpeg announces.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            return announced
        if head[4:8] not in _MP4_BOXES:
            return None
        try:
            return _count_mp4_frames(file, path.stat().st_size)
        except (ValueError, IndexError, struct.error):  # a damaged index
            return None


def _last_end(parts: Iterator[tuple[bytes, int, int]]) -> int:
    return max((end for _, _, end in parts), default=0)


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start of the content and end of each MP4 box from `start` to before `stop`."""
    while start + 8 <= stop:
        file.seek(start)
        head = file.read(16)
        size, kind = struct.unpack(">I4s", head[:8])
        content = start + 8
        if size == 1 and len(head) == 16:
            size, content = struct.unpack(">Q", head[8:])[0], start + 16
        end = stop if size == 0 else start + size
        if end < content:
            return
        yield kind, content, end
        start = end


def _riff_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the RIFF chunks of an AVI; one over 1 GB has several."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or not length:  # trailing bytes, or a writer that did not finish
            return
        yield kind, start + 8, start + 8 + length
        start += 8 + length + length % 2


def _matroska_end(file: BinaryIO) -> int:
    """Return the end of the segment; 0 if the file does not state it, as live recordings do not."""
    file.seek(4)
    header_size = _read_vint(file)
    if header_size is None:
        return 0
    file.seek(header_size, 1)
    if file.read(4) != _SEGMENT:
        return 0
    size = _read_vint(file)
    return 0 if size is None else file.tell() + size


def _read_vint(file: BinaryIO) -> int | None:
    """Return a size of EBML; None for an unknown one."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big")
    bits = 7 * length
    value &= (1 << bits) - 1
    return None if value == (1 << bits) - 1 else value


def _count_mp4_frames(file: BinaryIO, size: int) -> int | None:
    """Return the number of frames between the times that the edit list of the video track shows."""
    movie = _find(file, 0, size, b"moov")
    if movie is None or movie[1] > size or movie[1] - movie[0] > MAX_INDEX_BYTES:
        return None
    if _find(file, *movie, b"mvex") is not None:  # fragments are not in the index
        return None
    movie_scale = _read_timescale(file, _require(file, *movie, b"mvhd"))
    for kind, start, stop in _boxes(file, *movie):
        if kind != b"trak":
            continue
        media = _require(file, start, stop, b"mdia")
        handler = _read(file, _require(file, *media, b"hdlr"))
        if handler[8:12] == b"vide":
            media_scale = _read_timescale(file, _require(file, *media, b"mdhd"))
            table = _require(file, *_require(file, *media, b"minf"), b"stbl")
            edits = _find(file, start, stop, b"edts")
            stamps = _read_stamps(file, *table)
            return _count_shown(file, edits, stamps, media_scale / movie_scale)
    return None


def _count_shown(
    file: BinaryIO, edits: tuple[int, int] | None, stamps: NDArray[np.int64], scale: float
) -> int | None:
    content = _find(file, *edits, b"elst") if edits else None
    if content is None:
        return len(stamps)
    data = _read(file, content)
    entry = ">Qqi" if data[0] == 1 else ">Iii"
    count = struct.unpack(">I", data[4:8])[0]
    if count * struct.calcsize(entry) != len(data) - 8:
        raise ValueError("the edit list has another length")
    shown = [(duration, start) for duration, start, _ in struct.iter_unpack(entry, data[8:]) if start >= 0]
    if len(shown) != 1:
        return None
    duration, start = shown[0]
    end = start + (duration + 1) * scale if duration else float("inf")
    return int(((stamps >= start) & (stamps < end)).sum())


def _read_stamps(file: BinaryIO, start: int, stop: int) -> NDArray[np.int64]:
    """Return the time of each sample in its table, in decoding order."""
    steps = _read_runs(file, _require(file, start, stop, b"stts"))
    stamps = np.concatenate([[0], np.cumsum(steps)])[:-1] if len(steps) else steps
    offsets = _find(file, start, stop, b"ctts")
    return stamps if offsets is None else stamps + _read_runs(file, offsets)


def _read_runs(file: BinaryIO, content: tuple[int, int]) -> NDArray[np.int64]:
    """Return a table of repeated values: steps or offsets in time."""
    data = _read(file, content)
    count = struct.unpack(">I", data[4:8])[0]
    pairs = np.frombuffer(data[8 : 8 + 8 * count], ">i4").reshape(-1, 2).astype(np.int64)
    repeats = pairs[:, 0]
    if len(pairs) != count or (repeats < 0).any() or repeats.sum() > MAX_SAMPLES:
        raise ValueError("a table of times is damaged")
    return np.repeat(pairs[:, 1], repeats)


def _read_timescale(file: BinaryIO, content: tuple[int, int]) -> int:
    data = _read(file, content)
    scale: int = struct.unpack(">I", data[20:24] if data[0] == 1 else data[12:16])[0]
    if not scale:
        raise ValueError("the time scale is zero")
    return scale


def _find(file: BinaryIO, start: int, stop: int, kind: bytes) -> tuple[int, int] | None:
    return next((content[1:] for content in _boxes(file, start, stop) if content[0] == kind), None)


def _require(file: BinaryIO, start: int, stop: int, kind: bytes) -> tuple[int, int]:
    content = _find(file, start, stop, kind)
    if content is None or content[1] > stop:
        raise ValueError(f"there is no {kind.decode()}")
    return content


def _read(file: BinaryIO, content: tuple[int, int]) -> bytes:
    file.seek(content[0])
    return file.read(content[1] - content[0])
