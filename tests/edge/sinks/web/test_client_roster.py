from __future__ import annotations

from itertools import count

import pytest

from edge.sinks.web.client_roster import (
    HEAD_TIMEOUT_S,
    MAX_SERVED,
    MAX_WAITING,
    MAX_WAITING_PER_ADDRESS,
    REQUEST_TIMEOUT_S,
    RESERVED_FOR_LOOPBACK,
    ClientRoster,
    is_loopback,
)
from tests.support.clocks import ManualClock


def test_oldest_waiting_client_leaves_for_a_new_one() -> None:
    roster = ClientRoster()
    assert [roster.enter(number, "127.0.0.1") for number in range(MAX_WAITING)] == [[]] * MAX_WAITING
    assert roster.admit(0)
    assert roster.enter("a", "127.0.0.1") == []  # the served one does not wait
    assert roster.enter("b", "127.0.0.1") == [1]
    assert not roster.admit(1)
    assert len(roster) == MAX_WAITING + 1


def test_one_address_takes_few_places_and_only_its_own() -> None:
    roster = ClientRoster()
    for number in range(MAX_WAITING_PER_ADDRESS):
        assert roster.enter(number, "192.0.2.1") == []
    assert roster.enter("other", "192.0.2.2") == []
    assert [roster.enter(f"x{number}", "192.0.2.1") for number in range(3)] == [[0], [1], [2]]


def test_many_addresses_leave_places_for_this_machine() -> None:
    roster, numbers = ClientRoster(), count()
    places = MAX_WAITING - RESERVED_FOR_LOOPBACK
    for number in range(places):
        assert roster.enter(next(numbers), f"192.0.2.{number}") == []
    assert roster.enter("new", "198.51.100.1") == [0]
    for number in range(RESERVED_FOR_LOOPBACK):
        assert roster.enter(f"own{number}", "::1") == []
    assert roster.enter("own", "127.0.0.1") == [1]  # a client of another machine goes first


def test_served_places_are_kept_for_this_machine() -> None:
    roster = ClientRoster()
    for number in range(MAX_SERVED):
        roster.enter(number, f"192.0.2.{number}")
        assert roster.admit(number) == (number < MAX_SERVED - RESERVED_FOR_LOOPBACK)
    roster.enter("own", "127.0.0.1")
    assert roster.admit("own")


def test_head_and_request_have_deadlines() -> None:
    clock = ManualClock()
    roster = ClientRoster(clock)
    for name in ("waiting", "served", "stream"):
        roster.enter(name, "127.0.0.1")
    for name in ("served", "stream"):
        assert roster.admit(name)
    roster.exempt("stream")
    clock.advance(HEAD_TIMEOUT_S + 0.1)
    assert roster.overdue() == ["waiting"]
    roster.leave("waiting")
    clock.advance(REQUEST_TIMEOUT_S)
    assert roster.overdue() == ["served"]
    assert roster.connections() == ["served", "stream"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("x", False),
    ],
)
def test_address_of_this_machine_is_told(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
