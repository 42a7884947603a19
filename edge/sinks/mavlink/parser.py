"""Parser of received MAVLink data that detects a wrong port or baud rate."""

from __future__ import annotations

from typing import Any

from edge.core.run_status import Status
from edge.sinks.mavlink.link import MavlinkLink

MAX_STRAY_BYTES = 280
"""Bytes outside messages that a serial line may deliver without a fault: one truncated longest message."""


class MessageParser:
    """Turns the data of a link into messages, and reports data that is not MAVLink as a fault.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        link: Link to read.
        status: Gets faults of kind "mavlink".
    """

    def __init__(self, dialect: Any, link: MavlinkLink, status: Status) -> None:
        self._dialect, self._link, self._status = dialect, link, status
        self._parser = self._new_parser()
        self._stray_bytes = 0

    def parse(self, data: bytes) -> list[Any]:
        """Return the messages in received data, and count the bytes that belong to none."""
        messages, stray = self._parse_buffer(data)
        if self._link.is_packet_based and data and not messages:
            stray = len(data)  # also if it starts like a message and ends before its end
        self._stray_bytes = self._stray_bytes + stray if stray or not messages else 0
        if self._stray_bytes > (0 if self._link.is_packet_based else MAX_STRAY_BYTES):
            self._status.report_fault(
                "mavlink", "received data that is not MAVLink: check the port and the baud rate"
            )
        return messages

    def report_recovery(self, received: list[bytes]) -> None:
        """Report that the link works, unless the last read brought only stray bytes."""
        if not self._stray_bytes or not any(received):
            self._status.report_recovery("mavlink")

    def _parse_buffer(self, data: bytes) -> tuple[list[Any], int]:
        """Return the messages and the number of stray bytes."""
        if self._link.is_packet_based:
            self._parser = self._new_parser()  # a damaged datagram must not swallow the next one
        try:
            parsed = list(self._parser.parse_buffer(data) or ())
        except Exception:  # pymavlink raises many kinds; no input may stop the heartbeats
            return [], len(data)
        messages = [message for message in parsed if message.get_type() != "BAD_DATA"]
        return messages, sum(len(item.data) for item in parsed if item.get_type() == "BAD_DATA")

    def _new_parser(self) -> Any:
        parser = self._dialect.MAVLink(None)
        parser.robust_parsing = True  # skip bytes that are not part of a message instead of raising
        return parser
