"""Command line: outputs, messages and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edge.cli.main import COMMANDS
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def test_run_writes_all_outputs(command: Command, video: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "o.mp4", tmp_path / "o.jsonl", tmp_path / "maps"]
    outcome = command("run", video, "--overlay", paths[0], "--jsonl", paths[1], "--maps", paths[2])
    assert outcome.code == 0, outcome.err
    assert "12 frames" in outcome.out
    assert all(f"wrote {path}" in outcome.out for path in paths)
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 12
    assert len(list((tmp_path / "maps").iterdir())) == 12
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["maps", "o.jsonl", "o.mp4"]


def test_run_prints_its_summary_as_json(command: Command, folder: Path) -> None:
    outcome = command("run", folder, "--max-frames", "3", "--precision", "fp32", "--json")
    summary = json.loads(outcome.out)
    assert (summary["frames"], summary["release"], summary["precision"]) == (3, "skd-64-motion", "fp32")


def test_truncated_video_keeps_its_maps_and_prints_a_warning(
    command: Command, video: Path, tmp_path: Path
) -> None:
    truncated = tmp_path / "truncated.avi"
    truncated.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    outcome = command("run", truncated, "--jsonl", tmp_path / "o.jsonl")
    count = len((tmp_path / "o.jsonl").read_text().splitlines())
    assert outcome.code == 0
    assert 3 < count < 12
    assert f"the file is cut: it ends at frame {count} of the 12 it announces" in outcome.err


def test_profile_writes_latencies_and_conditions(command: Command, tmp_path: Path) -> None:
    outcome = command("profile", "--precision", "int8,fp32", "--runs", "300", "--json", tmp_path / "l.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "l.json").read_text())
    assert [row["precision"] for row in document["latencies"]] == ["int8", "fp32"]
    for row in document["latencies"]:
        assert row["runs"] >= 300
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["fps"] == pytest.approx(1e3 / row["mean_ms"])
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["onnxruntime"]


INVALID = [
    (["run", "missing.mp4"], "no source 'missing.mp4'; expected a video file"),
    (["run", "{video}", "--release", "nonsense"], "no release 'nonsense'"),
    (["run", "{video}", "--precision", "int4"], "unknown precision 'int4'"),
    (["run", "{video}", "--overlay", "/proc/none/o.mp4"], "cannot write /proc/none/o.mp4"),
    (["run", "{video}", "--maps", "{tmp}"], "which was not written by aerogaze"),
    (["run", "{video}", "--overlay", "{video}"], "it is the source or another output"),
    (["run", "{video}", "--jsonl", "o", "--maps", "./o"], "it is the source or another output"),
    (["run", "{video}", "--max-frames", "0"], "0 is not in the range"),
    (["run"], "Missing argument 'SOURCE...'"),
    (["run", "{video}", "--colour"], "No such option"),
    (["flap"], "No such command 'flap'"),
    (["profile", "--form", "pair"], "has no graph in pair form"),
    (["profile", "--precision", "fp32,fp64"], "unknown precision 'fp64'"),
]


@pytest.mark.parametrize(("arguments", "message"), INVALID, ids=[" ".join(row[0]) for row in INVALID])
def test_invalid_input_is_one_clear_line(
    command: Command, video: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "mine.txt").touch()
    names = {"{video}": str(video), "{tmp}": str(tmp_path)}
    outcome = command(*(names.get(word, word) for word in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.startswith("aerogaze: ")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_images_of_different_sizes_leave_no_output(command: Command, folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(folder / "9.png"), np.zeros((90, 160, 3), np.uint8))
    out = tmp_path / "out"
    outcome = command(
        "run",
        folder,
        "--maps",
        out / "maps",
        "--jsonl",
        out / "o.jsonl",
        "--overlay",
        out / "o.mp4",
    )
    assert outcome.code == 2
    assert "9.png is 160x90, the first image is 320x180" in outcome.err
    assert not out.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert f"Example: aerogaze {name}" in " ".join(outcome.out.split())


def test_run_imports_no_training_package(video: Path) -> None:
    code = (
        "import sys; from edge.cli.main import invoke; "
        f"invoke(['run', {str(video)!r}]); "
        "print(sorted({'torch', 'onnx', 'lightning', 'pydantic', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_package_that_is_missed_at_work_is_named_with_its_extra() -> None:
    # None in sys.modules makes an import fail, as if the package was not installed.
    code = (
        "import sys; sys.modules['torch'] = None; from edge.cli.main import run_cli; "
        "sys.exit(run_cli(['evaluate', 'skd-64', '--dataset', 'twins']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == (
        "aerogaze: aerogaze evaluate needs torch, which is not installed: pip install 'aerogaze[train]'\n"
    )


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from edge.cli.main import aerogaze; aerogaze.main(['--help'], standalone_mode=False); "
        "print(sorted({'numpy', 'cv2', 'onnxruntime', 'rich', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_run_writes_no_telemetry(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))}
    arguments = [sys.executable, "-m", "edge.cli.main", "run", "synthetic:1:320x180:5"]
    result = subprocess.run(
        arguments, env={**environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert not [*tmp_path.rglob("*")], "ONNX Runtime stores its telemetry in ~/.cache/Microsoft"


@pytest.mark.parametrize(
    ("numbers", "pause_s"),
    [
        ((signal.SIGINT,), 0),
        ((signal.SIGTERM,), 0),
        ((signal.SIGHUP,), 0),
        ((signal.SIGINT, signal.SIGINT), 0.001),
        ((signal.SIGINT, signal.SIGINT), 0.1),
        ((signal.SIGTERM, signal.SIGTERM), 0.001),
        ((signal.SIGTERM, signal.SIGTERM), 0.1),
    ],
)
def test_signal_ends_a_run_cleanly(
    tmp_path: Path, numbers: tuple[signal.Signals, ...], pause_s: float
) -> None:
    arguments = [
        "run",
        "synthetic:1:320x180:3000",
        "--maps",
        str(tmp_path / "m"),
        "--jsonl",
        str(tmp_path / "o.jsonl"),
    ]
    # Under nohup, or in the background of a script, the tests would start programs that ignore some signals.
    with_default_signals = ["env", "--default-signal=HUP,INT,TERM"]
    process = subprocess.Popen(
        [*with_default_signals, sys.executable, "-m", "edge.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2000):
            if len(list(tmp_path.glob(".m.*/*.png"))) >= 3:
                break
            time.sleep(0.05)
        for number in numbers:
            process.send_signal(number)
            time.sleep(pause_s)
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0
    count = len((tmp_path / "o.jsonl").read_text().splitlines())
    assert f"interrupted: kept the {count} frames" in err
    assert len(list((tmp_path / "m").iterdir())) == count
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m", "o.jsonl"]


def test_empty_scene_reports_no_region_unless_every_score_counts(command: Command, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for index in range(4):
        noise = np.clip(random.normal(128, 20, (96, 160)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "noise" / f"{index}.png"), noise)
    for options, expected in (((), 0), (("--min-score", "0"), 1)):
        arguments = (
            "run",
            tmp_path / "noise",
            "--release",
            "skd-64",
            "--jsonl",
            tmp_path / "o.jsonl",
            *options,
        )
        assert command(*arguments).code == 0
        last = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[-1])
        assert min(1, len(last["regions"])) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min-score", "1.5"), "1.5 is not in the range 0<=x<=1"),
        (("--blur", "nan"), "nan is not in the range 0<=x<="),
        (("--fps", "nan"), "nan is not in the range"),
        (("--fov", "nan"), "nan is not in the range 0<x<180"),
        (("--threads", "9999"), "9999 is not in the range 1<=x<=256"),
        (("--http-token", "a-token-of-mine"), "--http-token has no effect without --http: give both options"),
        (("--mavlink-system", "5"), "--mavlink-system has no effect without --mavlink: give both options"),
        (("--jsonl", ""), "empty value after --jsonl: give a value, or leave it out"),
        (("--jsonl=",), "empty value after --jsonl="),
        (("",), "empty value after synthetic:1:320x180:2"),
    ],
)
def test_meaningless_option_is_rejected(command: Command, arguments: tuple[str, ...], message: str) -> None:
    outcome = command("run", "synthetic:1:320x180:2", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('jsonl = ""', "jsonl is empty; expected a value"),
        ('http-token = "a-token-of-mine"', "--http-token has no effect without --http: give both options"),
        ("fps = nan", "nan is not in the range"),
    ],
)
def test_meaningless_option_in_a_config_file_is_rejected(
    command: Command, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "run.toml").write_text(f'source = "synthetic:1:320x180:2"\n{line}\n')
    outcome = command("run", "--config", tmp_path / "run.toml")
    assert outcome.code == 2
    assert message in outcome.err


def test_token_in_the_environment_is_allowed_without_a_page(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_HTTP_TOKEN", "a-token-of-mine")
    assert command("run", "synthetic:1:320x180:2").code == 0


def test_call_without_a_command_shows_the_help(command: Command) -> None:
    outcome = command()
    assert outcome.code == 2
    assert "Fly:\n" in outcome.err


def test_file_names_with_brackets_are_printed_verbatim(command: Command, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip[bold] 12:00.avi"
    path.write_bytes(video.read_bytes())
    outcome = command("run", path, "--jsonl", tmp_path / "[red]o.jsonl")
    assert outcome.code == 0, outcome.err
    assert f"wrote {tmp_path}/[red]o.jsonl" in outcome.out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ImportError("numpy.core.multiarray failed to import"),
            "it was built for another version of NumPy. Install the NumPy that it was built for",
        ),
        (
            ImportError("libGL.so.1: cannot open shared object file"),
            "a package that it needs (libGL.so.1: cannot open shared object file): aerogaze doctor",
        ),
        (ModuleNotFoundError("No module", name="cv2"), "needs cv2, which is not installed: aerogaze doctor"),
    ],
)
def test_package_that_cannot_be_imported_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: ImportError, message: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("edge.cli.main.importlib", SimpleNamespace(import_module=fail))
    outcome = command("run", "synthetic:1:320x180:2")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert message in outcome.err


def test_own_module_that_cannot_be_imported_is_a_bug(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError("cannot import name 'x'", name="edge.core")

    monkeypatch.setattr("edge.cli.main.importlib", SimpleNamespace(import_module=fail))
    with pytest.raises(ImportError, match="cannot import name"):
        command("run", "synthetic:1:320x180:2")
