"""The saliency model: order of maps, states, golden maps, blur."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.hardware.host import HostMachine, detect_machine
from edge.inference.runner_factory import open_runner
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.release.manifest import SHIPPED_RELEASES, load_release, save_release
from edge.release.release import GOLDEN_FILE, PRECISIONS
from edge.simulation.world import World


@pytest.mark.parametrize("precision", PRECISIONS)
def test_clip_maps_do_not_depend_on_earlier_frames(flight: np.ndarray, precision: str) -> None:
    model = SaliencyModel("skd-64", precision)
    first = compute_clip_maps(model, flight)
    for frame in flight[::-1]:
        model.infer(model.prepare(frame))
    np.testing.assert_array_equal(compute_clip_maps(model, flight), first)
    model.close()


def test_collect_returns_maps_in_the_order_of_submission(flight: np.ndarray) -> None:
    model = SaliencyModel("skd-64", "fp32")
    model.blur = 0.0
    expected_maps = compute_clip_maps(model, flight)
    assert model.depth == 1  # ONNX Runtime computes at submission
    for frame, expected in zip(flight, expected_maps, strict=True):
        model.submit(model.prepare(frame))
        np.testing.assert_array_equal(model.collect(), expected)


def test_map_depends_on_earlier_frames(flight: np.ndarray) -> None:
    model = SaliencyModel("skd-64", "fp32")
    alone = compute_clip_maps(model, flight[6:7])[0]
    after = compute_clip_maps(model, flight[:7])[-1]
    assert np.abs(alone - after).max() > 1e-4


def test_state_is_the_output_of_its_lag_before(flight: np.ndarray) -> None:
    model, loaded = SaliencyModel("skd-64", "fp32"), load_release("skd-64")
    states = tuple(dataclasses.replace(state, lag_s=0.3) for state in loaded.states)
    lagging = open_runner(dataclasses.replace(loaded, states=states), "fp32")

    def lagging_maps(fps: float) -> list[np.ndarray]:
        lagging.reset(fps)
        clip = [
            model.release.prepare(frame) for frame in flight[[0, *range(len(flight))]]
        ]  # the first is the preroll
        return [lagging.infer({"frame": frame})["saliency"][0, 0].copy() for frame in clip][1:]

    for index, expected in enumerate(lagging_maps(fps=10)):  # three frames before, or the clip's first
        pair = flight[[max(0, index - 3), index]]
        np.testing.assert_allclose(compute_clip_maps(model, pair)[1], expected, atol=1e-6)
    np.testing.assert_array_equal(lagging_maps(fps=1), compute_clip_maps(model, flight))  # at least one frame


def test_golden_frames_are_read_and_never_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor renders other frames."""
    monkeypatch.delattr(World, "frame")
    SaliencyModel("skd-32", "int8").close()


def test_maps_are_not_negative_and_reach_one(flight: np.ndarray) -> None:
    maps = compute_clip_maps(SaliencyModel("skd-64", "int8"), flight)
    assert maps.shape == (12, 64, 64)
    assert (maps >= 0).all()
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1.0, atol=0.02)


def test_model_with_other_golden_maps_is_refused(release) -> None:  # type: ignore[no-untyped-def]
    frames, maps = load_release(release).load_golden()
    np.savez_compressed(release / GOLDEN_FILE, frames=frames, maps=maps[:, ::-1])
    loaded = dataclasses.replace(load_release("skd-64"), folder=release)
    with pytest.raises(InputError, match="does not give its golden maps"):
        SaliencyModel(loaded, "fp32")


def test_native_precisions_depend_on_the_cpu_flags() -> None:
    old = dataclasses.replace(detect_machine(), flags=frozenset({"avx2"}))
    assert not old.computes_natively("int8")
    assert not old.computes_natively("fp16")
    assert old.computes_natively("fp32")
    assert HostMachine("Arm", "aarch64", frozenset({"asimddp", "asimdhp"}), 4, "").computes_natively("fp16")


@pytest.mark.parametrize("name", [path.name for path in sorted(SHIPPED_RELEASES.iterdir())])
def test_every_shipped_release_reproduces_its_golden_maps(name: str) -> None:
    model = SaliencyModel(name, None)  # opening checks the maps
    frames, maps = model.release.load_golden()
    assert compute_clip_maps(model, frames).shape == maps.shape
    model.close()


def test_blur_of_a_release_changes_its_maps_and_not_the_golden_ones(
    release: Path, flight: np.ndarray
) -> None:
    blurred = dataclasses.replace(load_release(release), blur=0.05)
    save_release(blurred)
    assert load_release(release).blur == 0.05
    model, plain = SaliencyModel(load_release(release), "fp32"), SaliencyModel("skd-64", "fp32")
    plain.blur = 0.0
    for frame in flight[:3]:
        actual, sharp = (m.infer(m.prepare(frame)) for m in (model, plain))
        expected = cv2.GaussianBlur(sharp, (0, 0), 0.05 * 64, borderType=cv2.BORDER_REFLECT)
        np.testing.assert_allclose(actual, expected, atol=1e-6)
        assert actual.max() < sharp.max()
    np.testing.assert_array_equal(compute_clip_maps(model, flight), compute_clip_maps(plain, flight))
    assert model.blur == 0.05


@pytest.mark.parametrize("release", ["skd-64", "skd-64-motion", "stream"])
def test_shared_engine_keeps_the_states_of_two_cameras_apart(flight: np.ndarray, release: str) -> None:
    first = SaliencyModel(release, "fp32", 1)
    second = first.share()
    assert second is not None
    alone = [compute_clip_maps(first, clip) for clip in (flight, flight[::-1])]
    first.blur = second.blur = 0.0
    for index in range(len(flight)):
        for model, clip, expected in zip((first, second), (flight, flight[::-1]), alone, strict=True):
            np.testing.assert_array_equal(model.infer(model.prepare(clip[index])), expected[index])
    first.close()
    second.infer(second.prepare(flight[0]))  # the engine is freed with its last user
    second.close()
