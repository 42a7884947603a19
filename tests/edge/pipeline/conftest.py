"""Fixtures of the tests of live runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge.core.run_status import RunInfo, Status
from tests.support.waiting import aerogaze_threads, wait_until


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    yield
    # A hanging thread ends when its test releases it.
    assert wait_until(lambda: not aerogaze_threads()), aerogaze_threads()


@pytest.fixture
def status() -> Status:
    return Status(RunInfo("skd-64", "fp32", "test", "camera"))
