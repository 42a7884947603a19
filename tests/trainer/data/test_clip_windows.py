"""Windows of clips: frames, densities, mirroring, and missing or damaged files."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from edge.core.errors import InputError
from edge.preprocessing.transform import Preprocessing
from tests.support import dataset_trees as trees
from tests.support.pools import all_clips
from trainer.data import clip_windows
from trainer.data.clip_windows import MixedWindowDataset, SyntheticWindows, WindowDataset, WindowShape
from trainer.data.gaze_model import gaze_density
from trainer.data.scene_pool import ScenePool
from trainer.datasets.factory import open_dataset
from trainer.recipes.loader import WorldTable

SHAPE = WindowShape(32, 64, frames=31, densities=16)


def window_dataset(root: Path, shape: WindowShape = SHAPE) -> WindowDataset:
    return WindowDataset(open_dataset("ucf-sports", root, "train"), shape, 0)


def read_window(
    root: Path, last: int, mirrored: bool = False, shape: WindowShape = SHAPE
) -> dict[str, Tensor]:
    dataset = open_dataset("ucf-sports", root)
    sample = WindowDataset(dataset, shape, 0).window(dataset.clips[0], last, mirrored)
    assert sample is not None
    return sample


def frame_indices(sample: dict[str, Tensor]) -> list[int]:
    """Return the indices of the frames of a window, from the brightness of their left edge."""
    values = (sample["clip"][0, :, 0, 0] + 1) * 127.5
    return [round((float(value) - 5) / 6) for value in values]


def read_density(root: Path, index: int) -> Tensor:
    """Return the density of a frame, read from its file and resized to the window."""
    image = cv2.imread(str(root / f"training/c-0/maps/{index:03d}.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    resized = cv2.resize(image.astype(np.float32), (64, 32), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(resized / resized.sum())


def test_window_has_its_frames_and_their_densities(tmp_path: Path) -> None:
    sample = read_window(trees.write_ucf_sports(tmp_path), 35)
    assert sample["clip"].shape == (3, 31, 32, 64)
    assert sample["density"].shape == (16, 32, 64)
    assert frame_indices(sample) == list(range(5, 36))
    for position, index in enumerate(range(20, 36)):
        torch.testing.assert_close(sample["density"][position], read_density(tmp_path, index))
    image = cv2.imread(str(tmp_path / "training/c-0/images/035.png"))
    expected = Preprocessing(64, 32)(np.asarray(image, np.uint8))
    torch.testing.assert_close(sample["clip"][:, -1], torch.from_numpy(expected)[0])


def test_frames_before_the_start_of_a_clip_repeat_the_first(tmp_path: Path) -> None:
    assert frame_indices(read_window(trees.write_ucf_sports(tmp_path), 20)) == [0] * 10 + list(range(21))
    short = read_window(
        trees.write_ucf_sports(tmp_path / "short", frames=5), 4, shape=WindowShape(32, 64, densities=16)
    )
    assert frame_indices(short) == [0] * 11 + list(range(5))
    assert len({tuple(d.flatten().tolist()) for d in short["density"]}) == 5


def test_mirrored_window_has_mirrored_densities(tmp_path: Path) -> None:
    plain, mirrored = (
        read_window(trees.write_ucf_sports(tmp_path), 35),
        read_window(tmp_path, 35, mirrored=True),
    )
    for name, value in plain.items():
        assert torch.equal(mirrored[name], value.flip(-1))
        assert not torch.equal(mirrored[name], value)


def test_windows_cover_the_clip_and_half_of_them_are_mirrored(tmp_path: Path) -> None:
    samples = window_dataset(trees.write_ucf_sports(tmp_path, clips=2), WindowShape(32, 64))
    assert len(samples) == 2 * clip_windows.WINDOWS_PER_CLIP
    lasts, mirrored_count = set(), 0
    for index in range(60):
        clip = samples[index]["clip"]
        mirrored = bool(clip[0, -1, 0, 0] < clip[0, -1, 0, -1])
        frames = frame_indices({"clip": clip.flip(-1) if mirrored else clip})
        assert frames == list(range(frames[0], frames[0] + 16))
        lasts.add(frames[-1])
        mirrored_count += mirrored
    assert (min(lasts), max(lasts)) == (15, 39)
    assert len(lasts) > 15
    assert 20 < mirrored_count < 40
    torch.testing.assert_close(samples[7], window_dataset(tmp_path, WindowShape(32, 64))[7])


def test_missing_and_damaged_files_are_skipped_until_nothing_can_be_read(tmp_path: Path) -> None:
    folder = trees.write_ucf_sports(tmp_path, clips=2) / "training" / "c-0"
    (folder / "maps" / "030.png").unlink()
    (folder / "images" / "032.png").write_bytes(b"no image")
    sample = read_window(tmp_path, 35)
    assert frame_indices(sample) == [31 if index == 32 else index for index in range(5, 36)]
    empty = [index for index, density in enumerate(sample["density"], 20) if not density.any()]
    assert empty == [30, 32]
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no image")
    samples = window_dataset(tmp_path)
    assert samples[0]["density"].any()  # of the second clip
    for path in (tmp_path / "training" / "c-1" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no frame of ucf-sports at .* can be read; .*not readable as an"):
        window_dataset(tmp_path)[0]


def test_synthetic_windows_have_their_frames_and_densities(small_pool: ScenePool) -> None:
    plain = WorldTable(width=96, height=64, augment=False)
    windows = SyntheticWindows(small_pool, plain, WindowShape(64, 96, 18, 2), stream=3)
    starts, mirrorings = set(), set()
    for index in range(16):
        sample = windows[index]
        assert sample["clip"].shape == (3, 18, 64, 96)
        window = ((sample["clip"] + 1) * 127.5).round().to(torch.uint8).flip(0).permute(1, 2, 3, 0).numpy()
        for shot, mirrored in itertools.product(all_clips(small_pool), (False, True)):
            frames = shot.frames[:, :, ::-1] if mirrored else shot.frames
            if (window[-1] == frames[-1]).all():
                break
        else:
            pytest.fail("the last frame is not the last one of a clip of 16 frames")
        assert (window[2:] == frames).all()
        assert (window[:2] == frames[0]).all(), "frames before the start repeat the first"
        for position, density in zip((14, 15), sample["density"], strict=True):
            truth = torch.from_numpy(gaze_density(shot, shot.index.ticks[position], 96, 64))
            torch.testing.assert_close(density.flip(-1) if mirrored else density, truth, atol=1e-6, rtol=1e-4)
        starts.add(shot.index.ticks[0])
        mirrorings.add(mirrored)
    assert len(starts) == 2, "clips of both scenes without twins"
    assert mirrorings == {False, True}


def test_auxiliary_windows_alternate_with_labelled_ones_and_have_no_density(
    tmp_path: Path, small_pool: ScenePool
) -> None:
    trees.write_video(tmp_path / "videos" / "a.avi", 20)
    videos = WindowDataset(open_dataset("videos", tmp_path / "videos"), WindowShape(32, 64), 0)
    mixed = MixedWindowDataset(
        window_dataset(trees.write_ucf_sports(tmp_path), WindowShape(32, 64)), videos, 0
    )
    assert [bool(mixed[index]["density"].any()) for index in range(6)] == [True, False] * 3
    assert len(mixed) == 2 * clip_windows.WINDOWS_PER_CLIP
    assert len({round(float(mixed[index]["clip"].sum())) for index in range(1, 12, 2)}) > 1
    windows = SyntheticWindows(small_pool, WorldTable(), WindowShape(32, 64), 0)
    mixed = MixedWindowDataset(windows, videos, 0)
    assert [bool(mixed[index]["density"].any()) for index in range(6)] == [True, False] * 3
