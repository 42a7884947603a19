"""Tests of the motion twins: the scores depend on motion alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.simulation.world import World
from tests.conftest import Outcome
from trainer.datasets.clips import LabelledFrame
from trainer.evaluation.motion_twins import FIRST_SEED, FRAMES, TwinScores, twin_clips, twin_scores
from trainer.inference.predictor import Map

CLIPS = 4


class MotionOracle:
    """Predictor that knows the movers of the first clips and marks them if the last two frames differ.

    Before frame `blind_until` it marks the first standing twin instead of the mover.
    """

    description = "the truth, for a predictor that compares frames"

    def __init__(self, blind_until: int = 0) -> None:
        self._clips = [clip for clip, _ in islice(twin_clips(), CLIPS)]
        self._blind_until = blind_until

    def predict(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        del clip, every
        previous: np.ndarray | None = None
        for frame in frames:
            saliency = np.full((36, 64), 0.1, np.float32)
            if previous is not None and (frame.image != previous).any():
                known = [c for c in self._clips if (c.frames[frame.index] == frame.image).all()]
                for twins in known:
                    marked = twins.mover if frame.index >= self._blind_until else twins.standing[0]
                    x, y, w, h = (np.array(twins.targets[frame.index][marked.target_id].box) / 4).astype(int)
                    cv2.rectangle(saliency, (int(x), int(y)), (int(x + w), int(y + h)), 1.0, -1)
            previous = frame.image
            yield frame, saliency


def test_predictor_that_sees_motion_ranks_the_mover_first_unless_frames_are_frozen() -> None:
    scores = twin_scores(MotionOracle(), CLIPS)
    assert (scores.clips, scores.moving, scores.frozen) == (CLIPS, 1.0, 0.0)
    assert (scores.moving_once, scores.frozen_once) == (1.0, 0.0)
    assert 1 / 4 <= scores.chance <= 1 / 2
    assert 0.5 < scores.off < 1
    assert scores.off == pytest.approx(scores.off_frozen)


def test_clip_is_scored_over_its_last_second_and_on_its_last_map() -> None:
    late = twin_scores(MotionOracle(blind_until=FRAMES - 1), CLIPS)
    assert (late.moving, late.moving_once) == (0.0, 1.0)
    early = twin_scores(MotionOracle(blind_until=FRAMES - 8), CLIPS)
    assert (early.moving, early.moving_once) == (1.0, 1.0)


def test_twins_look_the_same_and_exactly_one_moves() -> None:
    for seed in range(12):
        world = World(seed, 256, 144, twins=True)
        actors = world._scene.actors
        assert 2 <= len(actors) <= 4
        assert len({actor.appearance for actor in actors}) == 1
        assert sum(actor.is_moving for actor in actors) == 1
        assert [target.is_moving for target in world.targets(3)].count(True) <= 1


def test_twin_clips_are_scenes_that_training_never_uses() -> None:
    clip, _ = next(twin_clips())
    assert len(clip.frames) == FRAMES
    assert clip.mover.is_moving
    assert not any(target.is_moving for target in clip.standing)
    assert int(clip.name) >= FIRST_SEED


def test_command_prints_and_writes_twin_scores(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.cli.evaluate.CLIPS", 2)
    monkeypatch.setattr(
        "trainer.cli.evaluate.twin_scores", lambda predictor, on_clip: twin_scores(predictor, 2, on_clip)
    )
    outcome = command("evaluate", "skd-64", "--dataset", "twins", "--json", tmp_path / "t.json")
    assert outcome.code == 0, outcome.err
    assert "2 held-out simulated clips of identical twins" in outcome.out
    document = json.loads((tmp_path / "t.json").read_text())
    assert set(TwinScores.__dataclass_fields__) <= set(document)
    assert {"moving", "frozen", "moving_once", "frozen_once", "chance", "off", "off_frozen"} <= set(document)
    outcome = command("evaluate", "skd-64", "--dataset", "boxes")
    assert outcome.code == 2
    assert "--dataset boxes needs --root" in outcome.err


@pytest.mark.parametrize("extra", [["--root", "x"], ["--max-frames", "3"], ["--picture", "x.png"]])
def test_command_rejects_options_that_twins_do_not_take(
    command: Callable[..., Outcome], extra: list[str]
) -> None:
    outcome = command("evaluate", "skd-64", "--dataset", "twins", *extra)
    assert outcome.code == 2
    assert "--dataset twins takes no" in outcome.err
