"""MAVLink 2 message signing (mavlink.io/en/guide/message_signing.html)."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.core.guarded_files import parse_json, read_bytes

KEY_BYTES = 32
TICKS_PER_S = 100_000
"""Ticks of a time stamp, which counts from the start of 2015."""
MAX_LAG_S = 60
"""A sender that was not heard before may be this far behind the own clock."""
STORE_INTERVAL_S = 5.0
"""Time between two writes of the stored time stamps."""
MAX_STORED_BYTES = 1 << 20
_EPOCH_S = 1_420_070_400
_START_OF_MAVLINK_2, _IS_SIGNED = 0xFD, 0x01
Stream = tuple[int, int, int]
"""Link id, system and component of a sender."""
_EXPECTED = "the 32 bytes of a MAVLink signing key, or 64 hexadecimal digits"


def read_key(path: Path) -> bytes:
    """Return the signing key in a file: 32 bytes, or 64 hexadecimal digits.

    Raises:
        InputError: The file cannot be read, other users may read or change it, or it holds no key.
    """
    data = read_bytes(path, 4096, _EXPECTED, accepts_pipe=True)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and os.name == "posix":
        raise InputError(
            f"{path} has the rights {mode:04o}; expected a key that only its owner may read: chmod 600 {path}"
        )
    if len(data) == KEY_BYTES:
        return data
    text = data.strip()
    if not re.fullmatch(rb"[0-9A-Fa-f]{64}", text):
        raise InputError(f"{path} holds {len(data)} bytes; expected {_EXPECTED}: openssl rand -hex 32")
    return bytes.fromhex(text.decode())


class TimeStampFile:
    """File that keeps time stamps over a restart, as the standard asks for.

    While a run lasts, the file holds time stamps that lie `STORE_INTERVAL_S` ahead: after a kill or a power
    cut nothing is accepted, and nothing sent, with a time stamp that may have been used.

    Args:
        path: The file; a missing one holds nothing.

    Raises:
        InputError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[int, dict[Stream, int]]:
        """Return the newest time stamp, and the last one of each sender."""
        if not os.path.exists(self._path):
            return 0, {}
        data = read_bytes(self._path, MAX_STORED_BYTES, "the time stamps of MAVLink signing")
        try:
            document = parse_json(data)
            streams = {_parse_stream(key): int(value) for key, value in document["senders"].items()}
            return int(document["newest"]), streams
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{self._path} holds no time stamps of MAVLink signing ({type(error).__name__}); remove it "
                "if no recorded messages of the last flight can be sent to this vehicle"
            ) from None

    def save(self, newest: int, streams: Mapping[Stream, int], ahead_s: float = STORE_INTERVAL_S) -> None:
        """Replace the file at once.

        Raises:
            InputError: It cannot be written.
        """
        ahead = round(ahead_s * TICKS_PER_S)
        senders = {":".join(map(str, stream)): value + ahead for stream, value in streams.items()}
        text = json.dumps({"newest": newest + ahead, "senders": senders})
        with atomic_file(self._path) as path, path.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


class MessageSigner:
    """Signs outgoing messages and checks incoming ones with one key.

    pymavlink's own check is not used: it takes over the time stamp of a message before it has checked the
    signature, so that one forged message would lock out the pilot.

    Args:
        key: The key.
        clock: Time in seconds since 1970.
        file: Keeps the time stamps over a restart; None keeps none.

    Raises:
        InputError: The file holds something else.
    """

    def __init__(
        self, key: bytes, clock: Callable[[], float] = time.time, file: TimeStampFile | None = None
    ) -> None:
        self._key, self._clock, self._file = key, clock, file
        self._newest = 0
        self._streams: dict[Stream, int] = {}
        if file is not None:
            self._newest, self._streams = file.load()

    def store(self, at_end: bool = False) -> None:
        """Store the time stamps, if there is a file; call this every `STORE_INTERVAL_S`, and at the end.

        Raises:
            InputError: The file cannot be written.
        """
        if self._file is not None:
            self._file.save(self._now(), dict(self._streams), 0.0 if at_end else STORE_INTERVAL_S)

    def prepare(self, encoder: Any) -> None:
        """Let a pymavlink encoder sign the next message, with the current time."""
        signing = encoder.signing
        signing.secret_key, signing.sign_outgoing = self._key, True
        signing.timestamp = max(signing.timestamp, self._now())

    def verify(self, message: Any) -> bool:
        """Return whether a received message is signed with the key and is no repetition of an older one."""
        packet = bytes(message.get_msgbuf())
        if packet[0] != _START_OF_MAVLINK_2 or not packet[2] & _IS_SIGNED:
            return False
        signature = hashlib.sha256(self._key + packet[:-6]).digest()[:6]
        if not hmac.compare_digest(signature, packet[-6:]):
            return False
        link_id, system, component = packet[-13], packet[5], packet[6]
        time_stamp = int.from_bytes(packet[-12:-6], "little")
        stream: Stream = link_id, system, component
        if time_stamp <= self._streams.get(stream, self._now() - MAX_LAG_S * TICKS_PER_S):
            return False
        self._streams[stream] = time_stamp
        self._newest = max(self._newest, time_stamp)
        return True

    def _now(self) -> int:
        """Return the current time stamp: the later one of the own clock and the newest valid message."""
        return max(self._newest, int((self._clock() - _EPOCH_S) * TICKS_PER_S))


def _parse_stream(key: str) -> Stream:
    link_id, system, component = map(int, key.split(":"))
    return link_id, system, component
