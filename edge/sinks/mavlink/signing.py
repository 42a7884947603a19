"""MAVLink 2 message signing (mavlink.io/en/guide/message_signing.html)."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.guarded_files import read_bytes

KEY_BYTES = 32
TICKS_PER_S = 100_000
"""Ticks of a time stamp, which counts from the start of 2015."""
MAX_LAG_S = 60
"""A sender that was not heard before may be this far behind the own clock."""
_EPOCH_S = 1_420_070_400
_START_OF_MAVLINK_2, _IS_SIGNED = 0xFD, 0x01
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


class MessageSigner:
    """Signs outgoing messages and checks incoming ones with one key.

    pymavlink's own check is not used: it takes over the time stamp of a message before it has checked the
    signature, so that one forged message would lock out the pilot.

    Args:
        key: The key.
        clock: Time in seconds since 1970.
    """

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key, clock
        self._newest = 0
        self._streams: dict[tuple[int, int, int], int] = {}

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
        stream = link_id, system, component
        if time_stamp <= self._streams.get(stream, self._now() - MAX_LAG_S * TICKS_PER_S):
            return False
        self._streams[stream] = time_stamp
        self._newest = max(self._newest, time_stamp)
        return True

    def _now(self) -> int:
        """Return the current time stamp: the later one of the own clock and the newest valid message."""
        return max(self._newest, int((self._clock() - _EPOCH_S) * TICKS_PER_S))
