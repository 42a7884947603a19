"""Tests of requests to slow, endless and hostile servers: each ends in time, with one printable line."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.core.errors import InputError
from jetson.hawkbit.ddi_client import DdiClient, Deployment
from jetson.hawkbit.http_requests import Deadline, ServerError, show_link

Answer = Callable[[http.server.BaseHTTPRequestHandler, threading.Event], None]
BUNDLE = os.urandom(300_000)


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """Run a server that answers each GET request with a function, until the block ends."""
    is_over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self, is_over)
            except OSError:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that `server_close` waits until each of them has closed its socket
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def drip(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event, data: bytes = b" ") -> None:
    """Send bytes one after the other without end, each long before the next read would time out."""
    while not is_over.wait(0.02):
        handler.wfile.write(data)


def drip_headers(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip(handler, is_over, b"y")


def drip_status(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
    while not is_over.wait(0.02):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def drip_content(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
    handler.send_response(200)
    handler.end_headers()
    drip(handler, is_over)


def drip_chunks(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    drip(handler, is_over, b"1\r\n \r\n")


def drip_redirect(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/again")
    handler.end_headers()
    drip(handler, is_over)


def drip_error(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
    handler.send_response(500)
    handler.end_headers()
    drip(handler, is_over)


DRIPS = [drip_headers, drip_status, drip_content, drip_chunks, drip_redirect, drip_error]


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetson.hawkbit.ddi_client.ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr("jetson.hawkbit.ddi_client.WINDOW_S", 0.3)


@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize("answer", DRIPS)
def test_answer_of_a_byte_at_a_time_ends_at_the_deadline(answer: Answer, tmp_path: Path) -> None:
    with serve(answer) as base:
        client = DdiClient(f"{base}/DEFAULT", "d")
        with pytest.raises(ServerError):
            client.poll()
        with pytest.raises(ServerError):
            client.download(Deployment("1", "", "b.swu", f"{base}/b", len(BUNDLE)), tmp_path / "b.swu")


@pytest.mark.usefixtures("short_deadlines")
def test_slow_download_keeps_its_part_and_is_resumed(tmp_path: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.end_headers()
        handler.wfile.write(BUNDLE[start : len(BUNDLE) if start else 200_000])
        if not start:
            for byte in BUNDLE[200_000:]:  # then a byte at a time
                if is_over.wait(0.02):
                    return
                handler.wfile.write(bytes([byte]))

    with serve(answer) as base:
        deployment = Deployment("1", "", "b.swu", f"{base}/b", len(BUNDLE))
        client, path = DdiClient(f"{base}/DEFAULT", "d"), tmp_path / "b.swu"
        with pytest.raises(ServerError, match="broke off"):
            client.download(deployment, path)
        assert path.stat().st_size >= 200_000
        assert client.download(deployment, path), "a part of an earlier attempt was used"
    assert path.read_bytes() == BUNDLE


@pytest.mark.parametrize("refusal", ["416", "another part"])
def test_part_that_the_server_does_not_continue_is_fetched_from_the_beginning(
    tmp_path: Path, refusal: str
) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
        if handler.headers["Range"]:
            handler.send_response(416 if refusal == "416" else 206)
            handler.send_header("Content-Range", f"bytes 7-9/{len(BUNDLE)}")
            handler.end_headers()
            return
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BUNDLE)

    with serve(answer) as base:
        path = tmp_path / "b.swu"
        path.write_bytes(b"old part")
        deployment = Deployment("1", "", "b.swu", f"{base}/b", len(BUNDLE))
        assert not DdiClient(f"{base}/DEFAULT", "d").download(deployment, path)
    assert path.read_bytes() == BUNDLE


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://h", "http://[", "//\udcff/", "/x",
     "http://us:secret@127.0.0.1:1/x?token=secret", "/\x1b]0;title\x07"],
)  # fmt: skip
def test_redirection_is_followed_to_links_of_the_same_kind_only(location: str) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: ")
        handler.wfile.write(location.encode("utf-8", "surrogateescape") + b"\r\nContent-Length: 0\r\n\r\n")

    with serve(answer) as base, pytest.raises(ServerError) as error:
        DdiClient(f"{base}/DEFAULT", "d").poll()
    assert str(error.value).isprintable()
    assert "secret" not in str(error.value)


def test_token_is_not_sent_after_a_redirection_to_another_server() -> None:
    tokens: list[str | None] = []

    def other(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
        tokens.append(handler.headers["Authorization"])
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b'{"config": {"polling": {"sleep": "00:00:10"}}}')

    with serve(other) as base:

        def redirect(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
            tokens.append(handler.headers["Authorization"])
            handler.send_response(307)
            handler.send_header("Location", f"{base}/there")
            handler.end_headers()

        with serve(redirect) as own:
            assert DdiClient(f"{own}/DEFAULT", "d", "key").poll().sleep_s == 10
    assert tokens == ["TargetToken key", None]


def test_reason_of_the_server_is_shown_printable_and_short() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, is_over: threading.Event) -> None:
        handler.wfile.write(b"HTTP/1.1 503 \x1b]0;title\x07\x1b[2J" + b"x" * 5000 + b"\r\n\r\n")

    with serve(answer) as base, pytest.raises(ServerError, match="HTTP 503") as error:
        DdiClient(f"{base}/DEFAULT", "d").poll()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500
    assert error.value.status == 503


@pytest.mark.parametrize(
    "link",
    [
        "http://us:secret@host/x", "http://us:sec@ret@host/x?a=secret", "https://host/x?token=secret#secret",
        "http://[us:secret@", "http://us:secret@[::1", "http://host/\x1b[2J" + "x" * 9000, "http://host/\n\r\t",
        "http://host/\u202egpj", "http://\udcff/",
    ],
)  # fmt: skip
def test_link_is_shown_without_secrets_printable_and_short(link: str) -> None:
    shown = show_link(link)
    assert "secret" not in shown
    assert "ret@" not in shown
    assert shown.isprintable()
    assert len(shown) <= 200


@pytest.mark.parametrize(
    "address",
    ["https://us:secret@updates.example.com/D", "https://updates.example.com/D?token=secret", "http://[::1",
     "https://us:sec@ret@updates.example.com/D", "https://updates.example.com/D#secret"],
)  # fmt: skip
def test_address_with_a_password_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(InputError, match=r"expected") as error:
        DdiClient(address, "d")
    assert "secret" not in str(error.value)
    assert "ret@" not in str(error.value)


def test_deadline_is_over_after_its_seconds_and_can_be_extended() -> None:
    now = [0.0]
    deadline = Deadline(10, clock=lambda: now[0])
    now[0] = 4.0
    assert deadline.remaining_s() == 6
    now[0] = 10.0
    with pytest.raises(TimeoutError):
        deadline.remaining_s()
    deadline.extend(5)
    assert deadline.remaining_s() == 5
