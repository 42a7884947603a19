"""Tests of the build of engines with NVIDIA's builder, with or without a GPU, and of their identities."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.core.locks import writer_lock
from edge.inference.tensorrt.api import build_plan, load_tensorrt
from edge.inference.tensorrt.build_target import BuildTarget
from edge.release.manifest import load_release
from export.engines.build import TIMING_CACHE, EngineStatus, build_engines
from export.engines.build_source import release_engine_source
from tests.conftest import Outcome
from tests.support.made_once import MadeOnce

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT for RTX is not installed: pip install 'aerogaze[rtx]'",
)
Command = Callable[..., Outcome]
NAMES = ["stream.fp32", "stream.fp16", "stream.int8.tensorrt"]


@pytest.fixture
def engines(release: Path, command: Command, made_once: MadeOnce) -> Path:
    """The folder with the engines of the shipped release, as the command built them."""

    def build(folder: Path) -> None:
        outcome = command("build", release, "--target", "rtx")
        assert outcome.code == 0, outcome.err
        assert outcome.out.splitlines()[-1].startswith(f"next: aerogaze profile {release} --engine tensorrt")
        shutil.move(release / "engines", folder)

    built = made_once("engines-skd-64-rtx", build)
    return Path(shutil.copytree(built / "engines", release / "engines")) / "rtx"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


@needs_rtx
def test_every_graph_of_a_release_is_built(released: Path, tmp_path: Path, command: Command) -> None:
    shutil.copytree(released, tmp_path / "r")
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
    assert [entry.name for entry in folder.parent.iterdir()] == ["rtx"]  # the lock is removed


@needs_rtx
def test_engines_are_built_for_other_gpus(release: Path, command: Command) -> None:
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
    assert "use --rebuild instead of --check to build them" in outcome.err
    outcome = command("build", release, "--target", "rtx:8.9", "--out", release / "none", "--check")
    assert outcome.code == 1
    assert "expected all to fit: leave --check out to build them" in outcome.err


@needs_rtx
def test_engines_that_fit_are_not_rebuilt(engines: Path, release: Path, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in engines.iterdir()}
    outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("kept") == 3
    assert "nothing to build" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in engines.iterdir()} == before
    outcome = command("build", release, "--target", "rtx", "--check")
    assert outcome.code == 0, outcome.err
    assert "all 3 engines" in outcome.out
    (engines / "stream.fp16.engine").unlink()
    outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("kept") == 2


def change_identity(**values: object) -> Callable[[Path], None]:
    """Return a function that changes values in the identity file of an engine."""

    def change(engine: Path) -> None:
        path = engine.with_name(engine.name + ".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


@needs_rtx
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_identity(version="10.3.0"), "TensorRT 10.3.0, here 1."),
        (
            change_identity(compute_capabilities=["8.7"]),
            "compute capability 8.7, here 8.0, 8.6, 8.9, 12.0 and later",
        ),
        (change_identity(gpu="Orin"), "GPU Orin, here none"),
        (change_identity(jetpack="6.2"), "JetPack 6.2, here none"),
        (change_identity(onnx_sha256="0123456789"), "built from another graph (01234567, here "),
        (change_identity(builder={"tf32": True}), "builder settings tf32 True, here strongly_typed True"),
        (change_identity(schema=2), "identity of schema 2, expected 1"),
        (lambda engine: engine.write_bytes(b"other"), "its file is not the one that was built"),
        (lambda engine: engine.with_name(engine.name + ".json").unlink(), "engine.json next to it"),
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
def test_engine_that_does_not_fit_is_named_and_rebuilt_on_request(
    engines: Path, release: Path, command: Command, damage: Callable[[Path], None], message: str
) -> None:
    original = hashes(engines)
    damage(engines / "stream.fp16.engine")
    damaged = hashes(engines)
    for options in (["--check"], []):
        outcome = command("build", release, "--target", "rtx", *options)
        assert outcome.code == 1
        assert message in outcome.err
        assert "stream.fp16.engine" in outcome.err
        assert outcome.err.count("\n") == 1
        assert hashes(engines) == damaged
    outcome = command("build", release, "--target", "rtx", "--rebuild")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("kept") == 2
    names = [f"{name}.engine" for name in NAMES]
    assert {name: hashes(engines)[name] for name in names} == {name: original[name] for name in names}


@needs_rtx
def test_estimate_of_a_build_is_the_duration_of_the_last_one(release: Path, tmp_path: Path) -> None:
    source, estimates = release_engine_source(load_release(release)), []

    def on_start(engine: EngineStatus, estimate_s: float | None) -> None:
        estimates.append((engine.graph.name, estimate_s))

    durations = dict.fromkeys(NAMES, 0.0)
    for out in ("first", "second"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
            for identity, _ in build_engines(source, BuildTarget("rtx"), tmp_path / out, on_start=on_start):
                if out == "first":
                    durations[identity.graph.removesuffix(".onnx")] = identity.seconds
    assert estimates[:3] == [(f"{name}.onnx", None) for name in NAMES]
    assert estimates[3:] == [(f"{name}.onnx", durations[name]) for name in NAMES]


@needs_rtx
@pytest.mark.filterwarnings("ignore:.*iming cache operations are no-ops:DeprecationWarning")
def test_timing_cache_is_kept_with_the_engines(
    release: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT for RTX replaces TensorRT here: its timing cache has the same calls and is empty."""
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


def test_second_build_in_the_same_folder_is_refused(release: Path, command: Command) -> None:
    path = release / "engines" / "rtx"
    with writer_lock(path):
        outcome = command("build", release, "--target", "rtx")
    assert outcome.code == 2
    assert "is being written by another aerogaze" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not path.exists()


def test_lock_of_a_killed_build_is_released(tmp_path: Path) -> None:
    path = tmp_path / "engines"
    script = (
        "import sys, time; from pathlib import Path; from edge.core.locks import writer_lock\n"
        "with writer_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another aerogaze"), writer_lock(path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / ".engines.lock").exists()
    with writer_lock(path):
        pass
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_full_disk_during_a_build_leaves_the_old_engines(engines: Path, release: Path) -> None:
    """A limit on file sizes replaces the full disk: the second engine exceeds it."""
    before = hashes(engines)
    for name in NAMES:
        change_identity(version="0")(engines / f"{name}.engine")
    damaged = hashes(engines)
    size = (engines / "stream.fp32.engine").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1024, resource.RLIM_INFINITY))

    result = subprocess.run(
        [sys.executable, "-m", "edge.cli.main", "build", str(release), "--target", "rtx", "--rebuild"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"aerogaze: cannot write {engines}: File too large; choose a path")
    assert result.stderr.count("\n") == 1
    assert hashes(engines) == damaged
    assert damaged.keys() == before.keys()
    assert [entry.name for entry in engines.parent.iterdir()] == ["rtx"]


@needs_rtx
def test_error_for_a_refused_graph_has_the_message_of_tensorrt() -> None:
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
def test_target_is_parsed(text: str, target: BuildTarget, folder: str) -> None:
    assert BuildTarget.parse(text) == target
    assert target.folder == folder
    assert BuildTarget.parse(str(target)) == target


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_invalid_arguments_are_refused_in_one_line(
    release: Path, command: Command, arguments: list[str], message: str
) -> None:
    outcome = command("build", release, *(word.replace("{release}", str(release)) for word in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    left = [path for path in release.rglob("*") if path.suffix in (".engine", ".lock")]
    assert left == []


def test_build_command_does_not_import_torch_or_onnx() -> None:
    script = "import sys, export.cli.build; print({'torch', 'onnx'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_missing_tensorrt_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(InputError, match=r"only stubs\?\); it comes with JetPack"):
        load_tensorrt("tensorrt")
    monkeypatch.undo()
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(InputError, match=r"cannot be imported .* comes with JetPack"):
            load_tensorrt("tensorrt")
