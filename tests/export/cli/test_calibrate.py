"""Tests of `aerogaze calibrate` on releases and on ONNX files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from calibration.inputs.calibration_frames import read_frames
from calibration.inputs.graph_inputs import open_session
from calibration.quantization.qdq import quantize, quantized_nodes
from calibration.quantization.qdq_placement import TENSORRT
from calibration.ranges.activation_ranges import collect_ranges
from calibration.search import mixed_precision
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator
from calibration.search.mixed_precision import MIN_GAIN
from edge.core.atomic_files import sha256
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.release.manifest import RELEASE_MANIFEST, SHIPPED_RELEASES, load_release
from edge.release.release import TargetEngine
from edge.sources.factory import open_source
from export.graphs.fp16 import to_fp16
from export.graphs.int8_search import CalibrationOptions
from tests.conftest import Outcome
from tests.support.onnx_graphs import random_feeds, residual_network

Command = Callable[..., Outcome]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A small residual network as a file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(residual_network().SerializeToString())
    return path


@pytest.mark.usefixtures("fake_timer")
def test_onnx_file_is_written_in_all_precisions(
    graph: Path, folder: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    outcome = command("calibrate", graph, "--frames", folder, "--out", out, "--method", "minmax")
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines()[:8])) <= 80
    names = {path.name for path in out.iterdir()}
    floats, ints = {"fp32.onnx", "fp16.onnx"}, {"int8.onnxruntime.onnx", "int8.tensorrt.onnx"}
    assert names == floats | ints | {"calibration.json"}
    document = json.loads((out / "calibration.json").read_text())
    assert document["calibrated"]["method"] == "minmax"
    for name, entry in document["files"].items():
        assert entry == {"sha256": sha256(out / name), "size_bytes": (out / name).stat().st_size}
    for result in document["int8"]:
        assert result["ships"]
        assert 1 - result["quality"]["cc"] <= 0.005
        graph_int8 = onnx.load(out / f"int8.{result['engine']}.onnx")
        assert sorted(quantized_nodes(graph_int8)) == result["int8_layers"]
    feed = {"x": np.abs(random_feeds(1)[0]["x"])}
    expected, *outputs = (
        open_session(onnx.load(out / name), disable_qdq_fusion="tensorrt" in name).run(["y"], feed)[0]
        for name in ("fp32.onnx", *sorted(floats | ints))
    )
    for values in outputs:
        assert values.dtype == np.float32
        assert np.corrcoef(expected.ravel(), values.ravel())[0, 1] > 0.99
    again = command("calibrate", graph, "--frames", folder, "--out", out, "--json")
    assert json.loads(again.out)["int8"][0]["engine"] == "onnxruntime"


def test_graph_over_budget_or_without_measured_gain_does_not_ship(
    graph: Path, folder: Path, tmp_path: Path, command: Command
) -> None:
    """Latency is really measured and modelled here. A modelled one does not keep a graph from shipping."""
    for budget in ("cc=0.9", "kld=0.000000001"):
        out = tmp_path / budget
        outcome = command("calibrate", graph, "--frames", folder, "--out", out, "--budget", budget)
        assert outcome.code == 0, outcome.err
        for result in json.loads((out / "calibration.json").read_text())["int8"]:
            assert (out / f"int8.{result['engine']}.onnx").exists() == result["ships"]
            assert result["latency"] == ("modelled" if result["engine"] == "tensorrt" else "measured")
            if result["ships"] and result["engine"] == "onnxruntime":
                assert result["latency_ms"] <= (1 - MIN_GAIN) * result["float_ms"]
            elif result["engine"] == "tensorrt" and budget == "cc=0.9":
                assert result["ships"]
                assert "boards measure it" in result["reason"]
            else:
                assert "float ships alone" in result["reason"]
                assert result["reason"] in outcome.out
    assert not any(result["ships"] for result in json.loads((out / "calibration.json").read_text())["int8"])


@pytest.mark.usefixtures("fake_timer")
def test_calibrated_release_keeps_float_graphs_and_runs(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    outcome = command("calibrate", "skd-64", "--frames", folder, "--out", tmp_path / "r", "--threads", "2")
    assert outcome.code == 0, outcome.err
    release, shipped = load_release(tmp_path / "r"), load_release("skd-64")
    assert [g for g in release.graphs if g.precision != "int8"] == [
        g for g in shipped.graphs if g.precision != "int8"
    ]
    assert release.calibrated is not None
    assert release.calibrated["source"] == str(folder)
    assert release.calibrated["window"] == 2
    for engine in ("onnxruntime", "tensorrt"):
        verification = release.graph("int8", engine=engine).verified
        assert verification is not None
        assert verification.mean_cc > 0.995
        assert verification.golden_cc > 0.95  # the golden set is of another flight than the ranges
    SaliencyModel(release, "int8").close()
    assert command("calibrate", tmp_path / "r", "--frames", folder, "--out", tmp_path / "r2").code == 0
    assert command("calibrate", tmp_path / "r", "--frames", folder, "--out", tmp_path / "r").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{graph}"], "no calibration frames"),
        (["{graph}", "--frames", "{black}"], "shows nothing"),
        (["{graph}", "--frames", "none.mp4"], "no source 'none.mp4'"),
        (["{graph}", "--frames", "{folder}", "--budget", "psnr=3"], "budget 'psnr=3' is not understood"),
        (["{graph}", "--frames", "{folder}", "--scale", "1,x"], "--scale '1,x' is not understood"),
        (
            ["{graph}", "--frames", "{folder}", "--size", "9"],
            "--size '9' is not valid; expected WIDTHxHEIGHT",
        ),
        (["{graph}", "--frames", "{folder}", "--scale", "1e38"], "is not finite"),
        (["none.onnx", "--frames", "{folder}"], "no file none.onnx"),
        (["none", "--frames", "{folder}"], "no release 'none'"),
        (["skd-64", "--frames", "{folder}", "--layout", "nchw"], "--layout is for ONNX files"),
        (["{graph}", "--frames", "{folder}", "--out", "{folder}"], "was not written by aerogaze"),
    ],
)
def test_bad_input_exits_with_2_prints_one_line_and_writes_nothing(
    command: Command, graph: Path, folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    black = tmp_path / "black"
    black.mkdir()
    for index in range(9):
        cv2.imwrite(str(black / f"{index}.png"), np.zeros((32, 32, 3), np.uint8))
    before = sorted(tmp_path.rglob("*"))
    arguments = [w.format(graph=graph, black=black, folder=folder) for w in options]
    outcome = command("calibrate", *([] if "--out" in options else ["--out", tmp_path / "out"]), *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_leaves_no_files_behind(folder: Path, tmp_path: Path) -> None:
    """A limit on file sizes simulates the full disk: frames fit, the fp32 graph does not."""
    releases = tmp_path / "releases"
    releases.mkdir()
    line = f"{sys.executable} -m edge.cli.main calibrate skd-64 --frames {folder} --out {releases / 'r'}"
    done = subprocess.run(
        ["/bin/bash", "-c", f"ulimit -f 1000; {line}"],
        capture_output=True,
        text=True,
        env={**os.environ, "AEROGAZE_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"aerogaze: cannot write {releases / 'r'}: File too large")
    assert list(releases.iterdir()) == []


def test_release_without_window_length_is_rejected(
    release: Path, folder: Path, tmp_path: Path, command: Command
) -> None:
    document = json.loads((release / RELEASE_MANIFEST).read_text())
    del document["calibrated"]["window"]
    (release / RELEASE_MANIFEST).write_text(json.dumps(document))
    outcome = command("calibrate", release, "--frames", folder, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "does not state how many frames a map depends on" in outcome.err


def test_tensorrt_compiles_residual_graph() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed: pip install 'aerogaze[rtx]'")
    model = residual_network()
    quantized = quantize(model, collect_ranges(model, random_feeds(), "minmax"), TENSORRT)
    assert build_plan(to_fp16(quantized, ["x", "y"]).SerializeToString(), BuildTarget.parse("rtx")).data


def int8_graphs(names: list[str]) -> list[object]:
    """Return release and engine of each int8 graph; those of a release are tested by the same worker."""
    graphs = [(name, graph) for name in names for graph in load_release(name).graphs]
    return [
        pytest.param(name, graph.engine, marks=pytest.mark.xdist_group(f"int8-{name}"))
        for name, graph in graphs
        if graph.precision == "int8"
    ]


@cache
def evaluator_on_real_frames(name: str, real: Path) -> AccuracyEvaluator:
    """Return what compares graphs of a release with its fp32 graph, on frames of the sequences in `real`."""
    from export.release.recalibrate import release_feeder, window_length

    release = load_release(name)
    sources = [open_source(str(path / "frames")) for path in sorted((real / "uav").iterdir())]
    frames = read_frames(sources, release.preprocessing, window_length(release), max_windows=80)
    model = onnx.load(release.path(release.graph("fp32")))
    windows = np.concatenate([[*frames.windows], [*frames.held_out]])
    return AccuracyEvaluator(model, release_feeder(release, "stream"), windows)


@pytest.mark.parametrize(
    ("name", "engine"), int8_graphs(sorted(path.name for path in SHIPPED_RELEASES.iterdir()))
)
def test_shipped_int8_graphs_keep_the_budget_on_real_frames(
    real: Path, name: str, engine: TargetEngine
) -> None:
    release, evaluator = load_release(name), evaluator_on_real_frames(name, real)
    graph = release.graph("int8", engine=engine)
    quality = evaluator(onnx.load(release.path(graph)), disable_qdq_fusion=engine == "tensorrt")
    assert quality.cc >= 0.995
    assert quality.kld <= 0.005
    assert AccuracyBudget(cc=0.005, kld=0.005).fraction_used(quality) <= 1


def test_export_with_budget_searches_int8_for_both_engines(
    folder: Path, tmp_path: Path, command: Command, fake_timer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed_precision, "default_trials", lambda layers: 12)  # 244 take half a minute
    options = ["--frames", folder, "--form", "stream", "--out", tmp_path / "r"]
    outcome = command("export", "skd-32", *options, "--budget", "cc=0.05")
    assert outcome.code == 0, outcome.err
    release = load_release(tmp_path / "r")
    assert release.calibrated is not None
    assert len(release.calibrated["int8"]["stream"]) == 2
    assert CalibrationOptions().thorough is False


@pytest.mark.usefixtures("fake_timer")
@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([("Mul", 2000.0), ("Mul", 2000.0), ("Sqrt", None)], "node steep1 (Mul) reaches"),
        ([("Add", 30000.0), ("Add", -30000.0)], "node steep0 (Add) loses most"),
    ],
)
def test_graph_unfit_for_float16_ships_in_int8_with_float32(
    folder: Path, tmp_path: Path, command: Command, steps: list[tuple[str, float | None]], sentence: str
) -> None:
    """The unfit nodes lie between two blocks."""
    model, last = residual_network(), "x2"
    (reader,) = (node for node in model.graph.node if node.name == "shortcut")
    (other,) = (node for node in model.graph.node if node.name == "c")
    added = []
    for index, (kind, constant) in enumerate(steps):
        inputs = [last] if constant is None else [last, f"constant{index}"]
        if constant is not None:
            values = np.array([constant], np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"constant{index}"))
        last = f"steep{index}"
        added.append(onnx.helper.make_node(kind, inputs, [last], last))
    reader.input[0] = other.input[0] = last
    position = list(model.graph.node).index(reader)
    nodes = [*model.graph.node[:position], *added, *model.graph.node[position:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "steep.onnx")
    outcome = command("calibrate", tmp_path / "steep.onnx", "--frames", folder, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "no fp16.onnx: " in outcome.err
    assert outcome.out.splitlines()[-1].startswith(f"next: aerogaze build {tmp_path / 'out'} --target local")
    assert sentence in outcome.err
    document = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert document["fp16"] is None
    assert sentence in document["doubts"][-1]
    assert not (tmp_path / "out" / "fp16.onnx").exists()
    (tensorrt,) = (result for result in document["int8"] if result["engine"] == "tensorrt")
    assert tensorrt["ships"]
    assert "its other layers are in float32" in tensorrt["reason"]
    assert sentence in tensorrt["reason"]
    weights = onnx.load(tmp_path / "out" / "int8.tensorrt.onnx").graph.initializer
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)


@pytest.mark.usefixtures("fake_timer")
def test_graph_that_overflows_on_calibration_frames_only_does_not_ship_in_float16(
    graph: Path, folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Simulates an overflow on calibration frames while the maps stay close.
    monkeypatch.setattr("calibration.search.fp16_diagnostics.FP16_MAX", 1.0)
    outcome = command("calibrate", graph, "--frames", folder, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "no fp16.onnx: node stem (Conv) reaches" in outcome.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    int8 = {"int8.onnxruntime.onnx", "int8.tensorrt.onnx"}
    assert names == {"fp32.onnx", *int8, "calibration.json"}
    assert "its other layers are in float32 (node" in outcome.out
