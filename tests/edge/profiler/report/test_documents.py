"""Documents of profiles: their content, comparison, history, budget and report."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edge.core.errors import InputError
from edge.profiler.measurement.machine_load import describe_busy_machine
from edge.profiler.report import history
from edge.profiler.report.budget import find_violations, read_budget
from edge.profiler.report.compare import differing_conditions
from edge.profiler.report.documents import write_document
from edge.profiler.report.history import board_folder, latest_baseline, load_history, save_to_history
from edge.profiler.report.html import render_page
from edge.profiler.report.table import render_tables
from tests.conftest import Outcome

Command = Callable[..., Outcome]
CREATED_LATER = "2999-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One real document for all tests of this module."""
    from edge.cli.main import run_cli

    path = tmp_path_factory.mktemp("profile") / "a.json"
    words = ["profile", "--precision", "fp32,int8", "--layers", "--no-history", "--threads", "1"]
    assert run_cli([*words, "--json", str(path)]) == 0
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@pytest.fixture
def quiet(measured: dict[str, Any]) -> dict[str, Any]:
    """The document with times as on a quiet machine, so that verdicts do not depend on this one."""
    document = deepcopy(measured)
    document["conditions"]["others_cores"] = 0.0
    for seed, row in enumerate(document["latencies"]):
        rng = np.random.default_rng(seed)
        row["times_ms"] = (row["p50_ms"] * rng.normal(1, 0.01, (15, 20))).tolist()
        row["turns_at_s"] = [0.1 * turn for turn in range(15)]
    return document


def slow_down_int8(document: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return a later document in which int8 takes `factor` times as long."""
    other = deepcopy(document)
    row = other["latencies"][1]
    row["times_ms"] = [[value * factor for value in turn] for turn in row["times_ms"]]
    row["p50_ms"] *= factor
    other["created"] = CREATED_LATER
    return other


def test_row_has_all_documented_values(measured: dict[str, Any]) -> None:
    for row in measured["latencies"]:
        assert row["runs"] == sum(map(len, row["times_ms"])) >= 300
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p99_9_ms"] <= row["max_ms"]
        low, high = row["intervals"]["p50_ms"]
        assert low <= row["p50_ms"] <= high
        assert row["load_ms"] > 0 < row["first_call_ms"]
        assert row["accuracy"]["cc"] > 0.99
        assert row["energy"] or "power" in row["energy_why"] or "RAPL" in row["energy_why"]
        assert row["gpu"] is None
        assert "not timed on a GPU: onnxruntime" in row["gpu_why"]
    fp32, int8 = measured["latencies"]
    assert fp32["accuracy"]["kld"] < int8["accuracy"]["kld"] < 0.01
    assert measured["stages"]["preprocess_ms"] > 0
    assert measured["overhead_us"] > 0
    assert measured["machine"]["cores"] >= 1


def test_layers_are_assigned_to_the_parts_of_the_student(measured: dict[str, Any]) -> None:
    layers = measured["layers"]
    for row in layers.values():
        assert set(row["parts_ms"]) - {"input"} == {"trunk", "spatial", "temporal", "decoder"}
        assert sum(layer["share"] for layer in row["layers"]) == pytest.approx(1)
        assert len(row["slowest"]) == 10
    kinds = {layer["kind"] for layer in layers["int8"]["layers"]}
    assert {"compute", "quantise", "dequantise"} <= kinds
    precisions = {layer["precision"] for layer in layers["int8"]["layers"] if layer["op"] == "QLinearConv"}
    assert precisions == {"int8"}
    assert {layer["precision"] for layer in layers["fp32"]["layers"]} == {"fp32"}


def test_layers_have_all_work_of_the_graph(measured: dict[str, Any]) -> None:
    for profile in measured["layers"].values():
        assert sum(layer["macs"] for layer in profile["layers"]) == profile["work"]["macs"] == 116_883_456
        assert profile["unassigned_macs"] == 0
        assert all(layer["moved_bytes"] for layer in profile["layers"])
        assert sum(profile["bounds_ms"].values()) == pytest.approx(sum(profile["parts_ms"].values()))
    layers = {layer["name"]: layer for layer in measured["layers"]["int8"]["layers"]}
    values = 64 * 64 * 16
    # 16 channels to 16, 3 x 3, of 64 x 64: a byte per weight and activation; bias, scales and zero points.
    assert layers["node_conv2d_1"]["macs"] == values * 16 * 9
    assert 0 < layers["node_conv2d_1"]["moved_bytes"] - (2 * values + 16 * 16 * 9) < 300
    assert layers["ReorderOutput"]["moved_bytes"] == 2 * 4 * values  # inserted by ONNX Runtime


def test_roofline_is_on_the_page_and_in_the_terminal(measured: dict[str, Any]) -> None:
    document = deepcopy(measured)
    emulated = document["layers"]["fp16"] = deepcopy(document["layers"]["fp32"])
    emulated.update(peak=None, peak_why="no share of the peak: emulated")
    page = render_page(document)
    assert re.findall("Roofline of [a-z0-9]+", page) == ["Roofline of fp32", "Roofline of int8"]
    slowest = document["layers"]["int8"]["slowest"][0]
    assert f'<td data-name="">1. {slowest}</td>' in page
    assert re.search(rf"<title>{slowest}: [0-9.]+ ms, [0-9.]+ GMAC/s, [0-9]+% of peak</title>", page)
    lines = terminal(document)
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    assert "int8, a call: 116.9 MMAC and 3.44 MB moved in" in text
    assert "int8, time by bound: arithmetic" in text
    assert "fp16: no share of the peak: emulated" in text
    assert re.search(r"peak with 1 thread: fp32 [0-9.]+, int8 [0-9.]+ GMAC/s in a 3 x 3 convolution", text)


def test_document_of_an_older_version_has_no_roofline(measured: dict[str, Any]) -> None:
    document = deepcopy(measured)
    for profile in document["layers"].values():
        for key in ("work", "unassigned_macs", "peak", "peak_why", "bounds_ms"):
            del profile[key]
        for layer in profile["layers"]:
            for key in ("macs", "moved_bytes", "peak_share", "bound"):
                del layer[key]
    assert "Roofline" not in render_page(document)
    assert not any("MMAC and" in line for line in terminal(document))


def test_report_says_why_work_was_not_counted(measured: dict[str, Any]) -> None:
    document = deepcopy(measured)
    document["layers"]["int8"].update(
        work=None, peak=None, peak_why="work not counted: the shape of y is unknown"
    )
    for layer in document["layers"]["int8"]["layers"]:
        layer.update(macs=0, moved_bytes=None, peak_share=None, bound="")
    page = render_page(document)
    assert "Roofline of fp32" in page
    assert "Roofline of int8" not in page
    assert "int8: work not counted: the shape of y is unknown" in page
    assert "int8: work not counted: the shape of y is unknown" in " ".join(terminal(document))


def terminal(document: dict[str, Any]) -> list[str]:
    """Return the lines that a terminal of 80 columns shows."""
    console = Console(file=io.StringIO(), width=80)
    console.print(render_tables(document))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_layers_have_the_names_of_the_graph_in_every_precision(measured: dict[str, Any]) -> None:
    convolutions = {
        name: {layer["name"] for layer in profile["layers"] if "Conv" in layer["op"]}
        for name, profile in measured["layers"].items()
    }
    assert convolutions["fp32"] == convolutions["int8"]
    expected = {"node_conv2d", *(f"node_conv2d_{number}" for number in range(1, 16))}
    assert convolutions["fp32"] == expected | {"node_convolution", "node_convolution_1"}


def test_compare_option_gives_a_verdict_per_row(
    quiet: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    write_document(quiet, tmp_path / "a.json")
    write_document(slow_down_int8(quiet, 1.6), tmp_path / "b.json")
    outcome = command(
        "profile", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c"
    )
    assert outcome.code == 0, outcome.err
    assert re.search(r"int8: slower, \d+\.\d% sure: .* 1\.600x \[", outcome.out)
    result = json.loads((tmp_path / "c").read_text())
    verdicts = {comparison["name"]: comparison["verdict"] for comparison in result["verdicts"]}
    assert verdicts == {"int8": "slower", "fp32": "no difference"}


@pytest.mark.parametrize("is_first", [True, False])
def test_nothing_is_faster_or_slower_on_a_busy_machine(
    quiet: dict[str, Any], tmp_path: Path, command: Command, is_first: bool
) -> None:
    first, second = deepcopy(quiet), slow_down_int8(quiet, 1.6)
    (first if is_first else second)["conditions"]["others_cores"] = quiet["machine"]["cores"] * 0.6
    write_document(first, tmp_path / "a.json")
    write_document(second, tmp_path / "b.json")
    outcome = command(
        "profile", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c"
    )
    assert "int8: no verdict, because the machine was busy: " in outcome.out
    assert not re.search(r"\b(slower|faster)\b,", outcome.out)
    ordinal = "first" if is_first else "second"
    assert f"differs: the {ordinal} was measured on a busy machine: other processes used" in outcome.out
    verdicts = json.loads((tmp_path / "c").read_text())["verdicts"]
    assert {comparison["verdict"] for comparison in verdicts} == {"undecided"}


def test_busy_machine_is_the_first_thing_that_tables_and_page_say(quiet: dict[str, Any]) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(render_tables(quiet))
    assert "BUSY" not in console.export_text() + render_page(quiet)
    quiet["conditions"]["others_cores"], quiet["machine"]["cores"] = 1.44, 2
    warning = "BUSY MACHINE: other processes used 1.4 of 2 cores during the measurement."
    console.print(render_tables(quiet))
    tables, page = console.export_text(), render_page(quiet)
    assert tables.startswith(warning)
    assert f'<p class="alarm">{warning}' in page
    assert (tables.count("BUSY"), page.count("BUSY")) == (1, 1)


def test_compare_option_names_differing_conditions(
    measured: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    other = deepcopy(measured)
    other["machine"]["power_mode"], other["conditions"]["throttled"] = "15W", ["cpu-throttle-alert"]
    other["graphs_sha256"] = {"int8": "0" * 64}  # fp32 was not measured
    write_document(measured, tmp_path / "a.json")
    write_document(other, tmp_path / "b.json")
    outcome = command("profile", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert [line for line in outcome.out.splitlines() if "graph" in line] == [
        "  differs: int8: another graph"
    ]
    assert "differs: power mode: None and 15W" in outcome.out
    assert "the second was throttled: cpu-throttle-alert" in outcome.out


def test_differing_engine_clock_and_steadiness_are_named(measured: dict[str, Any]) -> None:
    first, second = deepcopy(measured), deepcopy(measured)
    first["conditions"]["timeline"][0]["clocks_mhz"] = {"gpu": 918.0, "cpu0": 1500.0}
    second["conditions"]["timeline"][0]["clocks_mhz"] = {"gpu": 612.0, "cpu0": 1510.0, "cpu1": 700.0}
    second["latencies"][1] |= {"engine": "tensorrt 10.3.0, Orin", "steady": False}
    lines = list(differing_conditions(first, second))
    assert f"int8: on {first['latencies'][1]['engine']} and tensorrt 10.3.0, Orin" in lines
    assert "gpu: 918 and 612 MHz" in lines
    assert "int8: the second was not steady" in lines
    assert not any("cpu" in line for line in lines if "MHz" in line)


def test_compare_option_refuses_options_of_a_measurement(
    measured: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    write_document(measured, tmp_path / "a.json")
    words = ["profile", "--compare", tmp_path / "a.json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    outcome = command(*words)
    assert outcome.code == 2
    assert "leave --html and --budget out" in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "cannot be read as JSON"),
        ('{"schema": 1}', "has schema 1; this aerogaze reads measurements of schema 2"),
        ('{"schema": 2}', "is an incomplete measurement"),
        ('{"schema": 2, "latencies": [{}]}', "is an incomplete measurement"),
    ],
)
def test_file_that_is_no_document_is_refused(
    tmp_path: Path, command: Command, text: str, message: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    outcome = command("profile", "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_history_has_the_documents_of_one_board_and_removes_the_oldest(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path))
    save_to_history(measured)
    later, other_board = slow_down_int8(measured, 1.6), deepcopy(measured)
    other_board["machine"]["board"] = "NVIDIA Jetson Orin Nano"
    assert [document["created"] for document in load_history(later)] == [measured["created"]]
    assert load_history(other_board) == []
    monkeypatch.setattr(history, "MAX_SAVED", 2)
    for day in range(1, 5):
        save_to_history({**measured, "created": f"2998-01-0{day}T00:00:00+00:00"})
    assert len(list(board_folder(measured).iterdir())) == 2
    next(board_folder(measured).iterdir()).write_text("damaged")
    assert len(load_history(later)) == 1


def test_history_has_only_documents_of_the_same_release(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path))
    save_to_history(measured)
    later = {**measured, "created": CREATED_LATER}
    assert len(load_history(later)) == 1
    assert load_history({**later, "release": "mine"}) == []
    assert load_history({**later, "release_sha256": "0" * 64}) == [], "a release of the user with this name"


def test_history_of_earlier_versions_is_read_if_its_graphs_are_the_same(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path))
    earlier = deepcopy(measured)
    del earlier["release_sha256"], earlier["conditions"]["others_cores"]
    save_to_history(earlier)
    later = {**measured, "created": CREATED_LATER}
    assert [document["created"] for document in load_history(later)] == [measured["created"]]
    assert load_history({**later, "graphs_sha256": {"int8": "0" * 64}}) == []
    assert describe_busy_machine({**earlier, "conditions": {"load_average_before": 1e3}})


def test_profile_is_compared_with_the_latest_from_a_quiet_machine(quiet: dict[str, Any]) -> None:
    busy = deepcopy(quiet)
    busy["conditions"]["others_cores"] = quiet["machine"]["cores"]
    assert latest_baseline([quiet, busy]) is quiet
    assert latest_baseline([busy]) is busy


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("p99_ms = 1e9\ncc = 0.5", None),
        ("[fp32]\np99_ms = 1e-9", "fp32 p99_ms is"),
        ("[int8]\ncc = 0.99999999", "int8 cc is"),
        ("mean_ms = 1e-9\n[int8]\nmean_ms = 1e9", "fp32 mean_ms is"),
        ("[fp16]\ncc = 0.9", "fp16 was not measured"),
    ],
)
def test_broken_bound_of_a_budget_is_named(
    measured: dict[str, Any], tmp_path: Path, text: str, violation: str | None
) -> None:
    (tmp_path / "budget.toml").write_text(text)
    lines = list(find_violations(read_budget(tmp_path / "budget.toml"), measured))
    assert [line.startswith(violation or "") for line in lines] == ([True] if violation else [])


def test_power_that_was_not_measured_breaks_its_bound(measured: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text("power_w = 7")
    document = deepcopy(measured)
    document["latencies"][0].update(energy=None, energy_why="no meter")
    document["latencies"][1].update(energy={"power_w": 6.5})
    lines = list(find_violations(read_budget(tmp_path / "budget.toml"), document))
    assert lines == ["fp32 power_w was not measured: no meter"]


@pytest.mark.parametrize("text", ["p95_ms = 3", "p99_ms = 'fast'", "p99_ms =", "p99_ms = nan", "cc = inf"])
def test_budget_with_an_invalid_bound_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.toml").write_text(text)
    with pytest.raises(InputError, match=r"is no bound; expected numbers for p99_ms|is not valid TOML"):
        read_budget(tmp_path / "budget.toml")


@pytest.mark.parametrize("text", ["", "[int8]"])
def test_budget_without_a_bound_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.toml").write_text(text)
    with pytest.raises(InputError, match="has no bound; expected lines such as p99_ms = 5"):
        read_budget(tmp_path / "budget.toml")


def test_report_page_is_self_contained_and_escaped(measured: dict[str, Any]) -> None:
    document = deepcopy(measured)
    document["release"] = "<b>"
    state = {"clocks_mhz": {"cpu 0": 1510.0}, "throttled": ["cpu-throttle-alert"]}
    document["conditions"]["timeline"] = [
        {"t_s": float(second), "temperatures_c": {"tj-thermal": 50.0 + second}, **state}
        for second in range(4)
    ]
    document["conditions"]["throttled"] = ["cpu-throttle-alert"]
    page = render_page(document, [measured])
    assert not re.findall(r"""(?:src|href)=|url\(|<script""", page)
    assert "<b>" not in page
    assert page.count("THROTTLED during the measurement by cpu-throttle-alert") == 1, "not again in the notes"
    assert "nan" not in page
    assert measured["latencies"][0]["engine"] in page
    for words in ("Pareto", "Distributions", "Temperatures", "Clocks", "s parts", "history"):
        assert words in page
