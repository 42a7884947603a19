from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.postprocessing.annotations import FOLLOWED_COLOUR, WHITE, draw_annotations
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result
from edge.sinks.files.jsonl import JsonlSink
from edge.sinks.files.map_images import MapsSink
from edge.sinks.files.overlay_video import OverlaySink
from edge.sinks.sink import Sink
from edge.sources.factory import open_source


@pytest.fixture
def results(flight: np.ndarray) -> list[Result]:
    frames = []
    for index, image in enumerate(flight):
        saliency = np.zeros((64, 64), np.float32)
        saliency[16:18, 4 * index + 2] = 0.25, 0.5
        frames.append(Result(Frame(index, index / 10, image), saliency, 1.5))
    return frames


def test_jsonl_sink_writes_one_object_per_frame(tmp_path: Path, results: list[Result]) -> None:
    sink = JsonlSink(tmp_path / "out.jsonl")
    write_all(sink, results)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(12))
    assert rows[3]["capture_s"] == 0.3
    assert rows[3]["latency_ms"] == 1.5
    (peak,) = rows[3]["peaks"]
    assert peak["x"] == pytest.approx((14 + 0.5) / 64 * 320, abs=0.1)
    assert peak["y"] == pytest.approx(17.4 / 64 * 180, abs=1)
    assert peak["score"] == pytest.approx(1)


def test_maps_are_16_bit_images_with_the_aspect_of_the_frame(tmp_path: Path, results: list[Result]) -> None:
    write_all(MapsSink(tmp_path / "maps"), results)
    files = sorted((tmp_path / "maps").iterdir())
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(12)]
    image = cv2.imread(str(files[5]), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.dtype == np.uint16
    assert image.shape == (144, 256)
    assert image.max() == 65535
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (column + 0.5) / 256 == pytest.approx(22.5 / 64, abs=0.01)
    assert (row + 0.5) / 144 == pytest.approx(17.5 / 64, abs=0.01)


def test_overlay_can_be_played_and_shows_the_peak(tmp_path: Path, results: list[Result], video: Path) -> None:
    write_all(OverlaySink(tmp_path / "overlay.mp4", open_source(str(video))), results)
    source = open_source(str(tmp_path / "overlay.mp4"))
    frames = list(source)
    assert (len(frames), source.width, source.height, source.fps) == (12, 320, 180, 10)
    changed = np.abs(frames[6].image.astype(int) - results[6].frame.image).sum(axis=2)
    row, column = np.unravel_index(cv2.blur(changed.astype(np.float32), (9, 9)).argmax(), changed.shape)
    assert abs(column - 26.5 / 64 * 320) < 20
    assert abs(row - 17.5 / 64 * 180) < 20


def test_overlay_keeps_the_time_of_a_variable_frame_rate(tmp_path: Path) -> None:
    source = open_source(str(Path(__file__).parents[2] / "sources" / "videos" / "phone.webm"))
    saliency = np.ones((8, 8), np.float32)
    write_all(OverlaySink(tmp_path / "o.mp4", source), [Result(frame, saliency, 1.0) for frame in source])
    written = list(open_source(str(tmp_path / "o.mp4")))
    assert len(written) == 28  # 16 frames, the last of which is shown at 1.8 s
    assert written[-1].capture_s == pytest.approx(1.8, abs=1e-3)


def test_discarded_sink_leaves_older_files_unchanged(
    tmp_path: Path, results: list[Result], video: Path
) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    sinks: list[Sink] = [
        JsonlSink(tmp_path / "out.jsonl"),
        MapsSink(tmp_path / "maps"),
        OverlaySink(tmp_path / "overlay.mp4", open_source(str(video))),
    ]
    for sink in sinks:
        sink.write(results[0])
        sink.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "old"


def test_overlay_with_an_unknown_suffix_is_rejected(tmp_path: Path, video: Path) -> None:
    with pytest.raises(InputError, match=r"ending in \.mp4"):
        OverlaySink(tmp_path / "overlay.gif", open_source(str(video)))


def test_live_overlay_without_a_folder_for_its_pipe_leaves_nothing(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="cannot write"):
        OverlaySink(tmp_path / "o.mkv", open_source(str(video)), is_live=True)
    assert list(tmp_path.iterdir()) == []


def test_overlay_on_a_full_disk_is_rejected(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("edge.sinks.files.overlay_video.disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(InputError, match="the disk is almost full; free some space"):
        OverlaySink(tmp_path / "overlay.mp4", open_source(str(video)))
    assert not [*tmp_path.glob(".overlay*")]


def write_all(sink: Sink, results: list[Result]) -> None:
    for result in results:
        sink.write(result)
    sink.finish()
    sink.commit()


def test_truncated_video_fails_at_the_end(tmp_path: Path, results: list[Result], video: Path) -> None:
    sink = OverlaySink(tmp_path / "overlay.mp4", open_source(str(video)))
    for result in results:
        sink.write(result)
    sink._writer.release()
    (written,) = tmp_path.iterdir()
    written.write_bytes(written.read_bytes()[:20_000])  # like on a full disk
    with pytest.raises(InputError, match="is the disk full"):
        sink.finish()
    sink.discard()
    assert list(tmp_path.iterdir()) == []


def test_folder_with_an_image_of_a_camera_is_not_replaced(tmp_path: Path, flight: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "000001.png"), flight[0])
    with pytest.raises(InputError, match=r"holds 000001\.png"):
        MapsSink(tmp_path)


def test_jsonl_sink_writes_regions_with_their_angles(tmp_path: Path, results: list[Result]) -> None:
    write_all(JsonlSink(tmp_path / "out.jsonl", MapAnalyzer(), CameraGeometry(90, pitch_deg=-30)), results)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        region = row["regions"][0]
        assert region["id"] == 1
        assert (region["left"], region["right"]) == (20 * index + 10, 20 * index + 15)  # pixels of the frame
        assert region["left"] < region["x"] < region["right"]
        assert region["top"] < region["y"] < region["bottom"]
        assert region["age_s"] == pytest.approx(index / 10)
        assert region["coasting"] is False
        assert region["elevation_deg"] == pytest.approx(-15, abs=4)
    bearings = [row["regions"][0]["bearing_deg"] for row in rows]
    assert bearings == sorted(bearings)
    assert bearings[0] == pytest.approx(-45, abs=6)


def test_tracked_region_is_marked_differently_and_marks_stay_inside_the_image(flight: np.ndarray) -> None:
    first = Region(0.3, 0.5, 0.2, 0.4, 0.4, 0.6, 0.4, 1)
    other = Region(0.7, 0.5, 0.6, 0.4, 0.8, 0.6, 0.2, 12)
    saliency = np.zeros((8, 8), np.float32)

    def draw(*regions: Region, size: tuple[int, int] = (640, 360)) -> np.ndarray:
        image = np.zeros((size[1], size[0], 3), np.uint8)
        draw_annotations(image, Result(Frame(0, 0, flight[0]), saliency, 1, regions))
        return image

    image = draw(first, other)
    left, right = image[:, :320], image[:, 320:]
    assert (left == FOLLOWED_COLOUR).all(axis=2).sum() > 300  # its label is filled
    assert not (left == WHITE).all(axis=2).any()
    assert (right == WHITE).all(axis=2).sum() > 300
    coasting = draw(first, Region(0.7, 0.5, 0.6, 0.4, 0.8, 0.6, 0.2, 12, coasting=True))
    assert 0 < (coasting[:, 320:] > 0).sum() < (right > 0).sum() / 3  # a thin bracket, no label
    corner = draw(Region(0, 0, -0.1, -0.1, 0.1, 0.1, 0.9, 123456))
    assert (corner == FOLLOWED_COLOUR).all(axis=2).sum() > 300
    for size in ((1, 1), (2, 200), (200, 3)):
        draw(first, other, size=size)
