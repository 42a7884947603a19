"""Who may come in."""

from __future__ import annotations

import pytest

from edge.core.errors import InputError
from edge.sinks.web.auth import AccessPolicy, cookie_name, parse_access_policy

TOKEN = "quite-a-long_token"  # noqa: S105


@pytest.mark.parametrize(
    ("address", "host", "port", "local"),
    [
        (":8080", "127.0.0.1", 8080, True),
        ("localhost:0", "localhost", 0, True),
        ("127.0.0.3:1", "127.0.0.3", 1, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),  # noqa: S104
        ("drone.local:8080", "drone.local", 8080, False),
        ("[fe80::1]:8080", "fe80::1", 8080, False),
    ],
)
def test_addresses(address: str, host: str, port: int, local: bool) -> None:
    door = parse_access_policy(address, None)
    assert (door.host, door.port, door.local) == (host, port, local)
    assert (door.token is None) == local
    assert door.made != local


@pytest.mark.parametrize("address", ["8080", "", "host", ":http", ":70000", "host:-1", "host:"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected :PORT or HOST:PORT"):
        parse_access_policy(address, None)


@pytest.mark.parametrize(
    "token", ["short", "", "with spaces in it", 'quo"te-and-more-of-it', "näive-but-long-enough"]
)
def test_tokens_that_are_easy_or_break_cookies_are_refused(token: str) -> None:
    with pytest.raises(InputError, match="expected at least 12 letters"):
        parse_access_policy(":8080", token)


def test_each_made_token_is_another_and_told_once() -> None:
    one, two = (parse_access_policy("0.0.0.0:80", None) for _ in range(2))
    assert one.token != two.token
    assert len(one.token or "") >= 22  # 128 bits
    assert f"/?token={one.token}" in one.url(80)
    assert TOKEN not in parse_access_policy("0.0.0.0:80", TOKEN).url(80)
    assert parse_access_policy(":80", None).url(8081) == "http://127.0.0.1:8081/"
    assert parse_access_policy("[::1]:80", None).url(80) == "http://[::1]:80/"


@pytest.mark.parametrize(
    ("token", "cookies", "bearer", "opens"),
    [
        (None, None, None, False),
        (TOKEN, None, None, True),
        (None, f"a=b; {cookie_name(80)}={TOKEN}", None, True),
        (None, f'prefs={{"a": 1}}; {cookie_name(80)}={TOKEN}; b', None, True),  # others' may be of any form
        (None, f"{cookie_name(81)}={TOKEN}", None, False),  # another run's, beside us
        (None, None, f"Bearer {TOKEN}", True),
        (None, None, f"bearer  {TOKEN} ", True),
        (None, None, f"Basic {TOKEN}", False),
        (TOKEN[:-1], "not; a, cookie=\x00", "Bearer", False),
        (TOKEN + "x", f"{cookie_name(80)}=", "Bearer ä", False),
    ],
)
def test_the_token_opens_and_nothing_else(
    token: str | None, cookies: str | None, bearer: str | None, opens: bool
) -> None:
    assert parse_access_policy("0.0.0.0:80", TOKEN).opens(token, cookies, bearer, 80) is opens
    assert AccessPolicy("127.0.0.1", 80, None).opens(token, cookies, bearer, 80)


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("localhost:8080", True),
        ("127.0.0.1:8080", True),
        ("LOCALHOST", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        (None, True),
        ("evil.example:8080", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_a_name_that_was_made_to_point_here_is_not_ours(header: str | None, known: bool) -> None:
    assert parse_access_policy(":8080", None).knows(header) is known
    assert parse_access_policy("0.0.0.0:8080", None).knows(header)  # there the token decides
