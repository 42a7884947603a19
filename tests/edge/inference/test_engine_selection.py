"""Selection of the engine for a release, and the checks before a plan is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.hardware.cuda_driver import ERRORS, ask_driver
from edge.hardware.gpu import Gpu, detect_gpu
from edge.inference.cuda.backend import open_cuda
from edge.inference.engine_selection import (
    BuiltPlan,
    _find_gpu_mismatch,
    read_plan,
    select_engine,
    trust_plan,
)
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.engine_identity import (
    RTX_DEFAULT_CAPABILITIES,
    EngineIdentity,
    expected_identity,
)
from edge.release.manifest import load_release
from tests.conftest import Outcome
from tests.support.machines import StandInDriver

DIGEST = hashlib.sha256(b"plan").hexdigest()
Command = Callable[..., Outcome]
no_gpu = pytest.mark.skipif(
    detect_gpu() is not None, reason="needs a machine without a GPU, and this one has one"
)


@no_gpu
@pytest.mark.parametrize("choice", ["auto", "onnxruntime"])
def test_onnx_runtime_is_selected_without_a_gpu(release: Path, choice: str) -> None:
    selected = select_engine(load_release(release), "fp32", "stream", choice)  # type: ignore[arg-type]
    assert (selected.graph.file, selected.plan, selected.fallback_reason) == ("stream.fp32.onnx", None, "")
    (release / "engines" / "rtx").mkdir(parents=True)
    (release / "engines" / "rtx" / "stream.fp32.engine").write_bytes(b"plan")
    selected = select_engine(load_release(release), "fp32", "stream", choice)  # type: ignore[arg-type]
    assert (selected.graph.file, selected.plan) == ("stream.fp32.onnx", None)
    reason = "there is no NVIDIA GPU here, or no driver for one, so no TensorRT engine runs"
    assert selected.fallback_reason.startswith(reason if choice == "auto" else "")
    assert bool(selected.fallback_reason) == (choice == "auto")


@pytest.mark.parametrize("code", [100, 801, 803, 999])
def test_auto_names_the_error_of_cuinit_and_its_remedy_when_it_runs_on_the_cpu(
    release: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr("edge.hardware.gpu.ask_driver", lambda: ask_driver(StandInDriver(code)))
    loaded = load_release(release)
    selected = select_engine(loaded, "fp32", "stream", "auto")
    assert (selected.graph.file, selected.plan) == ("stream.fp32.onnx", None)
    assert (
        f"cuInit gives {code}, {ERRORS[code].name}, so no TensorRT engine runs: " in selected.fallback_reason
    )
    with pytest.raises(InputError, match=f"cuInit gives {code}, {ERRORS[code].name}.* or take --engine onn"):
        select_engine(loaded, "fp32", "stream", "tensorrt")
    with pytest.raises(InputError, match=f"cuInit gives {code}, {ERRORS[code].name}: .*ONNX Runtime"):
        open_cuda()


def test_auto_says_that_no_engine_was_built_for_a_working_gpu(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.hardware.gpu.ask_driver", lambda: ask_driver(StandInDriver()))
    selected = select_engine(load_release(release), "fp32", "stream", "auto")
    assert selected.plan is None
    assert selected.fallback_reason.startswith(
        "no engine of stream.fp32.onnx was built for Orin; aerogaze build"
    )


@no_gpu
@pytest.mark.parametrize("words", [["run", "synthetic:7"], ["profile"]])
def test_requesting_tensorrt_without_a_gpu_fails_with_one_line(command: Command, words: list[str]) -> None:
    outcome: Outcome = command(*words, "--engine", "tensorrt")
    assert outcome.code == 2
    assert "no NVIDIA GPU here, or no driver for one, so no TensorRT engine runs" in outcome.err
    assert "take --engine onnxruntime" in outcome.err
    assert outcome.err.count("\n") == 1


def test_unknown_engine_is_refused(command: Command) -> None:
    outcome = command("run", "synthetic:7", "--engine", "openvino")
    assert outcome.code == 2
    assert "'openvino' is not one of 'auto', 'onnxruntime', 'tensorrt'" in outcome.err


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path_factory.mktemp("cache")))
    trust_plan(DIGEST)
    (tmp_path / "a.engine.json").write_text("{}")
    (tmp_path / "a.engine").write_bytes(b"plan")
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    return tmp_path / "a.engine"


def test_auto_uses_a_plan_only_if_it_was_built_here_and_reports_why_not(
    release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edge.inference.engine_selection.detect_gpu", lambda: Gpu("card", "8.9"))
    monkeypatch.setattr("edge.inference.tensorrt.engine_identity.tensorrt_version", lambda kind: "1.2")
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
    loaded, folder = load_release(release), release / "engines" / "rtx"
    folder.mkdir(parents=True)
    (folder / "stream.fp32.engine").write_bytes(b"plan")
    expected = expected_identity(loaded.path(loaded.graph("fp32", "stream", "tensorrt")), BuildTarget("rtx"))
    replace(expected, plan_sha256=DIGEST).write(folder)
    selected = select_engine(loaded, "fp32", "stream", "auto")
    assert selected.plan is None
    assert (
        "stream.fp32.engine was not built by you on this machine, and an engine is code"
        in selected.fallback_reason
    )
    assert f"aerogaze build {release} --target rtx --rebuild makes one" in selected.fallback_reason
    with pytest.raises(InputError, match="was not built by you"):
        select_engine(loaded, "fp32", "stream", "tensorrt")
    trust_plan(DIGEST)
    selected = select_engine(loaded, "fp32", "stream", "auto")
    assert (selected.plan, selected.fallback_reason) == (
        BuiltPlan(folder / "stream.fp32.engine", "rtx", DIGEST),
        "",
    )


def test_read_plan_refuses_a_plan_that_has_changed(engine: Path) -> None:
    assert read_plan(engine, DIGEST) == b"plan"
    engine.write_bytes(b"Plan")
    with pytest.raises(InputError, match=r"a\.engine is not the file that was built \(its hash differs\)"):
        read_plan(engine, DIGEST)


def test_read_plan_refuses_a_plan_that_came_with_a_release(
    engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "another"))
    with pytest.raises(InputError, match="was not built by you on this machine, and an engine is code"):
        read_plan(engine, DIGEST)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if engine.stat().st_uid == 0:  # on a board, root installs and the service runs as another user
        assert read_plan(engine, DIGEST) == b"plan"


@pytest.mark.parametrize("name", ["", "a.engine", "a.engine.json"], ids=["folder", "plan", "identity"])
@pytest.mark.parametrize("writable_by", ["mode", "owner"])
def test_read_plan_refuses_a_plan_that_others_can_write(engine: Path, name: str, writable_by: str) -> None:
    path = engine.parent / name
    if writable_by == "mode":
        path.chmod(0o777)
    elif os.geteuid() != 0:
        pytest.skip("only root can change the owner of a file")
    else:
        os.chown(path, 65534, -1)
    with pytest.raises(InputError, match="and an engine is code: build it again, or chown"):
        read_plan(engine, DIGEST)


@pytest.mark.parametrize(
    ("kind", "capabilities", "actual", "matches"),
    [
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "8.0", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "8.6", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "8.9", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "12.0", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "12.1", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "8.7", False),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "9.0", False),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "10.0", False),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "11.0", False),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "7.5", False),
        ("rtx", ("8.6", "8.9"), "8.9", True),
        ("rtx", ("8.6",), "8.9", False),
        ("tensorrt", ("8.7",), "8.7", True),
    ],
)
def test_gpu_must_have_a_compute_capability_of_the_engine(
    kind: str, capabilities: tuple[str, ...], actual: str, matches: bool
) -> None:
    identity = EngineIdentity("f", "g", "rtx", kind, "1", capabilities, None, None, None, "", {})
    mismatches = _find_gpu_mismatch(identity, Gpu("card", actual))
    assert (mismatches == []) == matches
    assert matches or mismatches == [f"compute capability {', '.join(capabilities)}, this GPU has {actual}"]
