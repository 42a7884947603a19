"""Every graph compiles with NVIDIA's own builder, GPU or not; and engines know what they are."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from calibration.inputs.calibration_frames import CalibrationFrames
from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.core.locks import writer_lock
from edge.inference.tensorrt.api import build_plan, load_tensorrt
from edge.inference.tensorrt.build_target import BuildTarget
from edge.release.manifest import load_release
from export.engines.build import TIMING_CACHE, EngineStatus, build_engines
from export.engines.build_source import release_engine_source
from export.release.builder import make_release
from tests.conftest import Outcome
from tests.support.exporting import FAKE_TIMING
from trainer.models.student import Student

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
Command = Callable[..., Outcome]
NAMES = ["stream.fp32", "stream.fp16", "stream.int8.tensorrt"]


@pytest.fixture
def built(release: Path, command: Command) -> Path:
    """The folder of the shipped release's engines, just built."""
    outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 0, outcome.err
    return release / "engines" / "rtx"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


@needs_rtx
def test_every_graph_of_a_release_compiles(
    student: Student, footage: CalibrationFrames, tmp_path: Path, command: Command
) -> None:
    make_release(student, footage, tmp_path / "r", options=FAKE_TIMING)
    outcome = command("build", tmp_path / "r", "--target", "rtx")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "r" / "engines" / "rtx"
    identities = [json.loads(path.read_text()) for path in folder.glob("*.engine.json")]
    assert len(identities) == 6
    for identity in identities:
        engine = folder / identity["file"]
        assert engine.stat().st_size == identity["size_bytes"] > 100_000
        assert sha256(engine) == identity["plan_sha256"]
        assert sha256(tmp_path / "r" / identity["graph"]) == identity["onnx_sha256"]
        assert identity["kind"] == "rtx"
        assert identity["builder"]["tf32"] is False
        assert identity["graph"] in outcome.out.replace("\n", "")
    assert [entry.name for entry in folder.parent.iterdir()] == ["rtx"]  # the lock is gone


@needs_rtx
def test_engines_are_built_for_gpus_that_are_not_there(release: Path, command: Command) -> None:
    outcome = command("build", release, "--target", "rtx:8.6,12.0")
    assert outcome.code == 0, outcome.err
    folder = release / "engines" / "rtx-8.6-12.0"
    identity = json.loads((folder / "stream.fp32.engine.json").read_text())
    assert identity["compute_capabilities"] == ["8.6", "12.0"]
    assert command("build", release, "--target", "rtx:8.9").code == 0
    others = hashes(release / "engines" / "rtx-8.9")
    assert others["stream.fp32.engine"] != identity["plan_sha256"]
    outcome = command("build", release, "--target", "rtx:8.9", "--out", folder, "--check")
    assert outcome.code == 1
    assert "compute capability 8.6, 12.0, here 8.9" in " ".join(outcome.err.split())


@needs_rtx
def test_engines_that_fit_stay_as_they_are(built: Path, release: Path, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.iterdir()}
    outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("kept") == 3
    assert "nothing to build" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in built.iterdir()} == before
    outcome = command("build", release, "--target", "rtx", "--check")
    assert outcome.code == 0, outcome.err
    assert "all 3 engines" in outcome.out
    (built / "stream.fp16.engine").unlink()
    outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("kept") == 2


def changed(**values: object) -> Callable[[Path], None]:
    """Return what makes an engine say something else of itself."""

    def change(engine: Path) -> None:
        place = engine.with_name(engine.name + ".json")
        place.write_text(json.dumps({**json.loads(place.read_text()), **values}))

    return change


@needs_rtx
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (changed(version="10.3.0"), "TensorRT 10.3.0, here 1."),
        (changed(compute_capabilities=["8.7"]), "compute capability 8.7, here 8.0 and later"),
        (changed(gpu="Orin"), "GPU Orin, here none"),
        (changed(jetpack="6.2"), "JetPack 6.2, here none"),
        (changed(onnx_sha256="0123456789"), "built from another graph (01234567, here "),
        (changed(builder={"tf32": True}), "builder settings tf32 True, here strongly_typed True"),
        (changed(schema=2), "identity of schema 2, expected 1"),
        (lambda engine: engine.write_bytes(b"other"), "its file is not the one that was built"),
        (lambda engine: engine.with_name(engine.name + ".json").unlink(), "engine.json beside it"),
        (lambda engine: engine.with_name(engine.name + ".json").write_text("{"), "cannot be read"),
    ],
    ids=[
        "version",
        "gpu",
        "name",
        "jetpack",
        "graph",
        "settings",
        "schema",
        "plan",
        "no identity",
        "no JSON",
    ],
)
def test_an_engine_that_does_not_fit_is_named_and_rebuilt_on_request(
    built: Path, release: Path, command: Command, spoil: Callable[[Path], None], says: str
) -> None:
    whole = hashes(built)
    spoil(built / "stream.fp16.engine")
    spoilt = hashes(built)
    for more in (["--check"], []):
        outcome = command("build", release, "--target", "rtx", *more)
        assert outcome.code == 1
        assert says in outcome.err
        assert "stream.fp16.engine" in outcome.err
        assert outcome.err.count("\n") == 1
        assert hashes(built) == spoilt
    outcome = command("build", release, "--target", "rtx", "--rebuild")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("kept") == 2
    names = [f"{name}.engine" for name in NAMES]
    assert {name: hashes(built)[name] for name in names} == {name: whole[name] for name in names}


@needs_rtx
def test_the_last_build_tells_how_long_the_next_takes(release: Path, tmp_path: Path) -> None:
    opened, told = release_engine_source(load_release(release)), []

    def on_start(engine: EngineStatus, estimate_s: float | None) -> None:
        told.append((engine.graph.name, estimate_s))

    done = dict.fromkeys(NAMES, 0.0)
    for out in ("first", "second"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
            for identity, _ in build_engines(opened, BuildTarget("rtx"), tmp_path / out, on_start=on_start):
                if out == "first":
                    done[identity.graph.removesuffix(".onnx")] = identity.seconds
    assert told[:3] == [(f"{name}.onnx", None) for name in NAMES]
    assert told[3:] == [(f"{name}.onnx", done[name]) for name in NAMES]


@needs_rtx
@pytest.mark.filterwarnings("ignore:.*iming cache operations are no-ops:DeprecationWarning")
def test_what_a_builder_learns_is_kept_beside_the_engines(
    release: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT for RTX stands in for TensorRT: its timing cache has the same calls and holds nothing."""
    monkeypatch.setitem(sys.modules, "tensorrt", load_tensorrt("rtx"))
    outcome = command("build", release, "--target", "local")
    assert outcome.code == 0, outcome.err
    folder = release / "engines" / "local"
    digest = sha256(folder / TIMING_CACHE)
    for name in NAMES:
        identity = json.loads((folder / f"{name}.engine.json").read_text())
        assert identity["timing_cache_sha256"] == digest
        assert (identity["kind"], identity["target"]) == ("tensorrt", "local")
    (folder / "stream.fp32.engine").write_bytes(b"other")
    outcome = command("build", release, "--target", "local", "--rebuild")
    assert outcome.code == 0, outcome.err
    assert (folder / TIMING_CACHE).is_file()


def test_a_second_build_in_the_folder_is_told_so(release: Path, command: Command) -> None:
    place = release / "engines" / "rtx"
    with writer_lock(place):
        outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 2
    assert "is being written by another aerogaze" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not place.exists()


def test_a_killed_build_locks_nobody_out(tmp_path: Path) -> None:
    place = tmp_path / "engines"
    code = (
        "import sys, time; from pathlib import Path; from edge.core.locks import writer_lock\n"
        "with writer_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another aerogaze"), writer_lock(place):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / ".engines.lock").exists()
    with writer_lock(place):
        pass
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_a_disk_that_is_full_half_way_costs_nothing(built: Path, release: Path) -> None:
    """A limit on the size of files stands in for the disk: the second engine is over it."""
    before = hashes(built)
    for name in NAMES:
        changed(version="0")(built / f"{name}.engine")
    spoilt = hashes(built)
    size = (built / "stream.fp32.engine").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1024, resource.RLIM_INFINITY))

    told = subprocess.run(
        [sys.executable, "-m", "edge.cli.main", "build", str(release), "--target", "rtx", "--rebuild"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert told.returncode == 2, told.stderr
    assert told.stderr.startswith(f"aerogaze: cannot write {built}: File too large; choose a path")
    assert told.stderr.count("\n") == 1
    assert hashes(built) == spoilt
    assert spoilt.keys() == before.keys()
    assert [entry.name for entry in built.parent.iterdir()] == ["rtx"]


@needs_rtx
def test_a_graph_that_tensorrt_refuses_is_told_in_its_words() -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("StringNormalizer", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "words",
        [value("x", TensorProto.STRING, [1])],
        [value("y", TensorProto.STRING, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(InputError, match=r"TensorRT .* cannot parse the graph"):
        build_plan(model.SerializeToString(), BuildTarget("rtx"))
    with pytest.raises(InputError, match="cannot parse"):
        build_plan(b"not a graph", BuildTarget("rtx"))


@pytest.mark.parametrize(
    ("text", "target", "folder"),
    [
        ("local", BuildTarget("tensorrt"), "local"),
        ("rtx", BuildTarget("rtx"), "rtx"),
        ("rtx:8.6", BuildTarget("rtx", ("8.6",)), "rtx-8.6"),
        ("rtx:8.6,12.0,8.6", BuildTarget("rtx", ("8.6", "12.0")), "rtx-8.6-12.0"),
    ],
)
def test_a_target_is_read(text: str, target: BuildTarget, folder: str) -> None:
    assert BuildTarget.parse(text) == target
    assert target.folder == folder
    assert BuildTarget.parse(str(target)) == target


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "rtx:86"], "no target 'rtx:86'; expected local, rtx, or"),
        (["--target", "jetson"], "no target 'jetson'"),
        (["--target", "rtx", "--check", "--rebuild"], "--check builds nothing"),
        ([], "Missing option '--target'"),
        pytest.param(["--target", "rtx:8.7"], "capability 8.7; expected 7.5, 8.0, 8.6", marks=needs_rtx),
        pytest.param(
            ["--target", "rtx", "--out", "{release}"], "which was not written by aerogaze", marks=needs_rtx
        ),
    ],
)
def test_bad_words_are_one_clear_line(
    release: Path, command: Command, words: list[str], message: str
) -> None:

    outcome = command("build", release, *(word.replace("{release}", str(release)) for word in words))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    made = [path for path in release.rglob("*") if path.suffix in (".engine", ".lock")]
    assert made == []


def test_a_board_builds_without_torch_and_onnx() -> None:
    code = "import sys, export.cli.build; print({'torch', 'onnx'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_a_tensorrt_that_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(InputError, match=r"only stubs\?\); it comes with JetPack"):
        load_tensorrt("tensorrt")
    monkeypatch.undo()
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(InputError, match=r"cannot be imported .* comes with JetPack"):
            load_tensorrt("tensorrt")
