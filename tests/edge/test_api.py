"""The public Python API, used as a notebook uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.metrics.saliency import cc


def test_public_names_are_those_of_the_api_module() -> None:
    from edge import api

    assert edge.__all__ == api.__all__
    assert all(getattr(edge, name) is getattr(api, name) for name in edge.__all__)
    assert set(edge.__all__) <= set(dir(edge))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = edge.no_such_name


def test_import_loads_no_engine_and_no_arrays() -> None:
    code = "import sys, edge; print(sorted({'numpy', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_results_of_a_video_file_are_those_of_its_images(video: Path) -> None:
    with edge.open_model("skd-64", precision="int8", threads=1) as model:
        from_file = list(edge.run_model(model, video))
        images = [result.frame.image for result in from_file]
        from_images = list(edge.run_model(model, images, fps=10))
    assert [result.frame.index for result in from_file] == list(range(12))
    assert all(result.saliency.shape == (64, 64) and result.latency_ms > 0 for result in from_file)
    for first, second in zip(from_file, from_images, strict=True):
        np.testing.assert_array_equal(first.saliency, second.saliency)
    assert any(result.regions for result in from_file)


def test_delayed_student_gives_one_result_per_frame(flight: np.ndarray) -> None:
    release = edge.load_release("skd-64")
    with edge.open_model(release, threads=1) as model:
        results = list(edge.run_model(model, iter(flight), fps=10))
        assert [result.frame.index for result in results] == list(range(len(flight)))
        # The last map looks ahead to a frame that does not exist: the last frame stands for it.
        model.reset(10)
        maps = [
            model.infer(model.prepare(image)) for image in [*flight, *[flight[-1]] * release.delay_frames]
        ]
    for result, saliency in zip(results, maps[release.delay_frames :], strict=True):
        assert cc(result.saliency, saliency) > 0.9  # the analyzer smooths over time


def test_missing_source_is_refused_in_one_line() -> None:
    with (
        edge.open_model("skd-64", threads=1) as model,
        pytest.raises(edge.InputError, match=r"no source 'no_such_file\.mp4'"),
    ):
        next(edge.run_model(model, "no_such_file.mp4"))
