"""Clients of the live page: who gets a place, and who has to leave for others.

A client waits from its connection to the end of its request's head, then it is served. Waiting costs an
attacker nothing, so waiting clients never keep others out: the oldest one leaves for a new one, and each has
a deadline. Places to be served are given only to clients with access: those with the token, or, where the
page needs none, those on this machine.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_SERVED = 16
MAX_WAITING = 16
RESERVED_FOR_LOOPBACK = 4
"""Places, waiting and served, that only clients on this machine get: health checks and tunnels."""
MAX_WAITING_PER_ADDRESS = 4
"""For other machines. Clients behind a tunnel or proxy share this machine's address, which has no cap."""
HEAD_TIMEOUT_S = 2.0
"""Total time limit from the connection to the end of the request's head."""
REQUEST_TIMEOUT_S = 10.0
"""Total time limit of a request, except for streams."""


@dataclass
class _Client:
    host: str
    is_loopback: bool
    started_s: float | None
    is_served: bool = False


class ClientRoster:
    """Thread-safe list of the clients and their limits.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._clients: dict[Any, _Client] = {}  # in the order of their connections

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, connection: Any, host: str) -> list[Any]:
        """Let a client wait; return the waiting clients that leave for it, which the caller disconnects."""
        new = _Client(host, is_loopback(host), self._clock())
        with self._lock:
            waiting = {key: client for key, client in self._clients.items() if not client.is_served}
            remote = [key for key, client in waiting.items() if not client.is_loopback]
            same_host = [key for key in remote if waiting[key].host == host]
            leaving: list[Any] = []
            if not new.is_loopback and len(same_host) >= MAX_WAITING_PER_ADDRESS:
                leaving = same_host[:1]
            elif not new.is_loopback and len(remote) >= MAX_WAITING - RESERVED_FOR_LOOPBACK:
                leaving = remote[:1]
            elif len(waiting) >= MAX_WAITING:
                leaving = (remote or list(waiting))[:1]
            for key in leaving:
                del self._clients[key]
            self._clients[connection] = new
        return leaving

    def admit(self, connection: Any) -> bool:
        """Give a client with access a place to be served; return False if there is none for it."""
        with self._lock:
            client = self._clients.get(connection)
            if client is None:
                return False
            served = sum(other.is_served for other in self._clients.values())
            if served >= MAX_SERVED - (0 if client.is_loopback else RESERVED_FOR_LOOPBACK):
                return False
            client.is_served = True
            return True

    def exempt(self, connection: Any) -> None:
        """Exempt a served client from the time limit of a request."""
        with self._lock:
            if (client := self._clients.get(connection)) is not None:
                client.started_s = None

    def leave(self, connection: Any) -> None:
        """Remove a client that has disconnected."""
        with self._lock:
            self._clients.pop(connection, None)

    def overdue(self) -> list[Any]:
        """Return the clients that exceed their time limit."""
        now = self._clock()
        with self._lock:
            return [
                key
                for key, client in self._clients.items()
                if client.started_s is not None
                and now - client.started_s > (REQUEST_TIMEOUT_S if client.is_served else HEAD_TIMEOUT_S)
            ]

    def connections(self) -> list[Any]:
        """Return all clients."""
        with self._lock:
            return list(self._clients)


def is_loopback(host: str) -> bool:
    """Return whether an address is one of this machine; IPv4 addresses may be written as IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
