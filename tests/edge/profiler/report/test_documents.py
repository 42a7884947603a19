"""What a measurement is good for afterwards: compared, kept, held to a budget, drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import InputError
from edge.profiler.report import budget, documents, history
from edge.profiler.report.compare import other_conditions
from edge.profiler.report.html import page
from tests.conftest import Outcome

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One real measurement for all tests of this file."""
    from edge.cli.main import run_cli

    path = tmp_path_factory.mktemp("profile") / "a.json"
    words = ["profile", "--precision", "fp32,int8", "--layers", "--no-history", "--threads", "1"]
    assert run_cli([*words, "--json", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def slower(document: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same measurement as if int8 had been `factor` times as slow."""
    other = deepcopy(document)
    row = other["latencies"][1]
    row["times_ms"] = [[value * factor for value in turn] for turn in row["times_ms"]]
    row["p50_ms"] *= factor
    other["created"] = "2999-01-01T00:00:00+00:00"
    return other


def test_a_row_has_all_that_was_promised(measured: dict[str, Any]) -> None:
    for row in measured["latencies"]:
        assert row["runs"] == sum(map(len, row["times_ms"])) >= 300
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p99_9_ms"] <= row["max_ms"]
        low, high = row["intervals"]["p50_ms"]
        assert low <= row["p50_ms"] <= high
        assert row["load_ms"] > 0 < row["first_call_ms"]
        assert row["accuracy"]["cc"] > 0.99
        assert row["energy"] or "power" in row["energy_why"] or "RAPL" in row["energy_why"]
        assert row["gpu"] is None
        assert "no GPU of ours: onnxruntime" in row["gpu_why"]
    fp32, int8 = measured["latencies"]
    assert fp32["accuracy"]["kld"] < int8["accuracy"]["kld"] < 0.01
    assert measured["stages"]["preprocess_ms"] > 0
    assert measured["overhead_us"] < 5
    assert measured["machine"]["cores"] >= 1


def test_layers_are_of_the_students_parts(measured: dict[str, Any]) -> None:
    timed = measured["layers"]
    for row in timed.values():
        assert set(row["parts_ms"]) == {"trunk", "spatial", "temporal", "decoder"}
        assert sum(layer["share"] for layer in row["layers"]) == pytest.approx(1)
        assert len(row["slowest"]) == 10
    kinds = {layer["kind"] for layer in timed["int8"]["layers"]}
    assert {"compute", "quantise", "dequantise"} <= kinds
    precisions = {layer["precision"] for layer in timed["int8"]["layers"] if layer["op"] == "QLinearConv"}
    assert precisions == {"int8"}
    assert {layer["precision"] for layer in timed["fp32"]["layers"]} == {"fp32"}


def test_two_measurements_are_compared(measured: dict[str, Any], tmp_path: Path, command: Command) -> None:
    documents.write(measured, tmp_path / "a.json")
    documents.write(slower(measured, 1.6), tmp_path / "b.json")
    outcome = command(
        "profile", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c"
    )
    assert outcome.code == 0, outcome.err
    assert re.search(r"int8: slower, \d+\.\d% sure: .* 1\.600x \[", outcome.out)
    verdicts = {one["name"]: one for one in json.loads((tmp_path / "c").read_text())["verdicts"]}
    assert verdicts["int8"]["verdict"] == "slower"
    assert verdicts["fp32"]["verdict"] != "slower"


def test_other_conditions_are_named(measured: dict[str, Any], tmp_path: Path, command: Command) -> None:
    other = deepcopy(measured)
    other["machine"]["power_mode"], other["conditions"]["throttled"] = "15W", ["cpu-throttle-alert"]
    other["graphs_sha256"] = {"int8": "0" * 64}  # and fp32 was not measured
    documents.write(measured, tmp_path / "a.json")
    documents.write(other, tmp_path / "b.json")
    outcome = command("profile", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert [line for line in outcome.out.splitlines() if "graph" in line] == [
        "  differs: int8: another graph"
    ]
    assert "differs: power mode: None and 15W" in outcome.out
    assert "the second was throttled: cpu-throttle-alert" in outcome.out


def test_another_engine_other_clocks_and_a_drift_are_named(measured: dict[str, Any]) -> None:
    one, other = deepcopy(measured), deepcopy(measured)
    one["conditions"]["timeline"][0]["clocks_mhz"] = {"gpu": 918.0, "cpu0": 1500.0}
    other["conditions"]["timeline"][0]["clocks_mhz"] = {"gpu": 612.0, "cpu0": 1510.0, "cpu1": 700.0}
    other["latencies"][1] |= {"engine": "tensorrt 10.3.0, Orin", "steady": False}
    told = list(other_conditions(one, other))
    assert f"int8: on {one['latencies'][1]['engine']} and tensorrt 10.3.0, Orin" in told
    assert "gpu: 918 and 612 MHz" in told
    assert "int8: the second was not steady" in told
    assert not any("cpu" in line for line in told if "MHz" in line)


def test_a_comparison_measures_nothing(measured: dict[str, Any], tmp_path: Path, command: Command) -> None:
    documents.write(measured, tmp_path / "a.json")
    words = ["profile", "--compare", tmp_path / "a.json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    outcome = command(*words)
    assert outcome.code == 2
    assert "leave --html and --budget out" in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "cannot be read as JSON"),
        ('{"schema": 1}', "has schema 1; this aerogaze reads measurements of schema 2"),
        ('{"schema": 2}', "is no whole measurement"),
        ('{"schema": 2, "latencies": [{}]}', "is no whole measurement"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path: Path, command: Command, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    outcome = command("profile", "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_history_is_kept_for_each_board(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path))
    history.keep(measured)
    later, board = slower(measured, 1.6), deepcopy(measured)
    board["machine"]["board"] = "NVIDIA Jetson Orin Nano"
    assert [one["created"] for one in history.earlier(later)] == [measured["created"]]
    assert history.earlier(board) == []
    monkeypatch.setattr(history, "KEPT", 2)
    for day in range(1, 5):
        history.keep({**measured, "created": f"2998-01-0{day}T00:00:00+00:00"})
    assert len(list(history.folder_of(measured).iterdir())) == 2
    next(history.folder_of(measured).iterdir()).write_text("half")
    assert len(history.earlier(later)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99_ms = 10000\ncc = 0.5", None),
        ("[fp32]\np99_ms = 0.0001", "fp32 p99_ms is"),
        ("[int8]\ncc = 0.99999999", "int8 cc is"),
        ("mean_ms = 0.0001\n[int8]\nmean_ms = 10000", "fp32 mean_ms is"),
        ("[fp16]\ncc = 0.9", "fp16 was not measured"),
    ],
)
def test_a_budget_names_what_breaks_it(
    measured: dict[str, Any], tmp_path: Path, text: str, said: str | None
) -> None:
    (tmp_path / "budget.toml").write_text(text)
    told = list(budget.broken(budget.read(tmp_path / "budget.toml"), measured))
    assert [line.startswith(said or "") for line in told] == ([True] if said else [])


def test_power_that_nobody_measured_breaks_a_budget(measured: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text("power_w = 7")
    document = deepcopy(measured)
    document["latencies"][0].update(energy=None, energy_why="no meter")
    document["latencies"][1].update(energy={"power_w": 6.5})
    told = list(budget.broken(budget.read(tmp_path / "budget.toml"), document))
    assert told == ["fp32 power_w was not measured: no meter"]


@pytest.mark.parametrize("text", ["p95_ms = 3", "p99_ms = 'fast'", "p99_ms =", "p99_ms = nan", "cc = inf"])
def test_a_wrong_budget_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.toml").write_text(text)
    with pytest.raises(InputError, match=r"is no bound; expected numbers for p99_ms|is no TOML"):
        budget.read(tmp_path / "budget.toml")


@pytest.mark.parametrize("text", ["", "[int8]"])
def test_a_budget_without_a_bound_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.toml").write_text(text)
    with pytest.raises(InputError, match="has no bound; expected lines such as p99_ms = 5"):
        budget.read(tmp_path / "budget.toml")


def test_the_page_needs_nothing_beside_it(measured: dict[str, Any]) -> None:
    document = deepcopy(measured)
    document["release"] = "<b>"
    point = {"clocks_mhz": {"cpu 0": 1510.0}, "throttled": ["cpu-throttle-alert"]}
    document["conditions"]["timeline"] = [
        {"t_s": float(at), "temperatures_c": {"tj-thermal": 50.0 + at}, **point} for at in range(4)
    ]
    document["conditions"]["throttled"] = ["cpu-throttle-alert"]
    told = page(document, [measured])
    assert not re.findall(r"""(?:src|href)=|url\(|<script""", told)
    assert "<b>" not in told
    assert "Throttled while measured: cpu-throttle-alert." in told
    assert "nan" not in told
    assert measured["latencies"][0]["engine"] in told
    for words in ("Pareto", "Distributions", "Temperatures", "Clocks", "s parts", "history"):
        assert words in told
