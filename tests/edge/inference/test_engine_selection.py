"""Which engine runs a release, and which plan may be loaded."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.hardware.gpu import Gpu, detect_gpu
from edge.inference.engine_selection import BuiltPlan, _unfit, read_plan, select_engine, trust_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.engine_identity import (
    RTX_DEFAULT_CAPABILITIES,
    EngineIdentity,
    expected_identity,
)
from edge.release.manifest import load_release
from tests.conftest import Outcome
from tests.edge.cli.test_main import Command

no_gpu = pytest.mark.skipif(detect_gpu() is not None, reason="there is a GPU")


@no_gpu
@pytest.mark.parametrize("choice", ["auto", "onnxruntime"])
def test_without_a_gpu_it_is_onnx_runtime(release: Path, choice: str) -> None:
    (release / "engines" / "rtx").mkdir(parents=True)
    (release / "engines" / "rtx" / "stream.fp32.engine").write_bytes(b"plan")
    chosen = select_engine(load_release(release), "fp32", "stream", choice)  # type: ignore[arg-type]
    assert (chosen.graph.file, chosen.plan, chosen.fallback_reason) == ("stream.fp32.onnx", None, "")


@no_gpu
@pytest.mark.parametrize("words", [["run", "synthetic:7"], ["profile"]])
def test_tensorrt_without_a_gpu_is_one_line(command: Command, words: list[str]) -> None:
    outcome: Outcome = command(*words, "--engine", "tensorrt")
    assert outcome.code == 2
    assert "no NVIDIA GPU here, or no driver for one, so no TensorRT engine runs" in outcome.err
    assert "take --engine onnxruntime" in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_unknown_engine_is_one_line(command: Command) -> None:
    outcome = command("run", "synthetic:7", "--engine", "openvino")
    assert outcome.code == 2
    assert "'openvino' is not one of 'auto', 'onnxruntime', 'tensorrt'" in outcome.err


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path_factory.mktemp("cache")))
    trust_plan(DIGEST)
    (tmp_path / "a.engine.json").write_text("{}")
    (tmp_path / "a.engine").write_bytes(b"plan")
    for place in (tmp_path, *tmp_path.iterdir()):
        place.chmod(0o755)
    return tmp_path / "a.engine"


DIGEST = hashlib.sha256(b"plan").hexdigest()


def test_auto_takes_a_plan_only_where_it_was_built_and_else_says_why(
    release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edge.inference.engine_selection.detect_gpu", lambda: Gpu("card", "8.9"))
    monkeypatch.setattr("edge.inference.tensorrt.engine_identity.tensorrt_version", lambda kind: "1.2")
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
    opened, folder = load_release(release), release / "engines" / "rtx"
    folder.mkdir(parents=True)
    (folder / "stream.fp32.engine").write_bytes(b"plan")
    wanted = expected_identity(opened.path(opened.graph("fp32", "stream", "tensorrt")), BuildTarget("rtx"))
    replace(wanted, plan_sha256=DIGEST).write(folder)
    chosen = select_engine(opened, "fp32", "stream", "auto")
    assert chosen.plan is None
    assert (
        "stream.fp32.engine was not built by you on this machine, and an engine is code"
        in chosen.fallback_reason
    )
    assert f"aerogaze build {release} --target rtx --rebuild makes one" in chosen.fallback_reason
    with pytest.raises(InputError, match="was not built by you"):
        select_engine(opened, "fp32", "stream", "tensorrt")
    trust_plan(DIGEST)
    chosen = select_engine(opened, "fp32", "stream", "auto")
    assert (chosen.plan, chosen.fallback_reason) == (
        BuiltPlan(folder / "stream.fp32.engine", "rtx", DIGEST),
        "",
    )


def test_a_plan_is_read_once_and_is_what_was_built(engine: Path) -> None:
    assert read_plan(engine, DIGEST) == b"plan"
    engine.write_bytes(b"Plan")
    with pytest.raises(InputError, match=r"a\.engine is not the file that was built \(its hash differs\)"):
        read_plan(engine, DIGEST)


def test_a_plan_that_came_with_a_release_is_not_loaded(
    engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "another"))
    with pytest.raises(InputError, match="was not built by you on this machine, and an engine is code"):
        read_plan(engine, DIGEST)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if engine.stat().st_uid == 0:  # as a board's service finds what its install, by root, has built
        assert read_plan(engine, DIGEST) == b"plan"


@pytest.mark.parametrize("name", ["", "a.engine", "a.engine.json"], ids=["folder", "plan", "identity"])
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_a_plan_that_others_could_have_written_is_refused(engine: Path, name: str, how: str) -> None:
    place = engine.parent / name
    if how == "mode":
        place.chmod(0o777)
    elif os.geteuid() != 0:
        pytest.skip("only root gives files away")
    else:
        os.chown(place, 65534, -1)
    with pytest.raises(InputError, match="and an engine is code: build it again, or chown"):
        read_plan(engine, DIGEST)


@pytest.mark.parametrize(
    ("kind", "capabilities", "here", "fits"),
    [
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "8.0", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "12.0", True),
        ("rtx", (RTX_DEFAULT_CAPABILITIES,), "7.5", False),
        ("rtx", ("8.6", "8.9"), "8.9", True),
        ("rtx", ("8.6",), "8.9", False),
        ("tensorrt", ("8.7",), "8.7", True),
    ],
)
def test_the_gpu_must_be_one_of_the_engines(
    kind: str, capabilities: tuple[str, ...], here: str, fits: bool
) -> None:
    identity = EngineIdentity("f", "g", "rtx", kind, "1", capabilities, None, None, None, "", {})
    differs = _unfit(identity, Gpu("card", here))
    assert (differs == []) == fits
    assert fits or differs == [f"compute capability {', '.join(capabilities)}, this GPU has {here}"]
