from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gimbal", "--fov", "60"], "--gimbal needs a link"),
        (["--gimbal", "--mavlink", "udpout:127.0.0.1:9"], "--gimbal needs the camera's field of view"),
        (["--on-gimbal"], "--on-gimbal has no effect without --gimbal: give both options"),
        (["--mount", "-30"], "give --fov"),
        (["--fov", "60", "--mount", "north"], "expected PITCH"),
        (["--fov", "180"], "180"),
    ],
)
def test_invalid_combination_of_options_is_one_clear_line(
    command: Callable[..., Outcome], video: Path, arguments: list[str], message: str
) -> None:
    outcome = command("run", video, *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err
