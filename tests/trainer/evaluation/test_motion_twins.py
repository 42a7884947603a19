"""Whether motion counts is told by scenes where nothing else can tell."""

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
from trainer.evaluation import motion_twins as twins
from trainer.evaluation.motion_twins import FRAMES, TwinScores, twin_clips, twin_scores
from trainer.inference.predictors import Map

CLIPS = 4


class ByMotion:
    """Knows where the movers of the first clips are; sees motion if the last frames differ.

    Up to frame `blind` it takes the first of those that stand for the mover.
    """

    description = "the truth, for whoever looks twice"

    def __init__(self, blind: int = 0) -> None:
        self._clips = [clip for clip, _ in islice(twin_clips(), CLIPS)]
        self._blind = blind

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        del clip, every
        before: np.ndarray | None = None
        for frame in frames:
            saliency = np.full((36, 64), 0.1, np.float32)
            if before is not None and (frame.image != before).any():
                known = [c for c in self._clips if (c.frames[frame.index] == frame.image).all()]
                for clip_ in known:
                    chosen = clip_.mover if frame.index >= self._blind else clip_.standing[0]
                    x, y, w, h = (np.array(clip_.targets[frame.index][chosen.ident].box) / 4).astype(int)
                    cv2.rectangle(saliency, (int(x), int(y)), (int(x + w), int(y + h)), 1.0, -1)
            before = frame.image
            yield frame, saliency


def test_who_sees_motion_ranks_the_mover_first_until_the_frame_is_held() -> None:
    found = twin_scores(ByMotion(), CLIPS)
    assert (found.clips, found.moving, found.frozen) == (CLIPS, 1.0, 0.0)
    assert (found.moving_once, found.frozen_once) == (1.0, 0.0)
    assert 1 / 4 <= found.chance <= 1 / 2
    assert 0.5 < found.off < 1
    assert found.off == pytest.approx(found.off_frozen)


def test_a_clip_counts_by_its_last_second_and_by_its_last_map() -> None:
    late = twin_scores(ByMotion(blind=FRAMES - 1), CLIPS)
    assert (late.moving, late.moving_once) == (0.0, 1.0)
    early = twin_scores(ByMotion(blind=FRAMES - 8), CLIPS)
    assert (early.moving, early.moving_once) == (1.0, 1.0)


def test_twins_look_the_same_and_one_moves() -> None:
    for seed in range(12):
        world = World(seed, 256, 144, twins=True)
        actors = world._scene.actors
        assert 2 <= len(actors) <= 4
        assert len({actor.look for actor in actors}) == 1
        assert sum(actor.moving for actor in actors) == 1
        assert [target.moving for target in world.targets(3)].count(True) <= 1


def test_held_clips_are_those_that_nobody_trains_on() -> None:
    clip, _ = next(twin_clips())
    assert len(clip.frames) == FRAMES
    assert clip.mover.moving
    assert not any(target.moving for target in clip.standing)
    assert int(clip.name) >= twins.FIRST_SEED


def test_the_command_says_it(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.cli.evaluate.CLIPS", 2)
    monkeypatch.setattr(
        "trainer.cli.evaluate.twin_scores", lambda predictor, on_clip: twin_scores(predictor, 2, on_clip)
    )
    outcome = command("evaluate", "skd-64", "--dataset", "twins", "--json", tmp_path / "t.json")
    assert outcome.code == 0, outcome.err
    assert "2 held-out made clips of identical twins" in outcome.out
    document = json.loads((tmp_path / "t.json").read_text())
    assert set(TwinScores.__dataclass_fields__) <= set(document)
    outcome = command("evaluate", "skd-64", "--dataset", "boxes")
    assert outcome.code == 2
    assert "--dataset boxes needs --root" in outcome.err


@pytest.mark.parametrize("extra", [["--root", "x"], ["--max-frames", "3"], ["--picture", "x.png"]])
def test_what_twins_do_not_take_is_refused(command: Callable[..., Outcome], extra: list[str]) -> None:
    outcome = command("evaluate", "skd-64", "--dataset", "twins", *extra)
    assert outcome.code == 2
    assert "--dataset twins takes no" in outcome.err
