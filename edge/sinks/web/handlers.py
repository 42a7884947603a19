"""HTTP request handler of the live page: one method per path."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.core.run_status import State
from edge.sinks.web.auth import AccessPolicy, cookie_name
from edge.sinks.web.live_view import LiveView

MIN_PICTURE_INTERVAL_S = 1 / 25
"""Minimum time between two pictures of a stream."""
BOUNDARY = "aerogaze-picture"
BEST_STATES: tuple[State, ...] = ("running", "stalled", "starting", "stopped")
"""States of a camera, the best one first: that of the best camera is the state of the run."""
IDLE_TIMEOUT_S = 5.0
"""Time after which a client that neither sends nor receives is disconnected."""
HTML = "text/html; charset=utf-8"
PLAIN_TEXT = "text/plain; charset=utf-8"
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LivePageServerBase(ThreadingHTTPServer):
    """Interface of the server that a request handler uses.

    Attributes:
        access: Access policy for requests.
        views: Content of the page by the name of the camera; the name of an only one may be empty.
        port: TCP port of the server.
        stream_slots: Limits the number of streams.
        closing: Set when the server closes.
    """

    access: AccessPolicy
    views: Mapping[str, LiveView]
    port: int
    stream_slots: threading.BoundedSemaphore
    closing: threading.Event

    def report_client_fault(self, message: str) -> None:
        """Count misbehaviour of a client as a fault."""
        raise NotImplementedError

    def admit(self, client: Any) -> bool:
        """Give a client with access a place to be served; return False if all are taken."""
        raise NotImplementedError

    def exempt_from_timeout(self, client: Any) -> None:
        """Exempt a client from the time limit of a request."""
        raise NotImplementedError


class RequestHandler(BaseHTTPRequestHandler):
    """Answers the requests of one client; all of them are read-only."""

    server: LivePageServerBase
    _view: LiveView
    _asks_for_one: bool
    server_version, sys_version = "aerogaze", ""
    timeout = IDLE_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer a GET request."""
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._send_text(HTTPStatus.BAD_REQUEST, "invalid URL\n")
            return
        access, headers = self.server.access, self.headers
        if not access.accepts_host(headers.get("Host")):
            self._send_text(
                HTTPStatus.FORBIDDEN, "this page is served to this machine only: use localhost as the host\n"
            )
            return
        if url.path == "/healthz":
            self._send_health()
            return
        token = parse_qs(url.query).get("token", [None])[-1]
        port = self.server.port
        if not access.is_authorized(token, headers.get("Cookie"), headers.get("Authorization"), port):
            self._request_token(url.path, is_wrong=token is not None)
            return
        if url.path == "/" and token is not None and access.token is not None:
            is_valid = access.is_authorized(token, None, None, port)
            self._redirect_without_token(access.token if is_valid else None)
            return
        self._send_path(url.path, parse_qs(url.query).get("camera", [None])[-1])

    def _send_path(self, path: str, camera: str | None) -> None:
        """Answer a request with access.

        Args:
            path: Path of the request.
            camera: Name of the camera that is asked for; None if the request has none.
        """
        views = self.server.views
        view = next(iter(views.values())) if camera is None else views.get(camera)
        if view is None:
            self._send_text(HTTPStatus.NOT_FOUND, f"no such camera; available: {', '.join(views)}\n")
            return
        self._view, self._asks_for_one = view, camera is not None or "" in views
        send = {
            "/": self._send_page,
            "/status.json": self._send_status,
            "/metrics": self._send_metrics,
            "/stream.mjpg": self._send_stream,
            "/frame.jpg": self._send_picture,
        }.get(path)
        if send is None:
            self._send_text(
                HTTPStatus.NOT_FOUND,
                "not found; available: /, /stream.mjpg, /frame.jpg, /status.json, /metrics, /healthz\n",
            )
        elif self.server.admit(self.connection):
            send()
        else:
            self._send_busy("too many clients")

    def do_HEAD(self) -> None:
        """Answer a HEAD request: the same without a body."""
        self.do_GET()

    def log_message(self, *args: object) -> None:
        """Log nothing: requests are not events of the run."""

    def version_string(self) -> str:
        """Return the value of the Server header, without version numbers."""
        return "aerogaze"

    def _send_page(self) -> None:
        self._send(HTTPStatus.OK, HTML, _read_asset("page.html"))

    def _send_status(self) -> None:
        if self._asks_for_one:
            document = self._view.status_document()
        else:
            documents = {name: view.status_document() for name, view in self.server.views.items()}
            document = {"state": self._health()[0], "cameras": documents}
        self._send(HTTPStatus.OK, "application/json", json.dumps(document).encode())

    def _send_busy(self, reason: str) -> None:
        """Answer that the client comes too much; 503 would say that the run does not work."""
        self._send_text(HTTPStatus.TOO_MANY_REQUESTS, f"{reason}; the run is not affected: try again later\n")

    def _send_health(self) -> None:
        state, text = self._health()
        self._send_text(HTTPStatus.OK if state == "running" else HTTPStatus.SERVICE_UNAVAILABLE, f"{text}\n")

    def _health(self) -> tuple[str, str]:
        """Return the state of the run, the best one of its cameras because each fails alone, and a text."""
        states = {name: view.status.state for name, view in self.server.views.items()}
        state = min(states.values(), key=BEST_STATES.index)
        return state, state if len(states) == 1 else ", ".join(f"{n}: {s}" for n, s in states.items())

    def _send_metrics(self) -> None:
        try:
            from edge.sinks.web.prometheus import CONTENT_TYPE, format_metrics
        except ModuleNotFoundError:
            self._send_text(
                HTTPStatus.NOT_IMPLEMENTED,
                "metrics need prometheus_client, which is not installed: pip install 'aerogaze[metrics]'\n",
            )
            return
        snapshots = {name: view.status.snapshot() for name, view in self.server.views.items()}
        self._send(HTTPStatus.OK, CONTENT_TYPE, format_metrics(snapshots))

    def _send_picture(self) -> None:
        picture = self._view.picture(0, wait_s=1.0)
        if picture is None:
            self._send_text(HTTPStatus.SERVICE_UNAVAILABLE, "no picture yet\n")
        else:
            self._send(HTTPStatus.OK, "image/jpeg", picture[1])

    def _send_stream(self) -> None:
        """Send the newest picture repeatedly until the client disconnects; a slow client skips pictures."""
        if not self.server.stream_slots.acquire(blocking=False):
            self._send_busy("too many streams")
            return
        try:
            self._start_response(HTTPStatus.OK, f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            if self.command == "HEAD":
                return
            self.server.exempt_from_timeout(self.connection)
            self.wfile.write(f"--{BOUNDARY}\r\n".encode())
            number = 0
            while not self.server.closing.is_set():
                picture = self._view.picture(number, wait_s=1.0)
                if picture is None:
                    if self._is_disconnected():
                        return
                    continue
                number, jpeg = picture
                started_s = time.monotonic()
                self._write_part(jpeg)
                remaining_s = MIN_PICTURE_INTERVAL_S - (time.monotonic() - started_s)
                self.server.closing.wait(max(0.0, remaining_s))
        finally:
            self.server.stream_slots.release()

    def _write_part(self, jpeg: bytes) -> None:
        head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        try:
            # The next boundary is sent at once: browsers show a picture when they have seen its end.
            self.wfile.write(head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode())
        except TimeoutError:
            self.server.report_client_fault(
                f"a client received no picture for {IDLE_TIMEOUT_S:g} s and was disconnected"
            )
            raise

    def _is_disconnected(self) -> bool:
        """Return whether the client has closed the connection; checked while no picture is available."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1024)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(IDLE_TIMEOUT_S)

    def _request_token(self, path: str, is_wrong: bool) -> None:
        if path == "/":
            note = "This token is not valid." if is_wrong else ""
            page = _read_asset("token.html").replace(b"{{note}}", note.encode())
            self._send(HTTPStatus.UNAUTHORIZED, HTML, page)
        else:
            self._send_text(
                HTTPStatus.UNAUTHORIZED,
                "this path needs the token: as ?token=, as the page's cookie, or as a Bearer token\n",
            )

    def _redirect_without_token(self, token: str | None) -> None:
        """Redirect to the plain URL, which is safe to share; keep a valid token as a cookie."""
        cookie = f"{cookie_name(self.server.port)}={token}; HttpOnly; SameSite=Lax; Path=/; Max-Age=604800"
        cookie_header = {} if token is None else {"Set-Cookie": cookie}
        self._start_response(
            HTTPStatus.SEE_OTHER, PLAIN_TEXT, Location="/", **cookie_header, **{"Content-Length": "0"}
        )

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, PLAIN_TEXT, text.encode())

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self._start_response(status, content_type, **{"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start_response(self, status: HTTPStatus, content_type: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **SECURITY_HEADERS, **headers}.items():
            self.send_header(name, value)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Bearer realm="aerogaze"')
        with contextlib.suppress(BrokenPipeError):
            self.end_headers()


def _read_asset(name: str) -> bytes:
    return (resources.files("edge.sinks.web") / name).read_bytes()
