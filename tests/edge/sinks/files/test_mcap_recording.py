from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame, find_damage
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result
from edge.sinks.files import mcap_recording
from edge.sinks.files.mcap_recording import McapSink
from edge.sources.factory import open_source
from tests.conftest import Outcome
from tests.support.maps import blob

mcap_reader = pytest.importorskip("mcap.reader", reason="mcap is not installed: pip install 'aerogaze[bags]'")
mcap_protobuf = pytest.importorskip(
    "mcap_protobuf.decoder", reason="mcap-protobuf-support is not installed: pip install 'aerogaze[dev]'"
)

STAMP_NS = 1_700_000_000_123_456_789
FOLLOWED = Region(0.5, 0.5, 0.25, 0.25, 0.75, 0.5, 0.8, id=3, share=0.4)
COASTING = Region(0.1, 0.1, 0.0, 0.0, 0.2, 0.2, 0.1, id=4, coasting=True)
SOURCE: Any = SimpleNamespace(width=320, height=180, fps=10.0)


def results(count: int, **frame: Any) -> list[Result]:
    noise = np.random.default_rng(0).integers(0, 255, (180, 320, 3)).astype(np.uint8)
    return [
        Result(
            Frame(index, index / 10, np.roll(noise, index, axis=1), **frame),
            blob(0.5, 0.4),
            12.5,
            (FOLLOWED, COASTING),
        )
        for index in range(count)
    ]


def open_sink(path: Path, is_live: bool = False, source: Any = SOURCE) -> McapSink:
    return McapSink(path, source, Status(RunInfo("r", "int8", "e", "s")), is_live=is_live)


def record(path: Path, rows: list[Result], **settings: Any) -> dict[str, list[tuple[int, Any]]]:
    """Write a file and return time and message by topic, decoded by Foxglove's reader of protobuf."""
    sink = open_sink(path, **settings)
    for row in rows:
        sink.write(row)
    sink.finish()
    sink.commit()
    topics: dict[str, list[tuple[int, Any]]] = {}
    with path.open("rb") as file:
        reader = mcap_reader.make_reader(
            file, validate_crcs=True, decoder_factories=[mcap_protobuf.DecoderFactory()]
        )
        for schema, channel, message in reader.iter_messages():
            assert schema is not None
            decoder = mcap_protobuf.DecoderFactory().decoder_for(channel.message_encoding, schema)
            decoded = json.loads(message.data) if decoder is None else decoder(message.data)
            topics.setdefault(f"{channel.topic} {schema.name}", []).append((message.log_time, decoded))
    return topics


def test_recording_has_foxgloves_messages_on_one_time_line(tmp_path: Path) -> None:
    rows = [
        replace(row, frame=replace(row.frame, stamp_ns=STAMP_NS + row.frame.index, frame_id="camera"))
        for row in results(3)
    ]
    topics = record(tmp_path / "a.mcap", rows)
    assert set(topics) == {
        "/saliency/overlay foxglove.CompressedImage",
        "/saliency/map foxglove.RawImage",
        "/saliency/regions foxglove.ImageAnnotations",
        "/saliency/metrics aerogaze.Metrics",
    }
    for messages in topics.values():
        assert [time_ns for time_ns, _ in messages] == [STAMP_NS, STAMP_NS + 1, STAMP_NS + 2]
    overlay = topics["/saliency/overlay foxglove.CompressedImage"][1][1]
    assert (overlay.format, overlay.frame_id, overlay.timestamp.ToNanoseconds()) == (
        "jpeg",
        "camera",
        STAMP_NS + 1,
    )
    picture = cv2.imdecode(np.frombuffer(overlay.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (180, 320, 3)
    saliency = topics["/saliency/map foxglove.RawImage"][0][1]
    assert (saliency.width, saliency.height, saliency.encoding, saliency.step) == (256, 144, "mono16", 512)
    assert np.frombuffer(saliency.data, "<u2").max() == 65535
    assert topics["/saliency/metrics aerogaze.Metrics"][0][1] == {
        "latency_ms": 12.5, "fps": 0, "dropped": 0, "held": 0, "regions": 2, "score": 0.8, "share": 0.4
    }  # fmt: skip


def test_regions_are_boxes_in_pixels_of_the_overlay(tmp_path: Path) -> None:
    topics = record(tmp_path / "a.mcap", results(1), source=SimpleNamespace(width=2560, height=1440))
    overlay = topics["/saliency/overlay foxglove.CompressedImage"][0][1]
    picture = cv2.imdecode(np.frombuffer(overlay.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[:2] == (720, 1280)
    regions = topics["/saliency/regions foxglove.ImageAnnotations"][0][1]
    followed, coasting = regions.points
    assert [(point.x, point.y) for point in followed.points] == [
        (320, 180),
        (960, 180),
        (960, 360),
        (320, 360),
    ]
    assert coasting.thickness < followed.thickness
    assert [text.text for text in regions.texts] == ["3  80%", "4  10%"]
    assert (followed.outline_color.b, followed.outline_color.a) == (1, 1)


def test_file_run_has_media_time_and_live_run_wall_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = record(tmp_path / "a.mcap", results(2))
    assert [time_ns for time_ns, _ in topics["/saliency/map foxglove.RawImage"]] == [0, 100_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 2_000_000_000)
    topics = record(tmp_path / "b.mcap", results(2), is_live=True)
    assert topics["/saliency/map foxglove.RawImage"][1][0] == 3_100_000_000


def test_recording_is_read_back_as_a_bag(tmp_path: Path) -> None:
    record(tmp_path / "a.mcap", results(5, frame_id="camera"))
    with pytest.raises(InputError, match=r"name one: bag:.*a.mcap#/saliency/map"):
        open_source(f"bag:{tmp_path / 'a.mcap'}")
    for topic, size in (("overlay", (320, 180)), ("map", (256, 144))):
        with closing(open_source(f"bag:{tmp_path / 'a.mcap'}#/saliency/{topic}")) as source:
            frames = list(source)
            assert (len(frames), (source.width, source.height)) == (5, size)
            assert source.fps == pytest.approx(10)
            assert frames[2].capture_s == pytest.approx(0.2)
            assert frames[2].frame_id == "camera"
            assert not find_damage(source)


def test_killed_run_leaves_all_whole_chunks(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "a.mcap", is_live=True)
    for row in results(42):
        sink.write(row)
    (left,) = tmp_path.glob(".a.*.mcap")
    shutil.copy(left, tmp_path / "left.mcap")  # as a kill would leave it: nothing is finished
    sink.discard()
    with closing(open_source(f"bag:{tmp_path / 'left.mcap'}#/saliency/overlay")) as source:
        frames = len(list(source))
        assert 30 <= frames <= 42
        assert "is cut off or damaged" in find_damage(source)[0]


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*a.bag: expected a name ending in .mcap"):
        open_sink(tmp_path / "a.bag")
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge.sinks.files.foxglove_messages", None)
    monkeypatch.delattr("edge.sinks.files.foxglove_messages", raising=False)
    with pytest.raises(InputError, match=r"needs the packages mcap .*: pip install 'aerogaze\[bags\]'"):
        open_sink(tmp_path / "a.mcap")


def test_almost_full_disk_ends_the_recording_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(tmp_path / "a.mcap")
    rows = results(31)
    for row in rows[:30]:
        sink.write(row)
    monkeypatch.setattr(mcap_recording, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="the recording ends after 30 frames"):
        sink.write(rows[30])
    sink.finish()
    sink.commit()
    with closing(open_source(f"bag:{tmp_path / 'a.mcap'}#/saliency/map")) as source:
        assert source.length == 30


def test_command_records_what_it_wrote(tmp_path: Path, command: Callable[..., Outcome]) -> None:
    out = tmp_path / "out.mcap"
    outcome = command("run", "synthetic:7:160x90:4", "--release", "skd-32", "--mcap", out)
    assert (outcome.code, f"wrote {out}" in outcome.out) == (0, True), outcome.err
    outcome = command("run", f"bag:{out}#/saliency/map", "--release", "skd-32", "--mcap", out)
    assert (outcome.code, "it is the source" in outcome.err) == (2, True)
