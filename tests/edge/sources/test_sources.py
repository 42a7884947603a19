from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source


def test_a_video_gives_its_frames_in_order_with_media_time(video: Path, flight: np.ndarray) -> None:
    source = open_source(str(video))
    frames = list(source)
    source.close()
    assert (source.width, source.height, source.fps, source.length) == (320, 180, 10, 12)
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.capture_s for frame in frames], np.arange(12) / 10, atol=1e-3)
    for frame, image in zip(frames, flight, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 6  # JPEG


def test_a_folder_is_read_in_the_order_of_its_numbers(folder: Path, flight: np.ndarray) -> None:
    source = open_source(str(folder))
    assert source.length == 12
    for frame, image in zip(source, flight, strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_a_rate_that_is_given_paces_a_video(video: Path) -> None:
    source = open_source(str(video), live=True, fps=100)
    stamps = [frame.capture_s for frame in source]
    source.close()
    assert np.diff(stamps).mean() == pytest.approx(0.01, abs=0.005)


def test_a_made_flight_has_the_size_and_length_asked_for() -> None:
    source = open_source("synthetic:3:128x96:4")
    frames = list(source)
    assert len(frames) == source.length == 4
    assert frames[0].image.shape == (96, 128, 3)
    assert (frames[0].image != frames[3].image).any()


def test_a_cut_video_gives_its_readable_frames(video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    frames = list(open_source(str(cut)))
    assert 3 < len(frames) < 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "no source"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"not a video at all\n" * 100, "no frame that can be decoded"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(str(path))


def test_a_video_that_must_not_be_read_is_named(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str = "r") -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may read all
    with pytest.raises(InputError, match="Permission denied; expected a video file"):
        open_source(str(video))


def test_a_cut_mp4_without_its_index_is_named(flight: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "whole.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 180))
    for frame in flight:
        writer.write(frame)
    writer.release()
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match="index came last"):
        open_source(str(path))


def test_bad_folders_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="has no images"):
        open_source(str(tmp_path / "none"))
    cv2.imwrite(str(folder / "7.png"), np.zeros((90, 160, 3), np.uint8))
    with pytest.raises(InputError, match=r"7\.png is 160x90, the first image is 320x180"):
        list(open_source(str(folder)))
    (folder / "7.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"7\.png cannot be read"):
        list(open_source(str(folder)))


@pytest.mark.parametrize(
    "name", ["synthetic:", "synthetic:x", "synthetic:1:10x10", "synthetic:1:0x0", "synthetic:1:64"]
)
def test_bad_made_flights_are_named(name: str) -> None:
    with pytest.raises(InputError, match="synthetic"):
        open_source(name)
