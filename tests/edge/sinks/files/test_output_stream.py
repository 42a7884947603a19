from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.sinks.files.jsonl import JsonlSink
from edge.sinks.files.output_stream import is_stream, standard_stream
from tests.conftest import Outcome

RUN = [sys.executable, "-m", "edge.cli.main", "run", "synthetic:3:160x96:4", "--precision", "fp32", "--jsonl"]


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_json_lines_stream_to_the_standard_output(name: str, tmp_path: Path) -> None:
    outcome = subprocess.run([*RUN, name], capture_output=True, text=True, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert [json.loads(line)["frame"] for line in outcome.stdout.splitlines()] == [0, 1, 2, 3]
    assert "4 frames in" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_standard_output_that_is_a_file_holds_the_lines(tmp_path: Path) -> None:
    with (tmp_path / "o.jsonl").open("w") as file:
        file.write("before\n")
        file.flush()
        subprocess.run([*RUN, "/dev/stdout"], stdout=file, stderr=subprocess.PIPE, check=True)
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert lines[0] == "before"
    assert len(lines) == 5


def test_json_lines_go_to_a_named_pipe_that_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="nobody reads it; start its reader first"):
        JsonlSink(pipe)
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    received: list[bytes] = []
    with open(handle, "rb") as reader:
        sink = JsonlSink(pipe)
        thread = threading.Thread(target=lambda: received.append(reader.read()))
        thread.start()
        sink.finish()
        sink.commit()
        thread.join(10)
    assert received == [b""]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_reader_that_has_read_enough_ends_the_command_quietly(name: str) -> None:
    command = [part.replace(":4", ":4000") for part in RUN]
    with subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["frame"] == 0
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_summary_and_lines_cannot_share_the_standard_output(command: Callable[..., Outcome]) -> None:
    outcome = command("run", "synthetic:3:160x96:4", "--jsonl", "-", "--json")
    assert outcome.code == 2
    assert "both write to the standard output" in outcome.err


@pytest.mark.parametrize(
    ("name", "expected"),
    [("-", 1), ("/dev/stdout", 1), ("/dev/stderr", 2), ("/dev/fd/1", 1), ("/proc/self/fd/2", 2), ("o", None)],
)
def test_names_of_standard_streams(name: str, expected: int | None) -> None:
    assert standard_stream(Path(name)) == expected
    assert is_stream(Path(name)) == (expected is not None)
    assert is_stream(Path("/dev/null"))
