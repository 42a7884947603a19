"""Access control of the live page: its address, and the token that requests must carry."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from edge.core.errors import InputError

MIN_TOKEN_LENGTH = 12
"""Characters of a token that the user chooses; generated tokens have 128 bits."""
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{MIN_TOKEN_LENGTH},}}")


@dataclass(frozen=True)
class AccessPolicy:
    """Address of the page and the token that it requires.

    Attributes:
        host: Host name or IP address to listen on.
        port: TCP port; 0 lets the system choose one.
        token: Required token; None if only this machine can connect and no token was given.
        token_is_generated: The token was generated here, so the user has to be shown it.
    """

    host: str
    port: int
    token: str | None
    token_is_generated: bool = False

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    @property
    def family(self) -> socket.AddressFamily:
        """Address family of the host: IPv6 or IPv4."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def url(self, port: int) -> str:
        """Return the URL of the page at a port, with the token if it was generated."""
        host = _outbound_address() if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        query = f"?token={self.token}" if self.token_is_generated else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}"

    def is_authorized(
        self, query_token: str | None, cookies: str | None, authorization: str | None, port: int
    ) -> bool:
        """Return whether a request carries the token.

        Args:
            query_token: Value of `token` in the query.
            cookies: Cookie header.
            authorization: Authorization header; the Bearer scheme is accepted.
            port: Port of the server, which is part of the cookie's name.
        """
        if self.token is None:
            return True
        candidates = [query_token, _read_cookie(cookies, cookie_name(port))]
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            candidates.append(credentials.strip())
        expected = self.token.encode()
        return any(hmac.compare_digest(expected, (candidate or "").encode()) for candidate in candidates)

    def accepts_host(self, host_header: str | None) -> bool:
        """Return whether a request names this machine as its host.

        Without a token, a foreign web page could point its own host name to this machine (DNS rebinding)
        and read the results. So the host must then be a name of this machine.
        """
        if self.token is not None or host_header is None:
            return True
        name = host_header.rpartition(":")[0] if not host_header.endswith("]") else host_header
        return _is_loopback((name or host_header).strip("[]"))


def parse_access_policy(address: str, token: str | None) -> AccessPolicy:
    """Parse an address and choose the token for it.

    Args:
        address: `:PORT`, for this machine only, or `HOST:PORT`.
        token: Token that the user chose. None generates one, unless only this machine can connect.

    Raises:
        InputError: The address is invalid, or the token is easy to guess.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise InputError(f"cannot serve at {address!r}: expected :PORT or HOST:PORT, such as :8080")
    host = host or "127.0.0.1"
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError(
            f"invalid token for the live page: expected at least {MIN_TOKEN_LENGTH} letters, digits, - or _; "
            "leave it out to have one generated"
        )
    if token is None and not _is_loopback(host):
        return AccessPolicy(host, int(port), secrets.token_urlsafe(16), token_is_generated=True)
    return AccessPolicy(host, int(port), token)


def cookie_name(port: int) -> str:
    """Return the name of the token's cookie: it contains the port because browsers ignore ports."""
    return f"aerogaze-{port}"


def _read_cookie(header: str | None, name: str) -> str | None:
    """Return the value of a cookie.

    `http.cookies` rejects the whole header if a cookie of another program on this host is malformed.
    """
    pairs = (part.strip().partition("=") for part in (header or "").split(";"))
    return next((value for key, _, value in pairs if key == name), None)


def _outbound_address() -> str:
    """Return this machine's address on its default route, or its host name; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
