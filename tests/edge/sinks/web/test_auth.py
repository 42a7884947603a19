from __future__ import annotations

import pytest

from edge.core.errors import InputError
from edge.sinks.web.auth import AccessPolicy, cookie_name, parse_access_policy

TOKEN = "quite-a-long_token"  # noqa: S105


@pytest.mark.parametrize(
    ("address", "host", "port", "is_local"),
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
def test_address_gives_host_and_port(address: str, host: str, port: int, is_local: bool) -> None:
    access = parse_access_policy(address, None)
    assert (access.host, access.port, access.is_local) == (host, port, is_local)
    assert (access.token is None) == is_local
    assert access.token_is_generated != is_local


@pytest.mark.parametrize("address", ["8080", "", "host", ":http", ":70000", "host:-1", "host:"])
def test_invalid_address_is_rejected(address: str) -> None:
    with pytest.raises(InputError, match="expected :PORT or HOST:PORT"):
        parse_access_policy(address, None)


@pytest.mark.parametrize(
    "token", ["short", "", "with spaces in it", 'quo"te-and-more-of-it', "näive-but-long-enough"]
)
def test_short_token_or_token_with_special_characters_is_rejected(token: str) -> None:
    with pytest.raises(InputError, match="expected at least 12 letters"):
        parse_access_policy(":8080", token)


def test_generated_tokens_differ_and_only_they_are_part_of_the_url() -> None:
    first, second = (parse_access_policy("0.0.0.0:80", None) for _ in range(2))
    assert first.token != second.token
    assert len(first.token or "") >= 22  # 128 bits
    assert f"/?token={first.token}" in first.url(80)
    assert TOKEN not in parse_access_policy("0.0.0.0:80", TOKEN).url(80)
    assert parse_access_policy(":80", None).url(8081) == "http://127.0.0.1:8081/"
    assert parse_access_policy("[::1]:80", None).url(80) == "http://[::1]:80/"


@pytest.mark.parametrize(
    ("token", "cookies", "authorization", "is_authorized"),
    [
        (None, None, None, False),
        (TOKEN, None, None, True),
        (None, f"a=b; {cookie_name(80)}={TOKEN}", None, True),
        (
            None,
            f'prefs={{"a": 1}}; {cookie_name(80)}={TOKEN}; b',
            None,
            True,
        ),  # foreign cookies may be malformed
        (None, f"{cookie_name(81)}={TOKEN}", None, False),  # the cookie of another run on this machine
        (None, None, f"Bearer {TOKEN}", True),
        (None, None, f"bearer  {TOKEN} ", True),
        (None, None, f"Basic {TOKEN}", False),
        (TOKEN[:-1], "not; a, cookie=\x00", "Bearer", False),
        (TOKEN + "x", f"{cookie_name(80)}=", "Bearer ä", False),
    ],
)
def test_only_the_token_authorizes_a_request(
    token: str | None, cookies: str | None, authorization: str | None, is_authorized: bool
) -> None:
    assert (
        parse_access_policy("0.0.0.0:80", TOKEN).is_authorized(token, cookies, authorization, 80)
        is is_authorized
    )
    assert AccessPolicy("127.0.0.1", 80, None).is_authorized(token, cookies, authorization, 80)


@pytest.mark.parametrize(
    ("header", "is_accepted"),
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
def test_foreign_host_name_is_rejected_without_a_token(header: str | None, is_accepted: bool) -> None:
    assert parse_access_policy(":8080", None).accepts_host(header) is is_accepted
    assert parse_access_policy("0.0.0.0:8080", None).accepts_host(header)  # here the token decides
