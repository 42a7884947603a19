"""Several cameras in one run: names, outputs, and what cannot be."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.cli.run.cameras import Camera, output_path, parse_cameras
from edge.cli.run.open_camera import OpenCamera
from edge.core.errors import InputError
from edge.core.frames import Source
from edge.pipeline.run import RunHooks, RunSummary
from edge.sources import factory
from tests.conftest import Outcome
from tests.support.live_doubles import ScriptedCamera
from tests.support.waiting import aerogaze_threads

Run = Callable[..., Outcome]


def read_peaks(path: Path) -> list[object]:
    return [json.loads(line)["peaks"] for line in path.read_text().splitlines()]


def test_sources_are_named_by_the_user_or_by_their_number() -> None:
    assert parse_cameras(["a.mp4"]) == [Camera("", "a.mp4")]
    assert parse_cameras(["day=a.mp4"]) == [Camera("day", "a.mp4")]
    assert parse_cameras(["csi:0", "thermal=csi:1"]) == [
        Camera("camera1", "csi:0"),
        Camera("thermal", "csi:1"),
    ]


def test_file_whose_name_looks_like_a_named_source_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a=b.mp4"
    path.touch()
    assert parse_cameras([str(path)]) == [Camera("", str(path))]


def test_pipeline_of_a_named_camera_keeps_its_settings() -> None:
    source = "gst:videotestsrc pattern=ball ! x"
    assert parse_cameras([source, f"a={source}"]) == [Camera("camera1", source), Camera("a", source)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["day=csi:0", "day=csi:1"], "two sources have the name day"),
        (["csi:0", "camera1=csi:1"], "two sources have the name camera1"),
        ([f"csi:{index}" for index in range(5)], "5 sources; expected at most 4"),
        (["gst:videotestsrc", "!", "fakesink"], "more arguments than expected after gst:videotestsrc"),
        (["rtsp://me:SEC", "RET@host/x"], "more arguments than expected after rtsp://"),
    ],
)
def test_sources_that_do_not_fit_together_are_refused(sources: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_cameras(sources)
    assert message in str(error.value)
    assert "RET" not in str(error.value)


def test_name_takes_the_place_in_the_path_of_an_output() -> None:
    cameras = [Camera("day", "csi:0"), Camera("thermal", "csi:1")]
    path = Path("{camera}/o-{camera}.jsonl")
    assert output_path(path, "--jsonl", cameras[1], cameras) == Path("thermal/o-thermal.jsonl")
    assert output_path(path, "--jsonl", Camera("", "csi:0"), [Camera("", "csi:0")]) == path
    assert output_path(Path("o"), "--jsonl", cameras[0], cameras[:1]) == Path("o")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jsonl", "o.jsonl"], "put {camera} into its name, such as o-{camera}.jsonl"),
        (["--jsonl", "-"], "put {camera} into its name, such as saliency-{camera}"),
        (["--fov", "night=60"], "--fov names a camera night; expected one of day, thermal"),
        (["--rtp", "udp://127.0.0.1:9"], "give --rtp day=ADDRESS, another address for each camera"),
        (["--rtp", "day=udp://127.0.0.1:9", "--rtp", "thermal=udp://127.0.0.1:9"], "is one stream"),
        (["--fov", "day=190"], "190"),
    ],
)
def test_options_that_cannot_be_for_two_cameras_are_one_clear_line(
    command: Run, video: Path, arguments: list[str], message: str
) -> None:
    outcome = command("run", f"day={video}", f"thermal={video}", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


def test_two_files_give_the_maps_that_each_gives_alone(
    command: Run, video: Path, folder: Path, tmp_path: Path
) -> None:
    for name, source in (("a", video), ("b", folder)):
        assert command("run", source, "--jsonl", tmp_path / f"alone-{name}.jsonl").code == 0
    outcome = command("run", f"a={video}", f"b={folder}", "--jsonl", tmp_path / "{camera}.jsonl", "--json")
    assert outcome.code == 0, outcome.err
    cameras = json.loads(outcome.out)["cameras"]
    assert [(name, summary["source"]) for name, summary in cameras.items()] == [
        ("a", str(video)),
        ("b", str(folder)),
    ]
    for name in "ab":
        assert read_peaks(tmp_path / f"{name}.jsonl") == read_peaks(tmp_path / f"alone-{name}.jsonl")
    assert not aerogaze_threads()


def test_camera_that_fails_loses_its_outputs_and_the_other_one_goes_on(
    command: Run, video: Path, folder: Path, tmp_path: Path
) -> None:
    damaged = sorted(folder.iterdir())[6]
    cv2.imwrite(str(damaged), np.zeros((8, 8, 3), np.uint8))  # of another size: the folder ends here
    arguments = ("--jsonl", tmp_path / "{camera}.jsonl", "--overlay", tmp_path / "{camera}.mp4")
    outcome = command("run", f"bad={folder}", f"good={video}", *arguments)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("aerogaze: bad: ")
    assert "good: 12 frames" in outcome.out
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["good.jsonl", "good.mp4"]


def test_bug_in_one_camera_does_not_hide_the_summary_of_another(
    command: Run,
    video: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = OpenCamera.run

    def fail(camera: OpenCamera, stop: threading.Event, hooks: RunHooks) -> RunSummary:
        if camera.name == "bad":
            raise ZeroDivisionError("a bug")
        return run(camera, stop, hooks)

    monkeypatch.setattr(OpenCamera, "run", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("run", f"bad={folder}", f"good={video}")
    assert "good: 12 frames" in capfd.readouterr().out


def test_source_that_cannot_be_opened_refuses_the_run(command: Run, video: Path, tmp_path: Path) -> None:
    outcome = command("run", video, tmp_path / "missing.mp4", "--jsonl", tmp_path / "{camera}.jsonl")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "missing.mp4" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_camera_that_is_missing_at_the_start_joins_when_it_is_there(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempts: list[str] = []

    def open_source(name: str, *options: Any) -> Source:
        attempts.append(name)
        if name == "/dev/video77" and attempts.count(name) < 3:
            return factory.open_source(name, *options)  # there is no such device
        return ScriptedCamera(range(200))

    monkeypatch.setattr("edge.cli.run.options.open_source", open_source)
    outputs = ("--jsonl", tmp_path / "{camera}.jsonl", "--overlay", tmp_path / "{camera}.mkv")
    arguments = ("day=/dev/video76", "thermal=/dev/video77", *outputs, "--max-frames", 5, "--json")
    outcome = command("run", *arguments)
    assert outcome.code == 0, outcome.err
    assert "thermal: source: no camera /dev/video77" in outcome.err
    cameras = json.loads(outcome.out)["cameras"]
    assert (cameras["day"]["faults"], cameras["thermal"]["faults"]) == ({}, {"source": 1})
    assert len(read_peaks(tmp_path / "thermal.jsonl")) == cameras["thermal"]["frames"] > 0


def test_summary_names_a_camera_that_never_came(
    command: Run, video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = OpenCamera.run

    def stop_after(camera: OpenCamera, stop: threading.Event, hooks: RunHooks) -> RunSummary:
        try:
            return run(camera, stop, hooks)
        finally:
            if camera.name == "day":
                stop.set()

    monkeypatch.setattr(OpenCamera, "run", stop_after)
    outputs = ("--jsonl", tmp_path / "{camera}.jsonl")
    outcome = command("run", f"day={video}", "thermal=/dev/video77", *outputs)
    assert outcome.code == 0, outcome.err
    assert "day: 12 frames" in outcome.out
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("thermal: ")]
    assert re.fullmatch(r"thermal: no frames in [0-9.]+ s: no camera /dev/video77; .*", line)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["day.jsonl"]


def test_run_without_any_of_its_cameras_is_refused(command: Run, tmp_path: Path) -> None:
    outcome = command("run", "/dev/video76", "/dev/video77", "--jsonl", tmp_path / "{camera}.jsonl")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "/dev/video76" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_config_file_lists_the_sources(command: Run, video: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'source = ["day={video}", "thermal={video}"]\njsonl = "{tmp_path}/{{camera}}.jsonl"\n')
    assert command("run", "--config", config).code == 0
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"day.jsonl", "thermal.jsonl"}


def test_source_in_the_environment_is_one_source_with_spaces(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_SOURCE", "no such file.mp4")
    assert "no source 'no such file.mp4'" in command("run").err
