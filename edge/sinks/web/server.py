"""A small HTTP server, bounded in clients and in patience: nobody at its far end can hold anything up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from edge.core.errors import InputError
from edge.sinks.web.auth import AccessPolicy
from edge.sinks.web.handlers import IDLE_S, LivePageServerBase, RequestHandler
from edge.sinks.web.live_view import LiveView

MAX_CLIENTS = 16
MAX_STREAMS = 8
REQUEST_TIMEOUT_S = 10.0
"""How long anything but a stream may take in all."""
SEND_BYTES = 256 * 1024
"""What the system keeps of a stream on its way: little, so that a slow client sees new pictures, not old."""
TICK_S = 0.25
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\ntoo many clients\n"


class LivePageServer(LivePageServerBase):
    """Serves a view through a door, a thread a client.

    Raises:
        InputError: the address is taken, or is none of this machine's.
    """

    daemon_threads = True
    block_on_close = False  # close() below does it, with an end
    request_queue_size = MAX_CLIENTS

    def __init__(self, door: AccessPolicy, view: LiveView) -> None:
        self.door, self.view = door, view
        self.streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.closing = threading.Event()
        self._clients: dict[Any, float | None] = {}
        self._guard = threading.Lock()
        self.address_family = door.family
        try:
            super().__init__((door.host, door.port), RequestHandler)
        except (OSError, OverflowError) as error:
            told = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot serve at {door.host}:{door.port} ({told}): name another address"
            ) from None
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(
            target=self.serve_forever, args=(TICK_S,), name="aerogaze-http", daemon=True
        )
        self._thread.start()

    def server_bind(self) -> None:
        """Bind, and do not ask a name server who we are."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def close(self) -> None:
        """Let all clients go and wait for their threads."""
        self.closing.set()
        self.view.close()
        self.shutdown()
        self._thread.join()
        self.server_close()
        end = time.monotonic() + IDLE_S
        while self._cut(until_s=None) and time.monotonic() < end:
            time.sleep(0.01)

    def service_actions(self) -> None:
        """Between requests: keep the history, and cut off who takes too long."""
        self.view.sample()
        if self._cut(time.monotonic() - REQUEST_TIMEOUT_S):
            self.tell("a client took its time, and was cut off")
        self.view.status.report_recovery("http")

    def tell(self, what: str) -> None:
        """Count what clients do wrong among the faults."""
        self.view.status.report_fault("http", what)

    def streaming(self, client: Any) -> None:
        """Give a client all the time it wants."""
        with self._guard:
            self._clients[client] = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a client's thread, or say that there are enough."""
        with self._guard:
            welcome = len(self._clients) < MAX_CLIENTS
            if welcome:
                self._clients[request] = time.monotonic()
        if welcome:
            request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            super().process_request(request, client_address)
            return
        self.tell(f"more than {MAX_CLIENTS} clients came at a time, and some were turned away")
        request.setblocking(False)
        with contextlib.suppress(OSError):
            request.send(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client, and forget it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._clients.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; that is no news."""

    def _cut(self, until_s: float | None) -> int:
        """Hang up on those who came before a moment, or on all; return how many there were."""
        with self._guard:
            late = [
                client
                for client, came_s in self._clients.items()
                if until_s is None or (came_s is not None and came_s < until_s)
            ]
        for client in late:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        return len(late)
