"""Tests of the layers of a scene: each draws, moves as it should, and stays where it belongs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge.simulation.actors import Actor, sample_appearance
from edge.simulation.camera import SceneCamera, SineNoise
from edge.simulation.kinds.conditions import sample_cloud_shadows, sample_sky
from edge.simulation.kinds.water_layers import TILE, sample_bubbles
from edge.simulation.layers.layer import Layer, View
from edge.simulation.layers.lights import Beams, Lamps, LowSun
from edge.simulation.layers.skyline import sample_town
from edge.simulation.layers.wakes import Wakes
from edge.simulation.layers.water import Breakers, Flecks, WaterMask
from edge.simulation.layers.wires import Wires
from edge.simulation.materials import Image, sample_noise
from edge.simulation.trajectories import StaticPose, WanderTrajectory

WORLD_M = 200.0
WIDTH, HEIGHT = 128, 72
ALL_WATER = WaterMask(np.full((64, 64), 255, np.uint8), WORLD_M)
NO_WATER = WaterMask(np.zeros((64, 64), np.uint8), WORLD_M)


def camera(pitch: float = 0.9) -> SceneCamera:
    """Return a camera that looks north at the middle of the world."""
    back = 60 * math.cos(pitch)
    position = np.array([WORLD_M / 2, WORLD_M / 2 - back, 60 * math.sin(pitch)])
    return SceneCamera.from_angles(position, 0.0, pitch, 0.0, 0.85 * WIDTH, WIDTH, HEIGHT)


def rng() -> np.random.Generator:
    """Return a generator."""
    return np.random.default_rng(4)


def mover(kind: str) -> Actor:
    """Return an actor that moves through the middle of the world."""
    still = SineNoise(np.zeros(1), np.ones(1), np.zeros(1))
    course = WanderTrajectory(WORLD_M / 2, WORLD_M / 2, (0.0, 8.0), (still, still))
    return Actor(0, sample_appearance(rng(), kind), course, 0.0, 0.0)


def drawn(layer: Layer, time_s: float = 0.0, actors: tuple[Actor, ...] = (), pitch: float = 0.9) -> Image:
    """Return grey ground with a layer."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    layer.draw(image, View(camera(pitch), time_s, actors))
    return image


def wakes(water: WaterMask) -> Wakes:
    """Return wakes without old ones."""
    return Wakes((), sample_bubbles(rng()), 20.0, water, life_s=8.0, spread=0.8)


def test_boat_draws_a_wake_behind_it_on_water_only() -> None:
    boat = mover("boat")
    image = drawn(wakes(ALL_WATER), actors=(boat,))
    bright = np.argwhere(image[..., 0] > 150)
    assert len(bright) > 20
    # The boat heads north, away from the camera, so the wake is below the middle of the image.
    assert bright[:, 0].mean() > HEIGHT / 2
    assert np.array_equal(drawn(wakes(NO_WATER), actors=(boat,)), drawn(wakes(ALL_WATER)))


def test_standing_boat_draws_no_wake() -> None:
    boat = replace(mover("boat"), trajectory=StaticPose(WORLD_M / 2, WORLD_M / 2, 0.0))
    assert np.ptp(drawn(wakes(ALL_WATER), actors=(boat,))) == 0


def test_flecks_appear_and_vanish() -> None:
    flecks = Flecks(sample_noise(rng(), 5, TILE), 30.0, 2.0, 90.0, 6.0, None, ALL_WATER)
    first, later = drawn(flecks), drawn(flecks, 1.0)
    assert np.any(first > 120)
    assert np.any((first > 120) != (later > 120))


def test_breakers_run_and_stay_on_water() -> None:
    foam = np.zeros((TILE, TILE), np.uint8)
    foam[100:140] = 255
    calm = np.full((TILE, TILE), 128, np.uint8)
    on_sea, on_land = (Breakers(foam, calm, 80.0, 0.0, 4.0, water) for water in (ALL_WATER, NO_WATER))
    rows = [np.argwhere(drawn(on_sea, time_s)[:, WIDTH // 2, 0] > 200).min() for time_s in (0.0, 1.0)]
    assert rows[1] < rows[0]  # northwards, which is up in the image
    assert np.abs(drawn(on_land).astype(int) - 90).max() <= 1


def test_cloud_shadows_move() -> None:
    shadows = sample_cloud_shadows(rng(), 60.0)
    first, later = drawn(shadows), drawn(shadows, 3.0)
    assert first.min() < 80
    assert np.any(first != later)


@pytest.mark.parametrize(
    "layer", [sample_sky(rng(), np.full((2, 3), 150.0)), sample_town(rng(), np.full(3, 150.0))]
)
def test_horizon_shows_only_when_it_is_in_view(layer: Layer) -> None:
    assert np.ptp(drawn(layer, pitch=1.2)) == 0
    assert np.ptp(drawn(layer, pitch=0.1)) > 0
    assert np.ptp(drawn(layer, pitch=0.1)[-10:]) == 0


def test_wires_lamps_and_sun_are_drawn() -> None:
    line = np.column_stack([np.linspace(70, 130, 9), np.full(9, 100.0), np.full(9, 8.0)])
    wires = Wires(line[None], line[None, 4, :2], WORLD_M, (20.0, 20.0, 20.0))
    assert drawn(wires).min() < 60
    lamps = Lamps(np.array([[100.0, 100.0, 6.0]]), np.array([0.3]), np.full((1, 3), 255.0), 0.01, WORLD_M)
    assert drawn(lamps).max() == 255
    sun = LowSun(np.array([0.0, 0.98, 0.2]), np.full(3, 250.0), 0.1)
    assert drawn(sun, pitch=0.1)[0].mean() > drawn(sun, pitch=0.1)[-1].mean()


def test_beams_light_the_road_ahead_of_moving_vehicles() -> None:
    beams = Beams(WORLD_M, 100.0)
    lit = np.argwhere(drawn(beams, actors=(mover("car"),))[..., 0] > 120)
    assert len(lit) > 4
    assert lit[:, 0].mean() < HEIGHT / 2  # ahead is north, which is up
    assert np.ptp(drawn(beams, actors=(mover("person"),))) == 0
