from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge import release as releases
from edge.errors import InputError
from edge.machine import Machine, this_machine
from edge.model import SaliencyModel, clip_maps


@pytest.mark.parametrize("precision", releases.PRECISIONS)
def test_a_fresh_start_forgets_the_past(flight: np.ndarray, precision: str) -> None:
    model = SaliencyModel(None, precision)
    first = clip_maps(model, flight)
    for frame in flight[::-1]:
        model.infer(model.prepare(frame))
    np.testing.assert_array_equal(clip_maps(model, flight), first)
    model.close()


def test_the_past_counts(flight: np.ndarray) -> None:
    model = SaliencyModel(None, "fp32")
    alone = clip_maps(model, flight[6:7])[0]
    after = clip_maps(model, flight[:7])[-1]
    assert np.abs(alone - after).max() > 1e-4


def test_a_state_that_lags_is_what_was_given_so_long_ago(flight: np.ndarray) -> None:
    loaded = releases.load()
    lagging = dataclasses.replace(
        loaded, states=tuple(dataclasses.replace(s, lag_s=0.3) for s in loaded.states)
    )
    model, plain = SaliencyModel(lagging, "fp32"), SaliencyModel(loaded, "fp32")
    model.reset(fps=10)  # three frames back, or the clip's first
    maps = [model.infer(model.prepare(frame)).copy() for frame in flight]
    for index, expected in enumerate(maps):
        pair = flight[[max(0, index - 3), index]]
        np.testing.assert_allclose(clip_maps(plain, pair)[1], expected, atol=1e-6)
    model.reset(fps=1)  # never less than one
    np.testing.assert_array_equal(
        [model.infer(model.prepare(frame)).copy() for frame in flight], clip_maps(plain, flight)
    )


def test_maps_are_densities_up_to_a_factor(flight: np.ndarray) -> None:
    maps = clip_maps(SaliencyModel(None, "int8"), flight)
    assert maps.shape == (12, 64, 64)
    assert (maps >= 0).all()
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1.0, atol=0.02)


def test_maps_that_are_not_the_golden_ones_are_refused(release) -> None:  # type: ignore[no-untyped-def]
    frames, maps = releases.load(release).golden()
    np.savez_compressed(release / releases.GOLDEN, frames=frames, maps=maps[:, ::-1])
    loaded = dataclasses.replace(releases.load(), folder=release)
    with pytest.raises(InputError, match="does not give its golden maps"):
        SaliencyModel(loaded, "fp32")


def test_native_precisions_follow_the_processor() -> None:
    old = dataclasses.replace(this_machine(), flags=frozenset({"avx2"}))
    assert not old.native("int8")
    assert not old.native("fp16")
    assert old.native("fp32")
    assert Machine("Arm", "aarch64", frozenset({"asimddp", "asimdhp"}), 4, "").native("fp16")
