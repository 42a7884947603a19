from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome


def test_options_come_from_the_file_and_the_command_line_takes_precedence(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'source = "synthetic:7:128x96:5"\nmax-frames = 4\njson = true\njsonl = "{tmp_path}/o.jsonl"'
    )
    summary = json.loads(command("run", "--config", config).out)
    assert (summary["frames"], summary["source"]) == (4, "synthetic:7:128x96:5")
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 4
    summary = json.loads(command("run", "synthetic:8:128x96", "--config", config, "--max-frames", 2).out)
    assert (summary["frames"], summary["source"]) == (2, "synthetic:8:128x96:100")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sorce = "x"', "unknown key 'sorce'; expected some of "),
        ("[run]", "unknown key 'run'"),
        ('config = "x"', "unknown key 'config'"),
        ("source = true", "source is of type bool; expected text or a number"),
        ('source = [["rtsp://me:secret@cam/x"]]', "source is of type list; expected text or a number"),
        ('source = "synthetic:7"\nrealtime = "yes"', "realtime is of type str; expected true or false"),
        ('source = "synthetic:7"\nmax_frames = "many"', "Invalid value for '--max-frames': 'many'"),
        ("source = ", "run.toml is not valid TOML: "),
    ],
)
def test_invalid_file_is_one_clear_line(
    command: Callable[..., Outcome], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "run.toml").write_text(text)
    outcome = command("run", "--config", tmp_path / "run.toml")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_missing_file_is_one_clear_line(command: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = command("run", "--config", tmp_path / "none.toml")
    assert outcome.code == 2
    assert "none.toml: No such file" in outcome.err
