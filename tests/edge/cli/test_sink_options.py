from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.release.manifest import load_release
from tests.conftest import Outcome

needs_pymavlink = pytest.mark.skipif(
    find_spec("pymavlink") is None, reason="pymavlink is not installed: pip install 'aerogaze[mavlink]'"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gimbal", "--fov", "60"], "--gimbal needs a link"),
        (["--gimbal", "--mavlink", "udpout:127.0.0.1:9"], "--gimbal needs the camera's field of view"),
        (["--mavlink-key", "key"], "--mavlink-key has no effect without --mavlink"),
        (["--mavlink", "udpout:127.0.0.1:9", "--mavlink-key", "missing"], "cannot read missing"),
        (["--on-gimbal"], "--on-gimbal has no effect without --gimbal or --locate"),
        (["--locate", "--fov", "60"], "--locate needs the pose of the vehicle"),
        (["--locate", "--mavlink", "udpout:127.0.0.1:9"], "--locate needs the camera's field of view"),
        (["--locate", "--mavlink", "udpout:127.0.0.1:9", "--fov", "60"], "--locate needs a live run"),
        (["--geojson", "places.json"], "--geojson has no effect without --locate"),
        (["--ground", "120"], "--ground has no effect without --locate"),
        (["--camera-delay", "0.2"], "--camera-delay has no effect without --locate"),
        (["--rtp", "5600"], "invalid --rtp '5600': expected udp://HOST:PORT"),
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


@needs_pymavlink
def test_one_link_given_twice_is_refused(command: Callable[..., Outcome], video: Path) -> None:
    outcome = command("run", video, "--mavlink", "udpout:127.0.0.1:9", "--mavlink", "udpout:127.0.0.1:9")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "twice: leave one out" in outcome.err


def test_key_that_others_can_read_is_refused(command: Callable[..., Outcome], video: Path) -> None:
    key = video.with_name("mavlink.key")
    key.write_text("0" * 64)
    key.chmod(0o644)
    outcome = command("run", video, "--mavlink", "udpout:127.0.0.1:9", "--mavlink-key", key)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "has the rights 0644" in outcome.err


@needs_pymavlink
def test_one_link_in_a_config_file_is_text_and_several_are_a_list(
    command: Callable[..., Outcome], video: Path
) -> None:
    config = video.with_name("run.toml")
    for links in ('"udpout:127.0.0.1:9"', '["udpout:127.0.0.1:9", "udpout:127.0.0.1:99"]'):
        config.write_text(f"mavlink = {links}\n")
        outcome = command("run", video, "--config", config, "--max-frames", 2)
        assert outcome.code == 0, outcome.err


@needs_pymavlink
def test_gimbal_needs_calibrated_scores_or_a_threshold(
    command: Callable[..., Outcome], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = load_release("skd-64-motion")
    monkeypatch.setattr("edge.inference.saliency_model.load_release", lambda _: replace(release, score=None))
    options = ["--gimbal", "--fov", 60, "--mavlink", "udpout:127.0.0.1:9", "--max-frames", 2]
    outcome = command("run", video, *options)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "--gimbal needs calibrated scores" in outcome.err
    assert command("run", video, *options, "--min-score", 0.1).code == 0
