from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import find_damage
from edge.sources.factory import open_source
from edge.sources.video_container import count_frames, is_cut
from edge.sources.video_file import MAX_FAILED_READS, MAX_FAILED_READS_AT_END, decode_frames
from tests.support.dataset_trees import corrupt_frames
from trainer.datasets.image_sequences import VideoSequence

VIDEOS = Path(__file__).parent / "videos"


def test_video_gives_its_frames_in_order_with_media_time(video: Path, flight: np.ndarray) -> None:
    source = open_source(str(video))
    frames = list(source)
    source.close()
    assert (source.width, source.height, source.fps, source.length) == (320, 180, 10, 12)
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.capture_s for frame in frames], np.arange(12) / 10, atol=1e-3)
    for frame, image in zip(frames, flight, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 6  # JPEG


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_frames_that_are_held_do_not_change_while_others_are_dropped(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"odd{suffix}"
    codec = cv2.VideoWriter.fourcc(*("MJPG" if suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, 10, (162, 90))
    for index in range(20):
        writer.write(np.full((90, 162, 3), 12 * index, np.uint8))
    writer.release()
    capture = cv2.VideoCapture(str(path))
    expected = [image for _ in range(20) if (image := capture.read()[1]) is not None]
    held, addresses = [], set()
    for frame in open_source(str(path)):
        addresses.add(frame.image.ctypes.data)
        if frame.index % 3 == 0:
            held.append((frame.index, frame.image[10:, ::2]))
    assert len(addresses) < len(expected) == 20
    for index, part in held:
        np.testing.assert_array_equal(part, expected[index][10:, ::2])


class ScriptedCapture:
    """Capture whose reads succeed or fail as listed, and fail behind the list."""

    def __init__(self, announced: int, reads: list[bool]) -> None:
        self.announced, self.reads, self.count = announced, reads, 0

    def get(self, setting: int) -> float:
        return self.announced if setting == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def read(self, image: Any = None) -> tuple[bool, Any]:
        self.count += 1
        is_read = self.count <= len(self.reads) and self.reads[self.count - 1]
        return is_read, np.zeros((2, 2, 3), np.uint8) if is_read else None


@pytest.mark.parametrize(
    ("announced", "reads", "frames", "reads_behind_the_end"),
    [
        (5, [True] * 5, 5, MAX_FAILED_READS_AT_END),
        (6, [True] * 5, 5, MAX_FAILED_READS),  # one is missing
        (0, [True] * 5, 5, MAX_FAILED_READS),  # no number is announced
        (3, [*[True] * 4, *[False] * 10, True], 5, MAX_FAILED_READS_AT_END),  # the number is too low
    ],
)
def test_video_ends_after_few_failed_reads_if_no_announced_frame_is_missing(
    announced: int, reads: list[bool], frames: int, reads_behind_the_end: int
) -> None:
    capture: Any = ScriptedCapture(announced, reads)
    assert len(list(decode_frames(capture))) == frames
    assert capture.count == len(reads) + reads_behind_the_end


def test_truncated_video_gives_its_readable_frames(video: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.avi"
    truncated.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    frames = list(open_source(str(truncated)))
    assert 3 < len(frames) < 12


@pytest.mark.parametrize(
    ("name", "frames", "last_s"),
    [
        ("trimmed.mp4", 24, 23 / 15),
        ("shortened.mp4", 19, 1.2),
        ("phone.webm", 16, 1.8),
        ("sound.mkv", 30, 29 / 15),
    ],
)
def test_whole_video_is_not_called_damaged(name: str, frames: int, last_s: float) -> None:
    faults: dict[Path, str] = {}
    source, sequence = open_source(str(VIDEOS / name)), VideoSequence(VIDEOS / name, faults)
    read = list(source)
    source.close()
    assert [frame.index for frame in read] == list(range(frames))
    assert read[-1].capture_s == pytest.approx(last_s, abs=2e-3)
    assert find_damage(source) == ()
    assert len(sequence) == frames
    assert [index for index, _ in sequence.read(0, frames + 5)] == list(range(frames))
    assert faults == {}


@pytest.mark.parametrize("damaged", [{5}, {0}, {11}, {0, 3, 4, 11}])
def test_damaged_frames_are_left_out_counted_and_named(
    damaged: set[int], video: Path, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt.avi"
    path.write_bytes(video.read_bytes())
    corrupt_frames(path, damaged)
    faults: dict[Path, str] = {}
    source = open_source(str(path))
    frames = list(source)
    source.close()
    intact = [index for index in range(12) if index not in damaged]
    assert [frame.index for frame in frames] == intact
    np.testing.assert_allclose([frame.capture_s for frame in frames], np.array(intact) / 10, atol=1e-3)
    assert [index for index, _ in VideoSequence(path, faults).read(0, 12)] == intact
    (damage,) = find_damage(source)
    assert damage == f"{path}: {faults[path]}"
    inner = sorted(damaged - {11})
    if inner:
        assert (
            f"{len(inner)} frame{'s' * (len(inner) > 1)} cannot be decoded: {', '.join(map(str, inner))}"
            in damage
        )
    assert ("1 frame at the end cannot be decoded, of 12 in the file" in damage) == (11 in damaged)


def test_damage_of_frames_that_depend_on_others_keeps_the_time_of_the_rest() -> None:
    source = open_source(str(VIDEOS / "damaged.mp4"))
    frames = list(source)
    source.close()
    assert [frame.index for frame in frames] == [*range(13), *range(27, 60)]
    np.testing.assert_allclose(
        [frame.capture_s * 15 for frame in frames], [f.index for f in frames], atol=0.01
    )
    assert "14 frames cannot be decoded: 13, 14, 15, 16, 17 and 9 more" in find_damage(source)[0]


@pytest.mark.parametrize("name", ["trimmed.mp4", "sound.mkv", "phone.webm"])
def test_cut_file_is_told_from_a_whole_one(name: str, tmp_path: Path) -> None:
    data = (VIDEOS / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(data[:-400])
    assert is_cut(cut)
    assert not is_cut(VIDEOS / name)


def test_damaged_structure_of_a_file_is_no_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("trimmed.mp4", "sound.mkv", "damaged.mp4"):
        data = np.frombuffer((VIDEOS / name).read_bytes(), np.uint8)
        for _ in range(60):
            spoilt = data.copy()
            spoilt[random.integers(0, len(data), 40)] = random.integers(0, 256, 40)
            (tmp_path / name).write_bytes(spoilt.tobytes())
            is_cut(tmp_path / name)
            count_frames(tmp_path / name, 30)


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
