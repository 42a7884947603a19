from __future__ import annotations

import pytest

from edge.core.errors import InputError
from edge.simulation.world import World
from edge.sources.factory import open_source


def test_synthetic_flight_has_the_size_and_length_of_its_name() -> None:
    source = open_source("synthetic:3:128x96:4")
    frames = list(source)
    assert len(frames) == source.length == 4
    assert frames[0].image.shape == (96, 128, 3)
    assert (frames[0].image != frames[3].image).any()


def test_synthetic_flight_shows_the_kind_of_its_name() -> None:
    source = open_source("synthetic:thermal:3:128x96:1")
    assert source.name == "synthetic:thermal:3:128x96:1"
    (frame,) = source
    assert (frame.image == World(3, 128, 96, kind="thermal").frame(0).image).all()


def test_unknown_kind_of_scene_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no kind of scene 'lunar'; expected one of varied, plain"):
        open_source("synthetic:lunar:3")


@pytest.mark.parametrize(
    "name", ["synthetic:", "synthetic:x", "synthetic:1:10x10", "synthetic:1:0x0", "synthetic:1:64"]
)
def test_invalid_synthetic_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="synthetic"):
        open_source(name)
