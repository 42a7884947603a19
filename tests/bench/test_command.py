"""The command of the benchmark: exit codes, errors and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench.measurement.row import AnyBenchmark, Reading, Readings


def _offer(monkeypatch: pytest.MonkeyPatch, folder: Path, *values: float) -> None:
    """Make every theme one reading per value, whose bound is 2 at most; run in an empty folder."""

    def load(_theme: str) -> Sequence[AnyBenchmark]:
        readings = [
            Reading(f"files left {i}", v, "", 2, at_least=False, spread=0) for i, v in enumerate(values)
        ]
        return (Readings("files", 1, lambda _folder: iter(readings)),)

    monkeypatch.setattr(command, "load_benchmarks", load)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AEROGAZE_CACHE", str(folder / "cache"))


def test_only_a_broken_bound_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _offer(monkeypatch, tmp_path, 1, 3)
    assert command.main(["--theme", "profiler"]) == 1
    out = capsys.readouterr().out
    assert "bounds: kept 1, broken 1, undecided 0; wrote out/bench.json and " in out
    assert out.endswith("  files left 1: 3, at most 2: broken\n")
    _offer(monkeypatch, tmp_path, 1)
    assert command.main(["profiler"]) == 0


def test_verdicts_of_other_themes_stay_in_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _offer(monkeypatch, tmp_path, 1)
    command.main(["profiler"])
    command.main(["sinks"])
    themes = json.loads((tmp_path / "out/bench.json").read_text())["themes"]
    assert {theme: [row["verdict"] for row in each["rows"]] for theme, each in themes.items()} == {
        "profiler": ["kept"],
        "sinks": ["kept"],
    }
    (history,) = (tmp_path / "cache/bench").iterdir()
    assert [json.loads(line)["theme"] for line in history.read_text().splitlines()] == ["profiler", "sinks"]


def test_list_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _offer(monkeypatch, tmp_path, 3)
    assert command.main(["--list", "profiler"]) == 0
    assert capsys.readouterr().out == "profiler: files, at most 1 s\nall: at most 1 s\n"


def test_unknown_theme_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["speed"]) == 2
    assert capsys.readouterr().err.startswith("error: no theme speed; expected some of students, ")


@pytest.mark.parametrize("words", [["--within", "0"], ["--time", "-1"], ["--compare", "HEAD"]])
def test_wrong_options_end_with_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(words)
    assert error.value.code == 2
    assert "usage: python -m tests.bench" in capsys.readouterr().err
