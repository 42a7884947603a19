"""Log lines as JSON, alone and for the journal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from edge.cli import json_log
from edge.core.run_status import RunInfo, Status
from tests.conftest import Outcome


@pytest.fixture(autouse=True)
def _text_afterwards() -> object:
    yield
    json_log.use(False)


def test_every_line_of_a_run_is_an_object(command: Callable[..., Outcome], video: Path) -> None:
    outcome = command("run", video, "--realtime", "--log", "json", "--http", "127.0.0.1:0", "--json")
    assert outcome.code == 0
    lines = [json.loads(line) for line in outcome.err.splitlines()]
    assert lines, "the address of the page"
    assert all(line["level"] in json_log.PRIORITIES for line in lines)
    assert lines[0]["message"].startswith("live page: http://127.0.0.1")
    assert datetime.fromisoformat(lines[0]["time"].replace("Z", "+00:00")).tzinfo is not None
    assert json.loads(outcome.out)["frames"] > 0


def test_errors_are_objects_too(command: Callable[..., Outcome], video: Path) -> None:
    outcome = command("run", "no-such-file.mp4", "--log", "json")
    line = json.loads(outcome.err)
    assert outcome.code == 2
    assert (line["level"], "no-such-file.mp4" in line["message"]) == ("error", True)
    assert command("run", "no-such-file.mp4").err.startswith("aerogaze: "), "text again"


def test_faults_have_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    from edge.cli.console import show_log
    from edge.core.run_status import LOG

    json_log.use(True)
    with show_log(LOG):
        status = Status(RunInfo("", "", "", ""), recovery_s=0)
        status.report_fault("source", 'no "frame"\nfor 1.5 s')
        status.report_recovery("source")
    fault, recovery = map(json.loads, capsys.readouterr().err.splitlines())
    assert (fault["level"], fault["kind"], fault["message"]) == ("warning", "source", 'no "frame"\nfor 1.5 s')
    assert (recovery["level"], recovery["kind"], recovery["message"]) == ("info", "source", "recovered")


def test_closed_standard_error_does_not_move_the_log_to_the_standard_output() -> None:
    program = (
        f'exec "{sys.executable}" -c \'from edge.cli import json_log; json_log.write_line("info", "x")\' 2>&-'
    )
    outcome = subprocess.run(["/bin/sh", "-c", program], stdout=subprocess.PIPE, check=True)
    assert outcome.stdout == b""


def test_journal_gets_the_priority_before_the_object() -> None:
    program = "from edge.cli import json_log; json_log.write_line('warning', 'hot')"
    read, write = os.pipe()
    status = os.fstat(write)
    for stream, prefix in ((f"{status.st_dev}:{status.st_ino}", b"<4>{"), ("1:2", b"{"), ("", b"{")):
        environment = {**os.environ, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", program], stderr=write, env=environment, check=True)
        assert os.read(read, 4096).startswith(prefix)
    os.close(read)
    os.close(write)
