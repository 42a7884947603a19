"""HTTP requests with a time limit for the whole answer, not only for each read.

The library's own timeout starts again at each byte, so that a server which sends one byte per second would
hold a request for ever.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from socket import socket
from typing import Any

from edge.core.errors import InputError
from edge.core.foreign_text import printable

READ_TIMEOUT_S = 30.0
"""Longest wait for a connection, and for the next bytes."""
ANSWER_TIMEOUT_S = 60.0
"""Longest time until an answer's headers are complete, or a small answer as a whole."""
MAX_REDIRECTS = 5
MAX_SHOWN_CHARS = 200
"""Longest part of a link or reason that an error shows."""


class ServerError(InputError):
    """The server cannot be reached, rejects the request, or its answer is invalid; can be tried again.

    Attributes:
        status: Code of HTTP if the server rejected the request, else None.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Deadline:
    """Time at which an answer must be complete.

    Args:
        seconds: Seconds from now.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """Set a new deadline, in seconds from now."""
        self._end = self._clock() + seconds

    def remaining_s(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: The deadline is over.
        """
        remaining = self._end - self._clock()
        if remaining <= 0:
            raise TimeoutError("the server is too slow")
        return remaining


class _DeadlineReader(io.RawIOBase):
    """Data of a socket, until a deadline."""

    def __init__(self, connection: socket, deadline: Deadline) -> None:
        self._socket, self._deadline = connection, deadline
        self._raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(min(READ_TIMEOUT_S, self._deadline.remaining_s()))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """Response whose headers and content are read until a deadline."""

    def __init__(self, connection: socket, *args: Any, deadline: Deadline, **settings: Any) -> None:
        super().__init__(connection, *args, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(connection, deadline))


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opener of http and https with a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._response = partial(_DeadlineResponse, deadline=deadline)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect(http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect(http.client.HTTPSConnection), request)

    def _connect(self, kind: type[http.client.HTTPConnection]) -> Any:
        def connect(host: str, **settings: Any) -> http.client.HTTPConnection:
            connection = kind(host, **settings)
            connection.response_class = self._response  # type: ignore[assignment]
            return connection

        return connect


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirections to `open_url`: the library reads their content without a limit."""

    def http_error_302(self, *args: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]


def split_link(url: str, base_scheme: str) -> urllib.parse.SplitResult:
    """Return the parts of a link that the server sent.

    Raises:
        ServerError: It is no link with https, or with the scheme of the server's own address.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise ServerError(f"{show_link(url)} is not a link ({error})") from None
    if parts.scheme not in ("https", base_scheme):
        raise ServerError(
            f"{show_link(url)} is not requested: expected a link with {base_scheme}, like the server's"
        )
    return parts


def show_link(url: str) -> str:
    """Return a link as errors show it: printable, short, and without passwords and tokens."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return printable(url.rpartition("@")[2].partition("?")[0], MAX_SHOWN_CHARS)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return printable(urllib.parse.urlunsplit(shown), MAX_SHOWN_CHARS)


@contextmanager
def open_url(
    url: str,
    method: str,
    data: bytes | None,
    make_headers: Callable[[urllib.parse.SplitResult], Mapping[str, str]],
    deadline: Deadline,
) -> Iterator[http.client.HTTPResponse]:
    """Request a link, follow redirections, and yield the response.

    Args:
        url: The link.
        method: Method of HTTP.
        data: Content to send.
        make_headers: Checks a link, and returns the headers for it. It is called for each redirection.
        deadline: Until when the headers, and what is read of the content, must have arrived.

    Raises:
        ServerError: There is no answer in time, or the server rejects the request.
    """
    opener = urllib.request.build_opener(_Handler(deadline), _NoRedirects())
    for _ in range(MAX_REDIRECTS + 1):
        headers = make_headers(urllib.parse.urlsplit(url))
        try:
            request = urllib.request.Request(url, data, dict(headers), method=method)  # noqa: S310
            response = opener.open(request, timeout=READ_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            location = error.headers.get("Location")
            if error.code in (301, 302, 303, 307, 308) and location and method == "GET":
                url = _join(url, location)
                continue
            raise _unusable(url, f"HTTP {error.code} {error.reason}", error.code) from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: invalid host name
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _unusable(url, str(reason)) from None
        with response:
            yield response
        return
    raise _unusable(url, f"more than {MAX_REDIRECTS} redirections")


def _join(url: str, location: str) -> str:
    try:
        return urllib.parse.urljoin(url, location)
    except ValueError as error:
        raise _unusable(url, f"redirected to no link ({error})") from None


def _unusable(url: str, reason: str, status: int | None = None) -> ServerError:
    return ServerError(
        f"{show_link(url)} cannot be requested ({printable(reason, MAX_SHOWN_CHARS)}): check --server, "
        "--id and --token-file, and that the server runs",
        status,
    )
