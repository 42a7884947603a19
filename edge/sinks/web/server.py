"""HTTP server of the live page, with limits on clients, time and buffers: no client can block the run."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from edge.core.errors import InputError
from edge.core.run_status import Status
from edge.sinks.web.auth import AccessPolicy
from edge.sinks.web.client_roster import ClientRoster
from edge.sinks.web.handlers import IDLE_TIMEOUT_S, LivePageServerBase, RequestHandler
from edge.sinks.web.live_view import LiveView

MAX_STREAMS = 8
"""Streams at the same time. The page of a run with two cameras takes two."""
BACKLOG = 128
"""Connections that the system holds until they are accepted: a burst of them must not turn others away."""
SEND_BUFFER_BYTES = 256 * 1024
"""Send buffer of a connection: small, so that a slow client gets new pictures instead of queued old ones."""
POLL_INTERVAL_S = 0.25
BUSY_RESPONSE = (
    b"HTTP/1.0 429 Too Many Requests\r\nContent-Type: text/plain\r\nRetry-After: 1\r\n\r\n"
    b"too many clients; the run is not affected: try again later\n"
)


class LivePageServer(LivePageServerBase):
    """Serves the live views of a run's cameras under an access policy, with one thread per client.

    Args:
        access: Access policy for requests.
        view: View of the first camera.

    Raises:
        InputError: The address is in use, or is not an address of this machine.
    """

    daemon_threads = True
    block_on_close = False  # close() waits for the client threads itself, with a time limit
    request_queue_size = BACKLOG

    def __init__(self, access: AccessPolicy, view: LiveView) -> None:
        self.access, self.views = access, {view.status.camera: view}
        self._open_views, self._views_lock = 1, threading.Lock()
        self.stream_slots = threading.BoundedSemaphore(MAX_STREAMS)
        self.closing = threading.Event()
        self.clients = ClientRoster()
        self.address_family = access.family
        try:
            super().__init__((access.host, access.port), RequestHandler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot serve at {access.host}:{access.port} ({reason}): choose another address"
            ) from None
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(
            target=self.serve_forever, args=(POLL_INTERVAL_S,), name="aerogaze-http", daemon=True
        )
        self._thread.start()

    def add_view(self, view: LiveView) -> None:
        """Show one more camera."""
        with self._views_lock:
            self._open_views += 1
            self.views = {**self.views, view.status.camera: view}  # replaced: other threads iterate over it

    def end_view(self) -> None:
        """End a camera, which stays visible until all have ended; with the last one, close."""
        with self._views_lock:
            self._open_views -= 1
            is_last = not self._open_views
        if is_last:
            self.close()

    def server_bind(self) -> None:
        """Bind the socket, without the base class's look-up of the host name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def close(self) -> None:
        """Disconnect all clients and wait for their threads, at most `IDLE_TIMEOUT_S`."""
        self.closing.set()
        for view in self.views.values():
            view.close()
        self.shutdown()
        self._thread.join()
        self.server_close()
        deadline_s = time.monotonic() + IDLE_TIMEOUT_S
        while (clients := self.clients.connections()) and time.monotonic() < deadline_s:
            _disconnect(clients)
            time.sleep(0.01)

    def service_actions(self) -> None:
        """Update the history and disconnect clients that exceed the time limit; called between requests."""
        for view in self.views.values():
            view.sample_history()
        if overdue := self.clients.overdue():
            _disconnect(overdue)
            self.report_client_fault("a client exceeded the time limit of a request and was disconnected")
        self._first_status().report_recovery("http")

    def report_client_fault(self, message: str) -> None:
        """Count misbehaviour of a client as a fault of kind "http"."""
        self._first_status().report_fault("http", message)

    def _first_status(self) -> Status:
        """Return the status that counts the faults of the page."""
        return next(iter(self.views.values())).status

    def exempt_from_timeout(self, client: Any) -> None:
        """Exempt a client from the time limit of a request."""
        self.clients.exempt(client)

    def admit(self, client: Any) -> bool:
        """Give a client with access a place to be served; return False if all are taken."""
        return self.clients.admit(client)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of a client; too many waiting clients make the oldest one leave."""
        leaving = self.clients.enter(request, str(client_address[0]))
        if leaving:
            self.report_client_fault("too many clients without a request; the oldest were disconnected")
            for client in leaving:
                with contextlib.suppress(OSError):
                    client.send(BUSY_RESPONSE, socket.MSG_DONTWAIT)
            _disconnect(leaving)
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client on its own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.clients.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of single connections: clients may disconnect at any time."""


def _disconnect(clients: Iterable[Any]) -> None:
    """Disconnect clients; their threads then end."""
    for client in clients:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
