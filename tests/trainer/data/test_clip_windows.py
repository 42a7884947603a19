"""Windows of clips: which frames, whose densities, what is done where files are missing or broken."""

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
from edge.simulation.world import World
from tests.support import dataset_trees as trees
from trainer.data import clip_windows as windows
from trainer.data import synthetic_pairs as made
from trainer.data.clip_windows import (
    MixedWindowDataset,
    MixedWindowStream,
    SyntheticWindowStream,
    WindowDataset,
    WindowShape,
)
from trainer.data.gaze_model import gaze_density
from trainer.datasets.factory import open_dataset

FRAMES = 40
SHAPE = WindowShape(32, 64, frames=31, densities=16)


def brightness(index: int) -> int:
    return 6 * index + 5


def tree(root: Path, clips: int = 1, frames: int = FRAMES) -> Path:
    """Write UCF-Sports's layout: frames tell their index by their left half's brightness."""
    for clip in range(clips):
        folder = root / "training" / f"c-{clip}"
        for kind in ("images", "maps"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(frames):
            image = np.zeros((trees.HEIGHT, trees.WIDTH, 3), np.uint8)
            image[:, : trees.WIDTH // 2] = brightness(index)
            cv2.imwrite(str(folder / "images" / f"{index:03d}.png"), image)
            trees.density(folder / "maps" / f"{index:03d}.png", 24, 8 + index)
    return root


def opened(root: Path, shape: WindowShape = SHAPE) -> WindowDataset:
    return WindowDataset(open_dataset("ucf-sports", root, "train"), shape, 0)


def window(root: Path, last: int, mirrored: bool = False, shape: WindowShape = SHAPE) -> dict[str, Tensor]:
    dataset = open_dataset("ucf-sports", root)
    sample = WindowDataset(dataset, shape, 0).window(dataset.clips[0], last, mirrored)
    assert sample is not None
    return sample


def shown(sample: dict[str, Tensor]) -> list[int]:
    """Return which frames a window has, from their left edge's brightness."""
    values = (sample["clip"][0, :, 0, 0] + 1) * 127.5
    return [round((float(value) - 5) / 6) for value in values]


def told(root: Path, index: int) -> Tensor:
    """Return a frame's density as the file has it, at the window's size."""
    image = cv2.imread(str(root / f"training/c-0/maps/{index:03d}.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    small = cv2.resize(image.astype(np.float32), (64, 32), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small / small.sum())


def test_a_window_has_its_frames_and_their_densities(tmp_path: Path) -> None:
    sample = window(tree(tmp_path), 35)
    assert sample["clip"].shape == (3, 31, 32, 64)
    assert sample["density"].shape == (16, 32, 64)
    assert shown(sample) == list(range(5, 36))
    for place, index in enumerate(range(20, 36)):
        torch.testing.assert_close(sample["density"][place], told(tmp_path, index))
    image = cv2.imread(str(tmp_path / "training/c-0/images/035.png"))
    expected = Preprocessing(64, 32)(np.asarray(image, np.uint8))
    torch.testing.assert_close(sample["clip"][:, -1], torch.from_numpy(expected)[0])


def test_before_the_first_frame_there_is_only_that(tmp_path: Path) -> None:
    assert shown(window(tree(tmp_path), 20)) == [0] * 10 + list(range(21))
    short = window(tree(tmp_path / "short", frames=5), 4, shape=WindowShape(32, 64, densities=16))
    assert shown(short) == [0] * 11 + list(range(5))
    assert len({tuple(d.flatten().tolist()) for d in short["density"]}) == 5


def test_a_mirrored_window_has_mirrored_densities(tmp_path: Path) -> None:
    plain, mirrored = window(tree(tmp_path), 35), window(tmp_path, 35, mirrored=True)
    for name, value in plain.items():
        assert torch.equal(mirrored[name], value.flip(-1))
        assert not torch.equal(mirrored[name], value)


def test_windows_lie_anywhere_and_half_of_them_are_mirrored(tmp_path: Path) -> None:
    samples = opened(tree(tmp_path, clips=2), WindowShape(32, 64))
    assert len(samples) == 2 * windows.WINDOWS_PER_CLIP
    lasts, mirrored = set(), 0
    for index in range(60):
        clip = samples[index]["clip"]
        turned = bool(clip[0, -1, 0, 0] < clip[0, -1, 0, -1])
        frames = shown({"clip": clip.flip(-1) if turned else clip})
        assert frames == list(range(frames[0], frames[0] + 16))
        lasts.add(frames[-1])
        mirrored += turned
    assert (min(lasts), max(lasts)) == (15, 39)
    assert len(lasts) > 15
    assert 20 < mirrored < 40
    torch.testing.assert_close(samples[7], opened(tmp_path, WindowShape(32, 64))[7])


def test_what_is_missing_or_broken_is_not_fatal(tmp_path: Path) -> None:
    folder = tree(tmp_path, clips=2) / "training" / "c-0"
    (folder / "maps" / "030.png").unlink()
    (folder / "images" / "032.png").write_bytes(b"no image")
    sample = window(tmp_path, 35)
    assert shown(sample) == [31 if index == 32 else index for index in range(5, 36)]
    empty = [index for index, density in enumerate(sample["density"], 20) if not density.any()]
    assert empty == [30, 32]
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no image")
    samples = opened(tmp_path)
    assert samples[0]["density"].any()  # the second clip's
    for path in (tmp_path / "training" / "c-1" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no frame of ucf-sports at .* can be read; .*not readable as an"):
        opened(tmp_path)[0]


def test_made_windows_have_their_frames_and_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(made.FIRST_TRAINING_SCENE + 3 * made.SCENES_PER_STREAM, 64, 32, windows.FPS)
    images = torch.stack(
        [torch.from_numpy(Preprocessing(64, 32)(world.frame(index).image)[0]) for index in range(18)], dim=1
    )
    truth = torch.stack([torch.from_numpy(gaze_density(world, index, 64, 32)) for index in range(18)])
    monkeypatch.setattr(windows, "FIRST", 1)
    lasts, turns = set(), set()
    for sample in itertools.islice(
        SyntheticWindowStream(WindowShape(32, 64, 18, 2), 18, 1, 24, stream=3), 24
    ):
        found = [
            (last, turned)
            for last, turned in itertools.product((15, 16, 17), (False, True))
            for wanted in [[max(0, index) for index in range(last - 17, last + 1)]]
            if torch.allclose(sample["clip"].flip(-1) if turned else sample["clip"], images[:, wanted])
        ]
        ((last, turned),) = found
        density = sample["density"].flip(-1) if turned else sample["density"]
        torch.testing.assert_close(density, truth[last - 1 : last + 1], atol=1e-4, rtol=2e-3)
        lasts.add(last)
        turns.add(turned)
    assert lasts == {15, 16, 17}
    assert turns == {False, True}


def test_auxiliary_windows_are_as_many_and_have_no_truth(tmp_path: Path) -> None:
    trees.film(tmp_path / "videos" / "a.avi", 20)
    videos = WindowDataset(open_dataset("videos", tmp_path / "videos"), WindowShape(32, 64), 0)
    mixed = MixedWindowDataset(opened(tree(tmp_path), WindowShape(32, 64)), videos, 0)
    assert [bool(mixed[index]["density"].any()) for index in range(6)] == [True, False] * 3
    assert len(mixed) == 2 * windows.WINDOWS_PER_CLIP
    assert len({round(float(mixed[index]["clip"].sum())) for index in range(1, 12, 2)}) > 1
    stream = MixedWindowStream(SyntheticWindowStream(WindowShape(32, 64), 16, 1, 4, stream=0), videos, 0)
    assert [bool(s["density"].any()) for s in itertools.islice(stream, 6)] == [True, False] * 3
    first, later = (
        MixedWindowStream(SyntheticWindowStream(WindowShape(32, 64), 16, 1, 4, 0), videos, 0),
        stream,
    )
    later.share(0, 1, 100)
    assert not torch.equal(next(iter(first))["clip"], next(iter(later))["clip"])
