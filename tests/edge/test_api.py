"""The public Python API, used as a notebook uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
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


def decode(picture: object) -> np.ndarray:
    """Return the PNG that a notebook shows."""
    image = cv2.imdecode(np.frombuffer(picture._repr_png_(), np.uint8), cv2.IMREAD_COLOR)  # type: ignore[attr-defined]
    assert image is not None
    return image


def test_frames_maps_and_regions_show_themselves_in_a_notebook(video: Path) -> None:
    with edge.open_model("skd-64", precision="int8", threads=1) as model:
        results = [result for result in edge.run_model(model, video) if result.regions]
    result = results[-1]
    np.testing.assert_array_equal(decode(result.frame), result.frame.image)
    overlay = decode(result)
    assert overlay.shape == result.frame.image.shape
    assert np.abs(overlay.astype(int) - result.frame.image).max() > 50
    heat = decode(result.map_picture)
    assert heat.shape == (144, 256, 3)
    row, column = np.unravel_index(heat.sum(axis=2).argmax(), heat.shape[:2])
    peak = np.unravel_index(result.saliency.argmax(), result.saliency.shape)
    assert (row / 144, column / 256) == pytest.approx((peak[0] / 64, peak[1] / 64), abs=0.03)
    region = result.regions[0]
    crop = decode(result.crop(region))
    assert crop.shape[1] == pytest.approx((region.right - region.left) * result.frame.width, abs=2)


def test_region_at_the_border_still_has_a_picture() -> None:
    frame = edge.Frame(0, 0.0, np.zeros((18, 32, 3), np.uint8))
    region = edge.Region(0.0, 0.0, -0.2, -0.2, 0.0, 0.0, 0.5)
    result = edge.ShownResult(frame, np.zeros((4, 4), np.float32), 1.0, (region,))
    assert decode(result.crop(region)).shape == (1, 1, 3)
    assert decode(result.map_picture).shape[1] == 256
