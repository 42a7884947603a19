from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source


def test_video_gives_its_frames_in_order_with_media_time(video: Path, flight: np.ndarray) -> None:
    source = open_source(str(video))
    frames = list(source)
    source.close()
    assert (source.width, source.height, source.fps, source.length) == (320, 180, 10, 12)
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.capture_s for frame in frames], np.arange(12) / 10, atol=1e-3)
    for frame, image in zip(frames, flight, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 6  # JPEG


def test_truncated_video_gives_its_readable_frames(video: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.avi"
    truncated.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    frames = list(open_source(str(truncated)))
    assert 3 < len(frames) < 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "no source"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"not a video at all\n" * 100, "no frame that can be decoded"),
    ],
)
def test_invalid_file_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(str(path))


def test_video_without_read_permission_is_named(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str = "r") -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(InputError, match="Permission denied; expected a video file"):
        open_source(str(video))


def test_mp4_without_its_index_is_named(flight: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 180))
    for frame in flight:
        writer.write(frame)
    writer.release()
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match="index came last"):
        open_source(str(path))
