"""Ground station of the MAVLink tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ground_station import GroundStation


@pytest.fixture
def ground() -> Iterator[GroundStation]:
    station = GroundStation()
    yield station
    station.socket.close()
