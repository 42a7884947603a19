"""The report: one screen of text, JSON without private names, exit codes."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.diagnostics.finding import Finding
from edge.diagnostics.report import WIDTH, Redactor, Report
from tests.conftest import Outcome

LONG = "a text of many words that does not fit into one line of a terminal, " * 3
LINES = 45
"""Lines of a screen."""


def test_report_fits_a_screen_and_names_a_fix_for_each_lack(
    command: Callable[..., Outcome],
) -> None:
    outcome = command("doctor")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) <= LINES
    assert lines[-1].startswith("aerogaze runs here on ONNX Runtime")
    assert sum(line.split()[:1] == ["lacks"] for line in lines) <= sum("fix: " in line for line in lines)


def test_json_has_no_name_of_the_user_or_the_machine(command: Callable[..., Outcome]) -> None:
    outcome = command("doctor", "--json")
    document = json.loads(outcome.out)
    assert (document["schema"], document["can_run"]) == (1, True)
    assert list(document["sections"]) == ["Software", "GPU", "Machine"]
    for finding in (row for rows in document["sections"].values() for row in rows):
        assert list(finding) == ["subject", "state", "text", "remedy"]
    assert str(Path.home()) + "/" not in outcome.out
    private = {socket.gethostname(), getpass.getuser()} - {"root", "localhost", "aerogaze"}
    assert not [name for name in private if name in outcome.out.split()]


def test_private_names_are_replaced_in_each_text() -> None:
    redact = Redactor(Path("/home/jane"), {"jane": "USER", "falcon-7": "HOST", "root": "USER"})
    text = "/home/jane/.venv/x.so: jane@falcon-7, group root; /home/other/y: janet, $USER"
    assert redact(text) == "~/.venv/x.so: USER@HOST, group root; /home/USER/y: janet, $USER"


def test_user_without_a_home_folder_gets_a_report() -> None:
    # As in a container that runs as a user without an entry in /etc/passwd.
    code = (
        "import sys; from pathlib import Path\n"
        "def fail(): raise RuntimeError('Could not determine home directory.')\n"
        "Path.home = fail\n"
        "from edge.cli.main import run_cli; sys.exit(run_cli(['doctor', '--json']))"
    )
    hidden = ("AEROGAZE_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "export AEROGAZE_CACHE=DIR" in result.stdout


def test_report_wraps_texts_and_counts_lacks() -> None:
    report = Report({"Software": [Finding("Python", "ok", LONG), Finding("OpenCV", "lacks", "no", LONG)]})
    lines = list(report.lines())
    assert max(map(len, lines)) <= WIDTH
    assert lines[-1] == "aerogaze runs here on ONNX Runtime; lacks: 1"
    assert report.can_run


def test_failure_means_that_nothing_runs() -> None:
    report = Report({"Software": [Finding("numpy", "fails", "missing", "pip install numpy")]})
    assert not report.can_run
    assert list(report.lines())[-1] == "aerogaze cannot run here: repair what fails"


@pytest.mark.parametrize("module", ["numpy", "cv2", "onnxruntime"])
def test_doctor_works_where_a_package_is_missing(module: str) -> None:
    # None in sys.modules makes an import fail, as if the package was not installed.
    code = (
        f"import sys; sys.modules[{module!r}] = None; "
        "from edge.cli.main import run_cli; sys.exit(run_cli(['doctor']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "fails" in result.stdout
    assert "pip install --upgrade" in result.stdout
    assert result.stderr.endswith("aerogaze: this machine cannot run aerogaze: repair what fails\n")
