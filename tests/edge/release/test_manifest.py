"""Loading, saving and checking releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.inference.runner_factory import open_runner
from edge.metrics.score_calibration import ScoreCalibration
from edge.release.manifest import (
    DEFAULT_RELEASE,
    RELEASE_MANIFEST,
    SHIPPED_RELEASES,
    load_release,
    save_release,
    save_score,
)
from edge.release.release import GOLDEN_FILE


def change_manifest(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    manifest = folder / RELEASE_MANIFEST
    document = json.loads(manifest.read_text())
    edit(document)
    manifest.write_text(json.dumps(document))


def test_default_release_is_complete() -> None:
    release = load_release()
    assert release.name == DEFAULT_RELEASE
    assert release.precisions() == ("fp32", "fp16", "int8")
    assert release.precisions(engine="tensorrt") == ("fp32", "fp16", "int8")
    assert release.preprocessing.alignment is not None  # the default student sees motion
    assert {state.input for state in load_release("skd-64").states} == {"features"}
    assert all(graph.verified and graph.verified.mean_cc > 0.98 for graph in release.graphs)
    frames, maps = release.load_golden()
    assert frames.shape[1:3] == release.preprocessing.resized_shape
    assert maps.shape[1:] == (release.preprocessing.height,) * 2


def test_saved_release_loads_as_the_same_release(release: Path) -> None:
    first = load_release(release)
    before = (release / RELEASE_MANIFEST).read_bytes()
    save_release(first)
    assert (release / RELEASE_MANIFEST).read_bytes() == before
    assert load_release(release) == first


def test_saved_score_is_read_again_and_changes_nothing_else(release: Path) -> None:
    change_manifest(release, lambda document: document.pop("score", None))
    first = load_release(release)
    assert first.score is None, "releases of earlier versions have none"
    before = json.loads((release / RELEASE_MANIFEST).read_text())
    (release / "engines").mkdir()
    score = ScoreCalibration(share=0.25, focus=1.2, offset=-4.5, threshold=0.4)
    save_score(first, score)
    assert load_release(release) == replace(first, score=score)
    after = json.loads((release / RELEASE_MANIFEST).read_text())
    assert after.pop("score") == {"share": 0.25, "focus": 1.2, "offset": -4.5, "threshold": 0.4}
    assert after == before


def test_changed_or_missing_file_is_refused(release: Path) -> None:
    graph = release / "stream.fp32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(InputError, match=r"stream\.fp32\.onnx is not the file that was released"):
        load_release(release)
    graph.unlink()
    with pytest.raises(InputError, match=r"lacks stream\.fp32\.onnx"):
        load_release(release)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(schema=2), "schema 2; this aerogaze reads schema 1"),
        (lambda d: d.pop("schema"), "schema None"),
        (lambda d: d.pop("graphs"), "lacks 'graphs'"),
        (lambda d: d["graphs"][0].update(precision="fp8"), "malformed.*fp8"),
        (lambda d: d.update(blur=1), "malformed.*a blur of 1 widths; expected 0 to 0.25"),
        (lambda d: d.update(score={"share": 1, "focus": 1, "offset": 0}), "lacks 'threshold'"),
        (
            lambda d: d.update(score={"share": 1, "focus": 1, "offset": 0, "threshold": 2}),
            "malformed.*a threshold of 2.0; expected 0 to 1",
        ),
        (lambda d: d["files"].pop("golden.npz"), "lists no hash of golden.npz"),
        (lambda d: d["files"].update({"../x": {"sha256": "", "size_bytes": 0}}), r"lists '\.\./x'"),
        (lambda d: d["preprocessing"].update(width=0), "0 is not an integer of at least 1"),
        (lambda d: d["preprocessing"].update(offset="x"), "'x' is not a finite number"),
        (lambda d: d.update(delay_frames=-1), "-1 is not an integer of at least 0"),
        (lambda d: d.update(name=None), "None is not a non-empty string"),
        (lambda d: d.update(inputs=[]), "inputs is empty"),
        (lambda d: d["states"][0].update(shape=[1, 64.0]), "64.0 is not an integer of at least 1"),
        (lambda d: d["states"][0].update(lag_s=3), "a lag of 3 s; expected 0 to 2"),
        (lambda d: d["graphs"][0]["verified"].update(max_error="x"), "'x' is not a finite number"),
    ],
)
def test_malformed_manifest_is_refused(release: Path, edit: Callable[[Any], Any], message: str) -> None:
    change_manifest(release, edit)
    with pytest.raises(InputError, match=message):
        load_release(release)


def test_loading_something_else_than_a_release_is_refused(tmp_path: Path, release: Path) -> None:
    with pytest.raises(InputError, match="shipped releases: skd-"):
        load_release("nonsense")
    with pytest.raises(InputError, match=r"has no release\.json"):
        load_release(tmp_path)
    (release / RELEASE_MANIFEST).write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        load_release(release)


def test_unknown_or_missing_precision_is_refused() -> None:
    release = load_release()
    with pytest.raises(InputError, match="unknown precision 'int4'; expected one of fp32, fp16, int8"):
        release.graph("int4")
    with pytest.raises(InputError, match="has no fp32 graph in pair form"):
        release.graph("fp32", "pair")


def replace_golden_set(folder: Path, content: bytes | dict[str, np.ndarray]) -> None:
    """Replace the golden set and its hash."""
    path = folder / GOLDEN_FILE
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez_compressed(path, **content)  # type: ignore[arg-type]
    entry = {"sha256": sha256(path), "size_bytes": path.stat().st_size}
    change_manifest(folder, lambda d: d["files"].update({GOLDEN_FILE: entry}))


FRAMES, MAPS = np.zeros((8, 64, 64, 3), np.uint8), np.ones((8, 64, 64), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"not a zip", "cannot be read"),
        ({"frames": FRAMES}, "cannot be read"),
        ({"frames": FRAMES, "maps": MAPS[:7]}, "expected uint8"),
        ({"frames": FRAMES[:0], "maps": MAPS[:0]}, "expected uint8"),
        ({"frames": FRAMES.astype(np.float32), "maps": MAPS}, "expected uint8"),
    ],
    ids=["empty", "no zip", "no maps", "too few maps", "no frames", "wrong type"],
)
def test_malformed_golden_set_is_refused(
    release: Path, content: bytes | dict[str, np.ndarray], message: str
) -> None:
    replace_golden_set(release, content)
    with pytest.raises(InputError, match=message):
        load_release(release).load_golden()


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(output="heat"),
        lambda d: d.update(inputs=["image", "other"]),
        lambda d: d.update(states=[]),
        lambda d: d["states"][0].update(shape=[1, 64, 8, 8]),
    ],
)
def test_graph_with_other_tensors_than_the_manifest_is_refused(
    release: Path, edit: Callable[[Any], Any]
) -> None:
    change_manifest(release, edit)
    with pytest.raises(InputError, match=r"has tensors .* the release says"):
        open_runner(load_release(release), "fp32")


def test_default_release_is_the_shipped_one_even_if_the_working_directory_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / DEFAULT_RELEASE).mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_release().folder == SHIPPED_RELEASES / DEFAULT_RELEASE
