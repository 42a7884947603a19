"""What is at which path."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.sinks.web.auth import AccessPolicy, cookie_name
from edge.sinks.web.live_view import LiveView

STREAM_S = 1 / 25
"""Least time between pictures of a stream."""
BOUNDARY = "aerogaze-picture"
IDLE_S = 5.0
"""How long a client may take none of what it is sent, or say nothing."""
HTML = "text/html; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LivePageServerBase(ThreadingHTTPServer):
    """What a request handler needs of its server."""

    door: AccessPolicy
    view: LiveView
    port: int
    streams: threading.BoundedSemaphore
    closing: threading.Event

    def tell(self, what: str) -> None:
        """Count a client's mistake among the faults."""
        raise NotImplementedError

    def streaming(self, client: Any) -> None:
        """Exempt a client from the time limit of a request."""
        raise NotImplementedError


class RequestHandler(BaseHTTPRequestHandler):
    """Answers one request; nothing can be changed through it."""

    server: LivePageServerBase
    server_version, sys_version = "aerogaze", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        """Answer."""
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._say(HTTPStatus.BAD_REQUEST, "no such address\n")
            return
        door, headers = self.server.door, self.headers
        if not door.knows(headers.get("Host")):
            self._say(HTTPStatus.FORBIDDEN, "this page is served to this machine only, as localhost\n")
            return
        if url.path == "/healthz":
            self._healthz()
            return
        token = parse_qs(url.query).get("token", [None])[-1]
        if not door.opens(token, headers.get("Cookie"), headers.get("Authorization"), self.server.port):
            self._ask(url.path, wrong=token is not None)
            return
        if url.path == "/" and token is not None and door.token is not None:
            self._keep(door.token if door.opens(token, None, None, self.server.port) else None)
            return
        page = {
            "/": self._page,
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/stream.mjpg": self._stream,
            "/frame.jpg": self._frame,
        }.get(url.path)
        if page is None:
            self._say(
                HTTPStatus.NOT_FOUND,
                "there is /, /stream.mjpg, /frame.jpg, /status.json, /metrics, /healthz\n",
            )
        else:
            page()

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def version_string(self) -> str:
        """Name no versions."""
        return "aerogaze"

    def _page(self) -> None:
        self._send(HTTPStatus.OK, HTML, _asset("page.html"))

    def _status(self) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(self.server.view.document()).encode())

    def _healthz(self) -> None:
        seen = self.server.view.status.snapshot()
        healthy = seen.state == "running"
        self._say(HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE, f"{seen.state}\n")

    def _metrics(self) -> None:
        try:
            from edge.sinks.web.prometheus import CONTENT_TYPE, format_metrics
        except ModuleNotFoundError:
            self._say(
                HTTPStatus.NOT_IMPLEMENTED,
                "metrics need prometheus_client, which is not installed: pip install 'aerogaze[metrics]'\n",
            )
            return
        self._send(HTTPStatus.OK, CONTENT_TYPE, format_metrics(self.server.view.status.snapshot()))

    def _frame(self) -> None:
        shown = self.server.view.picture(0, wait_s=1.0)
        if shown is None:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "no picture yet\n")
        else:
            self._send(HTTPStatus.OK, "image/jpeg", shown[1])

    def _stream(self) -> None:
        """Send pictures until the client goes: always the newest, so that a slow one misses some."""
        if not self.server.streams.acquire(blocking=False):
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "too many watch\n")
            return
        try:
            self._start(HTTPStatus.OK, f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            if self.command == "HEAD":
                return
            self.server.streaming(self.connection)
            self.wfile.write(f"--{BOUNDARY}\r\n".encode())
            number = 0
            while not self.server.closing.is_set():
                shown = self.server.view.picture(number, wait_s=1.0)
                if shown is None:
                    if self._gone():
                        return
                    continue
                number, jpeg = shown
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                started = time.monotonic()
                # The next boundary at once: browsers show a picture when they have seen its end.
                try:
                    self.wfile.write(head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode())
                except TimeoutError:
                    self.server.tell(f"a client took no picture for {IDLE_S:g} s, and was let go")
                    raise
                self.server.closing.wait(max(0.0, STREAM_S - (time.monotonic() - started)))
        finally:
            self.server.streams.release()

    def _gone(self) -> bool:
        """Say whether the client has hung up, while there is nothing to send it."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1024)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(IDLE_S)

    def _ask(self, path: str, wrong: bool) -> None:
        if path == "/":
            note = "That was not it." if wrong else ""
            page = _asset("token.html").replace(b"{{note}}", note.encode())
            self._send(HTTPStatus.UNAUTHORIZED, HTML, page)
        else:
            self._say(HTTPStatus.UNAUTHORIZED, "this needs the page's token: ?token=, cookie, or Bearer\n")

    def _keep(self, token: str | None) -> None:
        """Keep the token as a cookie, and take what was given out of the address, which people share."""
        cookie = f"{cookie_name(self.server.port)}={token}; HttpOnly; SameSite=Lax; Path=/; Max-Age=604800"
        kept = {} if token is None else {"Set-Cookie": cookie}
        self._start(HTTPStatus.SEE_OTHER, PLAIN, Location="/", **kept, **{"Content-Length": "0"})

    def _say(self, status: HTTPStatus, words: str) -> None:
        self._send(status, PLAIN, words.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self._start(status, kind, **{"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: HTTPStatus, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **SAFE, **headers}.items():
            self.send_header(name, value)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Bearer realm="aerogaze"')
        with contextlib.suppress(BrokenPipeError):
            self.end_headers()


def _asset(name: str) -> bytes:
    return (resources.files("edge.sinks.web") / name).read_bytes()
