"""`aerogaze calibrate`: releases and anybody's graphs, whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from calibration.inputs.graph_inputs import open_session
from calibration.quantization.dla_cache import scales
from calibration.quantization.qdq import quantise, quantised_nodes
from calibration.quantization.qdq_placement import TENSORRT
from calibration.ranges.activation_ranges import collect_ranges
from calibration.search.accuracy import Budget
from calibration.search.mixed_precision import GAIN
from edge.core.atomic_files import sha256
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.release.manifest import RELEASE_MANIFEST, SHIPPED_RELEASES, load_release
from edge.release.manifest import TargetEngine
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import CalibrationOptions
from tests.calibration.quantization.test_qdq_placement import feeds, residual
from tests.conftest import Outcome

Command = Callable[..., Outcome]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A small residual network as a file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(residual().SerializeToString())
    return path


@pytest.mark.usefixtures("quick")
def test_anybodys_graph_in_all_precisions(
    graph: Path, folder: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    outcome = command("calibrate", graph, "--frames", folder, "--out", out, "--method", "minmax")
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines()[:8])) <= 80
    names = {path.name for path in out.iterdir()}
    floats, ints = {"fp32.onnx", "fp16.onnx"}, {"int8.onnxruntime.onnx", "int8.tensorrt.onnx"}
    assert names == floats | ints | {"dla.cache", "calibration.json"}
    document = json.loads((out / "calibration.json").read_text())
    assert document["calibrated"]["method"] == "minmax"
    for name, told in document["files"].items():
        assert told == {"sha256": sha256(out / name), "size_bytes": (out / name).stat().st_size}
    found = scales((out / "dla.cache").read_text())
    for name, (low, high) in document["ranges"].items():
        assert found[name] == pytest.approx(max(-low, high) / 127)
    for one in document["int8"]:
        assert one["ships"]
        assert 1 - one["quality"]["cc"] <= 0.005
        made = onnx.load(out / f"int8.{one['engine']}.onnx")
        assert sorted(quantised_nodes(made)) == one["int8_layers"]
    feed = {"x": np.abs(feeds(1)[0]["x"])}
    expected, *got = (
        open_session(onnx.load(out / name), plain="tensorrt" in name).run(["y"], feed)[0]
        for name in ("fp32.onnx", *sorted(floats | ints))
    )
    for values in got:
        assert values.dtype == np.float32
        assert np.corrcoef(expected.ravel(), values.ravel())[0, 1] > 0.99
    again = command("calibrate", graph, "--frames", folder, "--out", out, "--json")
    assert json.loads(again.out)["int8"][0]["engine"] == "onnxruntime"


def test_what_does_not_fit_does_not_ship(graph: Path, folder: Path, tmp_path: Path, command: Command) -> None:
    """Measured and modelled for true: whatever ships is within the budget and faster."""
    for budget in ("cc=0.9", "kld=0.000000001"):
        out = tmp_path / budget
        outcome = command("calibrate", graph, "--frames", folder, "--out", out, "--budget", budget)
        assert outcome.code == 0, outcome.err
        for one in json.loads((out / "calibration.json").read_text())["int8"]:
            assert (out / f"int8.{one['engine']}.onnx").exists() == one["ships"]
            assert one["latency"] == ("modelled" if one["engine"] == "tensorrt" else "measured")
            if one["ships"]:
                assert one["latency_ms"] <= (1 - GAIN) * one["float_ms"]
            else:
                assert "float ships alone" in one["reason"]
                assert one["reason"] in outcome.out
    assert not any(one["ships"] for one in json.loads((out / "calibration.json").read_text())["int8"])


@pytest.mark.usefixtures("quick")
def test_a_release_is_made_anew_and_flies(folder: Path, tmp_path: Path, command: Command) -> None:
    outcome = command("calibrate", "skd-64", "--frames", folder, "--out", tmp_path / "r", "--threads", "2")
    assert outcome.code == 0, outcome.err
    release, shipped = load_release(tmp_path / "r"), load_release()
    assert [g for g in release.graphs if g.precision != "int8"] == [
        g for g in shipped.graphs if g.precision != "int8"
    ]
    assert release.calibrated is not None
    assert release.calibrated["source"] == str(folder)
    assert release.calibrated["window"] == 2
    for engine in ("onnxruntime", "tensorrt"):
        told = release.graph("int8", engine=engine).verified
        assert told is not None
        assert told.mean_cc > 0.995
        assert told.golden_cc > 0.95  # another flight than the ranges are of
    SaliencyModel(release, "int8").close()
    assert command("calibrate", tmp_path / "r", "--frames", folder, "--out", tmp_path / "r2").code == 0
    assert command("calibrate", tmp_path / "r", "--frames", folder, "--out", tmp_path / "r").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{graph}"], "no calibration frames"),
        (["{graph}", "--frames", "{black}"], "shows nothing"),
        (["{graph}", "--frames", "none.mp4"], "no source 'none.mp4'"),
        (["{graph}", "--frames", "{folder}", "--budget", "psnr=3"], "budget 'psnr=3' is not understood"),
        (["{graph}", "--frames", "{folder}", "--dla", "11.4"], "reads no calibration cache"),
        (["{graph}", "--frames", "{folder}", "--scale", "1,x"], "--scale '1,x' is not understood"),
        (["{graph}", "--frames", "{folder}", "--size", "9"], "--size '9' is not understood"),
        (["{graph}", "--frames", "{folder}", "--scale", "1e38"], "is not finite"),
        (["none.onnx", "--frames", "{folder}"], "no file none.onnx"),
        (["none", "--frames", "{folder}"], "no release 'none'"),
        (["skd-64", "--frames", "{folder}", "--layout", "nchw"], "--layout is for ONNX files"),
        (["{graph}", "--frames", "{folder}", "--out", "{folder}"], "was not written by aerogaze"),
    ],
)
def test_bad_input_is_one_clear_line(
    command: Command, graph: Path, folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    black = tmp_path / "black"
    black.mkdir()
    for index in range(9):
        cv2.imwrite(str(black / f"{index}.png"), np.zeros((32, 32, 3), np.uint8))
    before = sorted(tmp_path.rglob("*"))
    named = [w.format(graph=graph, black=black, folder=folder) for w in words]
    outcome = command("calibrate", *([] if "--out" in words else ["--out", tmp_path / "out"]), *named)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_full_half_way_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for it: frames fit, the fp32 graph does not."""
    place = tmp_path / "releases"
    place.mkdir()
    words = f"{sys.executable} -m edge.cli.main calibrate skd-64 --frames {folder} --out {place / 'r'}"
    done = subprocess.run(
        ["/bin/bash", "-c", f"ulimit -f 1000; {words}"],
        capture_output=True,
        text=True,
        env={**os.environ, "AEROGAZE_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"aerogaze: cannot write {place / 'r'}: File too large")
    assert list(place.iterdir()) == []


def test_a_release_that_lacks_its_window_is_sent_back(
    release: Path, folder: Path, tmp_path: Path, command: Command
) -> None:
    document = json.loads((release / RELEASE_MANIFEST).read_text())
    del document["calibrated"]["window"]
    (release / RELEASE_MANIFEST).write_text(json.dumps(document))
    outcome = command("calibrate", release, "--frames", folder, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "does not say on how many frames a map depends" in outcome.err


def test_residual_graphs_compile_with_nvidias_builder() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    model = residual()
    made = quantise(model, collect_ranges(model, feeds(), "minmax"), TENSORRT)
    assert build_plan(to_fp16(made, ["x", "y"]).SerializeToString(), BuildTarget.parse("rtx")).data


def int8_of(names: list[str]) -> list[tuple[str, TargetEngine]]:
    graphs = [(name, graph) for name in names for graph in load_release(name).graphs]
    return [(name, graph.engine) for name, graph in graphs if graph.precision == "int8"]


@pytest.mark.parametrize(
    ("name", "engine"), int8_of(sorted(path.name for path in SHIPPED_RELEASES.iterdir()))
)
def test_the_shipped_int8_graphs_lose_little_on_real_frames(
    real: Path, name: str, engine: TargetEngine
) -> None:
    from calibration.inputs.calibration_frames import read_frames
    from calibration.search.accuracy import Judge
    from edge.sources.factory import open_source
    from export.release.recalibrate import release_feeding, window_length

    release = load_release(name)
    places = [str(path / "frames") for path in sorted((real / "uav").iterdir())]
    length = window_length(release)
    frames = read_frames([open_source(place) for place in places], release.preprocessing, length, most=80)
    model = onnx.load(release.path(release.graph("fp32")))
    judge = Judge(
        model, release_feeding(release, "stream"), np.concatenate([[*frames.windows], [*frames.held_out]])
    )
    graph = release.graph("int8", engine=engine)
    found = judge(onnx.load(release.path(graph)), plain=engine == "tensorrt")
    assert found.cc >= 0.995
    assert found.kld <= 0.005
    assert Budget(cc=0.005, kld=0.005).spent(found) <= 1


def test_export_searches_within_a_budget(folder: Path, tmp_path: Path, command: Command, quick: None) -> None:
    words = ["--frames", folder, "--form", "stream", "--out", tmp_path / "r"]
    outcome = command("export", "skd-64", *words, "--budget", "cc=0.05")
    assert outcome.code == 0, outcome.err
    release = load_release(tmp_path / "r")
    assert release.calibrated is not None
    assert len(release.calibrated["int8"]["stream"]) == 2
    assert CalibrationOptions().thorough is False


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([("Mul", 2000.0), ("Mul", 2000.0), ("Sqrt", None)], "node steep1 (Mul) reaches"),
        ([("Add", 30000.0), ("Add", -30000.0)], "node steep0 (Add) loses most"),
    ],
)
def test_what_does_not_bear_float16_does_not_ship_in_it(
    folder: Path, tmp_path: Path, command: Command, steps: list[tuple[str, float | None]], told: str
) -> None:
    """Between two blocks of the network; nor does int8 whose rest would be in float16."""
    model, last = residual(), "x2"
    (reader,) = (node for node in model.graph.node if node.name == "shortcut")
    (other,) = (node for node in model.graph.node if node.name == "c")
    added = []
    for index, (kind, constant) in enumerate(steps):
        given = [last] if constant is None else [last, f"constant{index}"]
        if constant is not None:
            values = np.array([constant], np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"constant{index}"))
        last = f"steep{index}"
        added.append(onnx.helper.make_node(kind, given, [last], last))
    reader.input[0] = other.input[0] = last
    place = list(model.graph.node).index(reader)
    nodes = [*model.graph.node[:place], *added, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "steep.onnx")
    outcome = command("calibrate", tmp_path / "steep.onnx", "--frames", folder, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "no fp16.onnx: " in outcome.err
    assert told in outcome.err
    document = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert document["fp16"] is None
    assert told in document["doubts"][-1]
    assert not (tmp_path / "out" / "fp16.onnx").exists()
    (tensorrt,) = (one for one in document["int8"] if one["engine"] == "tensorrt")
    assert not tensorrt["ships"]
    assert told in tensorrt["reason"]


@pytest.mark.usefixtures("quick")
def test_what_overflows_on_calibration_frames_alone_does_not_ship_in_float16(
    graph: Path, folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "calibration.search.fp16_diagnostics.GREATEST", 1.0
    )  # as if float16 ended there; maps stay near
    outcome = command("calibrate", graph, "--frames", folder, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "no fp16.onnx: node stem (Conv) reaches" in outcome.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"fp32.onnx", "int8.onnxruntime.onnx", "dla.cache", "calibration.json"}
    assert "float ships alone" in outcome.out
