"""Fit of the score: a candidate with maps focused on targets tells scenes with targets from empty ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from trainer.datasets.clips import LabelledFrame
from trainer.evaluation import quality_clips, score_fitting
from trainer.evaluation.candidate_maps import Candidate
from trainer.evaluation.quality_clips import QualityClip
from trainer.evaluation.score_fitting import fit_scores, write_score

SIZE = 64


def draw_clip(index: int, has_target: bool) -> QualityClip:
    """Return a clip of one frame, whose picture is its map: a spot on the target, or a wide glow."""
    rng = np.random.default_rng(index)
    x, y = (float(value) for value in rng.uniform(16, 48, 2))
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    if has_target:
        cv2.circle(image, (round(x), round(y)), 3, (255, 255, 255), -1)
        image = np.maximum(image, rng.integers(0, 12, image.shape, np.uint8))
    else:
        cv2.circle(image, (32, 32), 24, (255, 255, 255), -1)
    name = f"{index} {has_target}"
    frame = LabelledFrame(0, image, None, None, None)
    boxes = [[(x - 4, y - 4, 8.0, 8.0)]] if has_target else [[]]
    kind = "made" if has_target else "made empty"
    return QualityClip(name, kind, None, 10.0, (0,), lambda: [frame], lambda: boxes, name)  # type: ignore[arg-type]


@pytest.fixture
def candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """Maps that are the pictures of the clips."""
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
    clips = [draw_clip(index, has_target) for index in range(12) for has_target in (True, False)]
    monkeypatch.setattr(score_fitting, "fitting_clips", lambda scenes, featureless: iter(clips))
    for clip in clips:
        folder = tmp_path / "maps" / clip.name
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "000000.png"), clip.load()[0].image[..., 0])
    return Candidate(str(tmp_path / "maps"))


def test_fitted_score_reports_targets_and_no_empty_scene(candidate: Candidate) -> None:
    clips: list[None] = []
    (score,) = fit_scores([candidate], on_clip=lambda: clips.append(None))
    assert len(clips) == 24
    assert score.focus > 0
    assert score.score(0.6, 20) > score.threshold > score.score(0.9, 2)


def test_frame_whose_targets_are_hidden_counts_in_neither_class(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = list(score_fitting.fitting_clips(0, 0))
    hidden = replace(clips[0], boxes=lambda: [[]], unclear=lambda: [True])
    monkeypatch.setattr(score_fitting, "fitting_clips", lambda scenes, featureless: iter(clips[2:]))
    expected = fit_scores([candidate])
    monkeypatch.setattr(
        score_fitting, "fitting_clips", lambda scenes, featureless: iter([hidden, *clips[2:]])
    )
    assert fit_scores([candidate]) == expected


def test_made_clip_tells_frames_whose_targets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions = {1: [0.1], 3: [0.1, 0.9], 5: [], 7: [0.3, 0.2]}

    def targets(index: int) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(visible_fraction=value, box=(0, 0, 1, 1), target_id=0)
            for value in fractions.get(index, [1.0])
        ]

    monkeypatch.setattr(quality_clips, "World", lambda *arguments: SimpleNamespace(targets=targets))
    monkeypatch.setattr(quality_clips, "SCORED", (1, 3, 5, 7))
    (clip,) = quality_clips.made_clips(0, 1, targets=True)
    assert clip.unclear is not None
    assert clip.unclear() == [True, False, False, True]
    assert [len(boxes) for boxes in clip.boxes()] == [0, 1, 0, 0]


def test_score_of_something_else_than_a_release_cannot_be_written(candidate: Candidate) -> None:
    (score,) = fit_scores([candidate])
    with pytest.raises(InputError, match="is not a release"):
        write_score(candidate, score)


def test_maps_that_mark_no_target_cannot_be_calibrated(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = [draw_clip(index, False) for index in range(3)]
    monkeypatch.setattr(score_fitting, "fitting_clips", lambda scenes, featureless: iter(empty))
    with pytest.raises(InputError, match="expected a trained student"):
        fit_scores([candidate])
