"""Who may come in: the address the page is served at, and the token it asks for."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from edge.core.errors import InputError

LEAST_TOKEN = 12
"""Characters of a token that somebody chose; ours have 128 bits."""
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{LEAST_TOKEN},}}")


@dataclass(frozen=True)
class AccessPolicy:
    """An address, and the token without which nobody from elsewhere comes in.

    `token` is None where only this machine can come, and none was given. `made`: it is ours, so that
    somebody must be told.
    """

    host: str
    port: int
    token: str | None
    made: bool = False

    @property
    def local(self) -> bool:
        """Whether only this machine can come."""
        return _is_loopback(self.host)

    @property
    def family(self) -> socket.AddressFamily:
        """IPv6 or IPv4."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def url(self, port: int) -> str:
        """Return what to type into a browser, with the token if we made it."""
        host = _address() if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        told = f"/?token={self.token}" if self.made else "/"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{told}"

    def opens(self, token: str | None, cookies: str | None, bearer: str | None, port: int) -> bool:
        """Say whether a request may come in: by its query's token, its cookies, or its Authorization."""
        if self.token is None:
            return True
        shown = [token, _cookie(cookies, cookie_name(port))]
        scheme, _, value = (bearer or "").partition(" ")
        if scheme.lower() == "bearer":
            shown.append(value.strip())
        mine = self.token.encode()
        return any(hmac.compare_digest(mine, (one or "").encode()) for one in shown)

    def knows(self, host_header: str | None) -> bool:
        """Say whether a request is meant for us.

        Without a token, a page elsewhere could have its own name point here (DNS rebinding) and read on:
        so the name must be this machine's.
        """
        if self.token is not None or host_header is None:
            return True
        name = host_header.rpartition(":")[0] if not host_header.endswith("]") else host_header
        return _is_loopback((name or host_header).strip("[]"))


def parse_access_policy(address: str, token: str | None) -> AccessPolicy:
    """Return the door of `:PORT`, for this machine only, or of `HOST:PORT`.

    Raises:
        InputError: no such address, or a token that is easily guessed.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"cannot serve at {address!r}: expected :PORT or HOST:PORT, as in :8080")
    host = host or "127.0.0.1"
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError(
            f"the page's token is too short or odd: expected at least {LEAST_TOKEN} letters, digits, - or _; "
            "leave it out and one is made"
        )
    if token is None and not _is_loopback(host):
        return AccessPolicy(host, int(port), secrets.token_urlsafe(16), made=True)
    return AccessPolicy(host, int(port), token)


def cookie_name(port: int) -> str:
    """Return the cookie's name: browsers do not tell ports apart."""
    return f"aerogaze-{port}"


def _cookie(header: str | None, name: str) -> str | None:
    """Return a cookie's value. By hand: others of this host may be of any form, and ours is plain."""
    pairs = (part.strip().partition("=") for part in (header or "").split(";"))
    return next((value for key, _, value in pairs if key == name), None)


def _address() -> str:
    """Return this machine's address on the interface that leads out, else its name; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
