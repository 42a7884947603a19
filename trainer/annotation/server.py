"""HTTP server of the annotation page, for this machine only."""

from __future__ import annotations

import json
import re
import secrets
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.core.errors import InputError
from edge.sinks.web.auth import AccessPolicy
from edge.sinks.web.handlers import HTML, IDLE_TIMEOUT_S, PLAIN_TEXT, SECURITY_HEADERS
from trainer.annotation.clip import AnnotatedClip, parse_box

LOOPBACK = "127.0.0.1"
JSON = "application/json"
MAX_BODY_BYTES = 4096
POLL_INTERVAL_S = 0.1
MAX_KEPT_S = 3600
"""How long the browser keeps a frame, in seconds: frames never change."""


class AnnotationServer(ThreadingHTTPServer):
    """Serves the page of one clip on loopback; every request must carry the token of the URL.

    Args:
        clip: The clip; changes are written by it.
        every: The page stops at each frame with this step, and at the last one.
        port: TCP port; 0 lets the system choose one.

    Attributes:
        url: URL of the page, with the token.

    Raises:
        InputError: The port is in use or must not be used.
    """

    daemon_threads = True

    def __init__(self, clip: AnnotatedClip, every: int, port: int = 0) -> None:
        self.clip, self.every = clip, every
        self._lock = threading.Lock()
        # Not a cookie: browsers send cookies to every port of a host, and other users may listen on them.
        self.access = AccessPolicy(LOOPBACK, port, secrets.token_urlsafe(16), token_is_generated=True)
        try:
            super().__init__((LOOPBACK, port), _RequestHandler)
        except OSError as error:
            raise InputError(
                f"cannot serve at {LOOPBACK}:{port} ({error.strerror}): choose another --port"
            ) from None
        self.port = int(self.server_address[1])
        self.url = self.access.url(self.port)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(POLL_INTERVAL_S,), name="aerogaze-annotate", daemon=True
        )
        self._thread.start()

    def server_bind(self) -> None:
        """Bind the socket, without the base class's look-up of the host name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of single connections: a browser may disconnect at any time."""

    def close(self) -> None:
        """Finish a change that is being written, and stop."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            self.server_close()

    def state(self) -> dict[str, object]:
        """Return what the page shows."""
        info = self.clip.info
        stops = sorted({*range(0, info.frames, self.every), info.frames - 1})
        return {
            **vars(info),
            "name": self.clip.folder.name,
            "path": str(self.clip.boxes_path),
            "stops": stops,
            "annotated": self.clip.annotated,
            "boxes": self.clip.boxes(),
        }

    def change(self, document: Any) -> dict[str, object]:
        """Apply a change that the page sent, and return the new state.

        Args:
            document: `{"frame": N, "box": [x, y, w, h]}`, `{"frame": N, "box": null}` for a target that is
                not visible, or `{"frame": N, "remove": true}`.

        Raises:
            InputError: The change is invalid, or cannot be written.
        """
        frame = document.get("frame") if isinstance(document, dict) else None
        if type(frame) is not int or not ("box" in document or document.get("remove") is True):
            raise InputError("expected a change as {frame, box} or {frame, remove: true}")
        with self._lock:
            if "box" not in document:
                self.clip.remove(frame)
            elif document["box"] is None:
                self.clip.annotate(frame, None)
            else:
                try:
                    box = parse_box(document["box"])
                except ValueError as error:
                    raise InputError(str(error)) from None
                self.clip.annotate(frame, box)
            return self.state()


class _RequestHandler(BaseHTTPRequestHandler):
    """Answers the requests of the page."""

    server: AnnotationServer
    timeout = IDLE_TIMEOUT_S

    def do_GET(self) -> None:
        path = self._authorized_path()
        if path == "/":
            page = (resources.files("trainer.annotation") / "page.html").read_bytes()
            self._send(HTTPStatus.OK, HTML, page)
        elif path == "/state.json":
            self._send_json(HTTPStatus.OK, self.server.state())
        elif path is not None:
            self._send_frame(path)

    def do_POST(self) -> None:
        path = self._authorized_path()
        if path is None:
            return
        if path != "/change":
            self._send_text(HTTPStatus.NOT_FOUND, "not found\n")
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MAX_BODY_BYTES:
            self._send_text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_BODY_BYTES} bytes\n")
            return
        try:
            state = self.server.change(json.loads(self.rfile.read(int(length))))
        except (ValueError, RecursionError):
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": "expected JSON"})
        except InputError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            self._send_json(HTTPStatus.OK, state)

    def log_message(self, *args: object) -> None:
        """Log nothing: the terminal shows the URL and the result only."""

    def version_string(self) -> str:
        return "aerogaze"

    def _authorized_path(self) -> str | None:
        """Return the path of the request, or answer it and return None if it lacks the token."""
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._send_text(HTTPStatus.BAD_REQUEST, "invalid URL\n")
            return None
        token = parse_qs(url.query).get("token", [None])[-1]
        server = self.server
        if server.access.is_authorized(token, None, self.headers.get("Authorization"), server.port):
            return url.path
        self._send_text(HTTPStatus.UNAUTHORIZED, "open the address that aerogaze annotate printed\n")
        return None

    def _send_frame(self, path: str) -> None:
        number = path.removeprefix("/frames/").removesuffix(".jpg")
        if path != f"/frames/{number}.jpg" or not re.fullmatch(r"[0-9]{1,6}", number):
            self._send_text(HTTPStatus.NOT_FOUND, "not found\n")
            return
        try:
            data = (self.server.clip.folder / "frames" / f"{int(number):06d}.jpg").read_bytes()
        except OSError:
            self._send_text(HTTPStatus.NOT_FOUND, "no such frame\n")
            return
        self._send(HTTPStatus.OK, "image/jpeg", data, f"private, max-age={MAX_KEPT_S}, immutable")

    def _send_json(self, status: HTTPStatus, document: object) -> None:
        self._send(status, JSON, json.dumps(document).encode())

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, PLAIN_TEXT, text.encode())

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, cache: str = "no-store") -> None:
        self.send_response(status)
        headers = {
            **SECURITY_HEADERS,
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": cache,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
