"""Files of an annotated clip, and the boxes between the annotated frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from trainer.annotation.clip import AnnotatedClip, create_clip, load_clip
from trainer.annotation.interpolation import interpolate_boxes
from trainer.datasets.factory import open_dataset

SOURCE = "synthetic:7:128x72:9"


@pytest.fixture
def clip(tmp_path: Path) -> AnnotatedClip:
    return create_clip(tmp_path / "set" / "clip", SOURCE, open_source(SOURCE), 7, lambda: None)


def test_boxes_between_two_annotated_frames_are_linear() -> None:
    boxes = interpolate_boxes({1: (0, 10, 20, 30), 5: (8, 2, 20, 10)}, 7)
    assert np.isnan(boxes[[0, 6]]).all()
    assert boxes[1:6].tolist() == [[2 * i, 10 - 2 * i, 20, 30 - 5 * i] for i in range(5)]


def test_frames_next_to_one_without_the_target_have_no_box() -> None:
    boxes = interpolate_boxes({0: (0, 0, 4, 4), 2: None, 4: (4, 4, 4, 4), 6: (6, 4, 4, 4)}, 7)
    assert np.isfinite(boxes[:, 0]).tolist() == [True, False, False, False, True, True, True]


def test_nothing_annotated_gives_no_box() -> None:
    assert np.isnan(interpolate_boxes({}, 3)).all()


def test_each_change_is_written_as_the_data_set_reads_it(clip: AnnotatedClip) -> None:
    clip.annotate(0, (10, 20, 30, 10))
    clip.annotate(4, (18, 20, 30, 10))
    clip.annotate(6, None)
    frames = list(open_dataset("boxes", clip.folder.parent).clips[0].frames(0, 7))
    assert [None if frame.box is None else frame.box[0] for frame in frames[:5]] == [10, 12, 14, 16, 18]
    assert all(frame.box is None or np.isnan(frame.box).all() for frame in frames[5:])
    clip.remove(4)
    assert clip.boxes_path.read_text().splitlines() == ["10.00,20.00,30.00,10.00", *["nan,nan,nan,nan"] * 6]
    assert sorted(path.name for path in clip.folder.iterdir()) == ["annotation.json", "boxes.txt", "frames"]


def test_clip_is_read_as_it_was_left(clip: AnnotatedClip) -> None:
    clip.annotate(2, (1.5, 2, 3, 4))
    clip.annotate(3, None)
    loaded = load_clip(clip.folder)
    assert loaded is not None
    assert (loaded.info, loaded.annotated) == (clip.info, {2: (1.5, 2, 3, 4), 3: None})
    assert (loaded.info.frames, loaded.info.width, loaded.info.height, loaded.info.fps) == (7, 128, 72, 10)


def test_box_is_cut_to_the_frame(clip: AnnotatedClip) -> None:
    clip.annotate(0, (-5, 60, 20, 40))
    assert clip.annotated[0] == (0, 60, 15, 12)


@pytest.mark.parametrize("box", [(0, 0, 0.5, 9), (200, 0, 10, 10), (0, 0, float("nan"), 5), (0, 0, -5, 5)])
def test_box_without_a_pixel_in_the_frame_is_refused(
    clip: AnnotatedClip, box: tuple[float, float, float, float]
) -> None:
    with pytest.raises(InputError, match="too small or outside"):
        clip.annotate(0, box)
    assert clip.annotated == {}


def test_frame_outside_the_clip_is_refused(clip: AnnotatedClip) -> None:
    with pytest.raises(InputError, match="no frame 7; expected 0 to 6"):
        clip.annotate(7, None)


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": 2},
        {"annotated": {"9": None}},
        {"annotated": {"1": [1, 2, 3]}},
        {"annotated": []},
        {"frames": "many"},
    ],
)
def test_damaged_annotation_is_one_message(clip: AnnotatedClip, damage: dict[str, object]) -> None:
    path = clip.folder / "annotation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(InputError, match="is damaged"):
        load_clip(clip.folder)


def test_missing_frames_are_named(clip: AnnotatedClip) -> None:
    (clip.folder / "frames" / "000003.jpg").unlink()
    with pytest.raises(InputError, match="holds 6 frames, expected 7"):
        load_clip(clip.folder)


def test_boxes_of_somebody_else_are_never_replaced(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("1,2,3,4\n")
    assert load_clip(tmp_path) is None
    with pytest.raises(InputError, match="did not write"):
        create_clip(tmp_path, SOURCE, open_source(SOURCE), 3, lambda: None)
    assert boxes.read_text() == "1,2,3,4\n"
