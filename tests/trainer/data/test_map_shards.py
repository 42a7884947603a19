"""Map shards: round trip, random access, other processes, plans and damaged files."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.core.errors import InputError
from trainer.data.map_shards import LabellingPlan, ShardedMaps, ShardWriter, shard_path, write_or_check_plan

PLAN = LabellingPlan(
    "m", "0", None, "videos", None, 3, "0", ("spatial", "temporal"), 16, 12, 1, None, 2, 30.0
)


def ramp(peak: float, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random((12, 16), np.float32)
    return np.asarray(peak * values / values.max(), np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two shards with three clips: frames 0 and 5, no frame, frame 2."""
    write_or_check_plan(tmp_path, PLAN)
    first, second = ShardWriter(16, 12), ShardWriter(16, 12)
    first.add(0, [ramp(1, 0), ramp(7, 1)])
    first.add(5, [ramp(1e-4, 2), np.zeros((12, 16), np.float32)])
    first.end_clip("a/b.mp4", [])
    first.end_clip("broken.mp4", ["broken.mp4: not readable as a video"])
    first.write(shard_path(tmp_path, 0), 1.5)
    second.add(2, [ramp(3, 4), ramp(3, 5)])
    second.end_clip("c.mp4", [])
    second.write(shard_path(tmp_path, 1), 0.25)
    return tmp_path


def test_maps_are_read_back_within_half_a_step_of_their_peak(folder: Path) -> None:
    maps = ShardedMaps(folder)
    assert maps.clips == {"a/b.mp4": 2, "broken.mp4": 0, "c.mp4": 1}
    assert maps.frames("a/b.mp4").tolist() == [0, 5]
    assert maps.frames("broken.mp4").tolist() == maps.frames("unknown").tolist() == []
    for clip, frame, name, peak, seed in (
        ("a/b.mp4", 0, "spatial", 1, 0),
        ("a/b.mp4", 0, "temporal", 7, 1),
        ("a/b.mp4", 5, None, 1e-4, 2),
        ("c.mp4", 2, "spatial", 3, 4),
        ("c.mp4", 2, "temporal", 3, 5),
    ):
        saliency = maps.map(clip, frame, name)
        assert saliency.dtype == np.float32
        assert np.abs(saliency - ramp(peak, seed)).max() <= peak / 255 * 0.501
    assert not maps.map("a/b.mp4", 5, "temporal").any()
    assert maps.faults == {"broken.mp4": ["broken.mp4: not readable as a video"]}
    assert (maps.shards, maps.seconds) == (2, 1.75)


def test_numpy_alone_reads_a_shard(folder: Path) -> None:
    with np.load(shard_path(folder, 0)) as file:
        assert json.loads(file["index"].tobytes())["clips"][0] == {
            "name": "a/b.mp4",
            "frames": 2,
            "faults": [],
        }
        assert file["frame"].tolist() == [0, 5]
        assert file["end"].shape == (2, 2)
        assert file["end"][-1, -1] == len(file["png"])
        assert file["png"][1:4].tobytes() == b"PNG"


def test_maps_are_resized_like_images(tmp_path: Path) -> None:
    write_or_check_plan(tmp_path, PLAN)
    shard = ShardWriter(16, 12)
    large = np.zeros((24, 32), np.float32)
    large[:2, :2] = 8  # one pixel of the resized map
    large[2:4, 2] = 4  # half of another pixel
    shard.add(0, [large, np.full((3, 4), 2, np.float32)])
    shard.end_clip("a", [])
    shard.write(shard_path(tmp_path, 0), 0)
    maps = ShardedMaps(tmp_path)
    small = maps.map("a", 0)
    assert (small.shape, small[0, 0]) == ((12, 16), 8)
    assert small[1, 1] == pytest.approx(2, abs=8 / 255)
    assert (maps.map("a", 0, "temporal") == 2).all()


def test_reader_can_be_pickled(folder: Path) -> None:
    maps = ShardedMaps(folder)
    original = maps.map("c.mp4", 2)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        sender.send(maps)
        copied = receiver.recv()
    np.testing.assert_array_equal(copied.map("c.mp4", 2), original)


@pytest.mark.parametrize(
    ("clip", "frame", "name"), [("a/b.mp4", 1, None), ("a/b.mp4", 6, None), ("x", 0, None), ("c.mp4", 2, "x")]
)
def test_missing_map_is_reported(folder: Path, clip: str, frame: int, name: str | None) -> None:
    with pytest.raises(InputError, match=rf"no map .* of {clip}, frame {frame}; expected"):
        ShardedMaps(folder).map(clip, frame, name)


def test_plan_is_stored_and_another_plan_is_rejected(folder: Path) -> None:
    write_or_check_plan(folder, replace(PLAN, model="./m"))
    with pytest.raises(
        InputError, match=r"holds other maps \(sha256 0 there, 1 here; width 16 there, 32 here\)"
    ):
        write_or_check_plan(folder, replace(PLAN, model="n", sha256="1", width=32))
    with pytest.raises(InputError, match="pixel_range auto there, 7000,9500 here"):
        write_or_check_plan(folder, replace(PLAN, pixel_range="7000,9500"))
    (folder / "labels.json").write_text('{"schema": 9}')
    with pytest.raises(InputError, match=r"is not a folder of maps .*not schema 1"):
        write_or_check_plan(folder, PLAN)


def test_damaged_shard_is_reported(folder: Path) -> None:
    path = shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-000001.npz is damaged .*remove it and label again"):
        ShardedMaps(folder)
    with pytest.raises(InputError, match="is not a folder of maps"):
        ShardedMaps(folder / "none")
