"""Options of `aerogaze run` for one camera: to which size the source may shrink what the CPU gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.cli.run.options import RunOptions
from edge.core.errors import InputError
from edge.core.frames import DeviceRequest, Source
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.preprocessing.transform import Alignment, Preprocessing
from tests.conftest import Outcome

Run = Callable[..., Outcome]
Sizes = Callable[..., tuple[Any, Any]]
SMALL = (64, 64)
SMALL_FOR_MOTION = (256, 144)


@pytest.fixture
def sizes(command: Run, monkeypatch: pytest.MonkeyPatch) -> Sizes:
    """Return a function that runs and returns the least sizes of frames and of pictures beside GPU frames."""
    asked: list[tuple[Any, Any]] = []

    def open_source(
        name: str, min_size: Any, live: Any, fps: Any, device: DeviceRequest | None = None
    ) -> Source:
        asked.append((min_size, device and device.min_picture))
        raise InputError("it is not opened")

    def run(*arguments: object, alignment: bool = False, raw: bool = False) -> tuple[Any, Any]:
        release = SimpleNamespace(
            preprocessing=Preprocessing(64, 64, alignment=Alignment(0.3) if alignment else None),
            raw_frame=RawFrameSpec(1280, 720, "nv12") if raw else None,
        )
        model = SimpleNamespace(release=release, takes_device_frames=raw, close=lambda: None)
        monkeypatch.setattr(RunOptions, "open_model", lambda options: model)
        assert "it is not opened" in command("run", *arguments).err
        return asked[-1]

    monkeypatch.setattr("edge.cli.run.options.open_source", open_source)
    return run


@pytest.mark.parametrize(
    ("source", "options", "still", "moving"),
    [
        ("csi:0", [], SMALL, SMALL_FOR_MOTION),
        ("csi:0", ["--full-frames"], SMALL, None),
        ("csi:0", ["--http", "127.0.0.1:0"], None, None),
        ("hw:VIDEO", [], SMALL, None),
        ("hw:VIDEO", ["--small-frames"], SMALL, SMALL_FOR_MOTION),
        ("hw:VIDEO", ["--small-frames", "--overlay", "FOLDER/o.mkv"], None, None),
    ],
)
def test_picture_beside_a_frame_on_the_gpu_is_small_if_nobody_needs_it_or_it_may_be_small(
    sizes: Sizes, source: str, options: list[str], still: Any, moving: Any, video: Path, tmp_path: Path
) -> None:
    arguments = [
        word.replace("VIDEO", str(video)).replace("FOLDER", str(tmp_path)) for word in (source, *options)
    ]
    assert sizes(*arguments, raw=True) == (None, still)
    assert sizes(*arguments, raw=True, alignment=True) == (None, moving)


def test_frames_in_the_memory_of_the_cpu_are_small_in_real_time(sizes: Sizes, video: Path) -> None:
    small = Preprocessing(64, 64).min_source_size
    assert sizes("csi:0") == (small, None)
    assert sizes("csi:0", "--full-frames") == (None, None)
    assert sizes("csi:0", "--rtp", "udp://127.0.0.1:9") == (None, None)
    assert sizes(video) == (None, None)
    assert sizes(video, "--small-frames") == (small, None)
