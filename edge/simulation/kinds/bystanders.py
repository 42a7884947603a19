"""Figures that may move but attract no gaze: crowds, herds and flocks."""

from __future__ import annotations

import math

from edge.simulation.actors import Actor, sample_appearance, typical_gait_rate
from edge.simulation.camera import Array, SineNoise
from edge.simulation.materials import Rng
from edge.simulation.trajectories import StaticPose, Trajectory, WanderTrajectory


def sample_crowd(rng: Rng, kind: str, centre: Array, spread_m: float, count: int) -> tuple[Actor, ...]:
    """Sample figures in groups. Half of them stand; the others shift about their place.

    Args:
        rng: Random numbers.
        kind: Kind of the figures.
        centre: (2,), middle of the crowd in metres.
        spread_m: Standard deviation of the groups' places in metres.
        count: Number of figures.
    """
    looks = [sample_appearance(rng, kind) for _ in range(6)]
    groups = centre + rng.normal(0, spread_m, (int(rng.integers(1, 6)), 2))
    tight_m = max(1.2 * math.sqrt(count / len(groups)), 0.15 * spread_m)
    crowd = []
    for _ in range(count):
        x, y = groups[int(rng.integers(len(groups)))] + rng.normal(0, tight_m, 2)
        heading = rng.uniform(0, 2 * math.pi)
        trajectory: Trajectory = StaticPose(float(x), float(y), heading)
        speed = 0.0
        if rng.random() < 0.5:
            # A walk of a pace or two: less than what would draw the eye.
            wander = (SineNoise.sample(rng, 0.5, 9.0), SineNoise.sample(rng, 0.5, 9.0))
            trajectory, speed = WanderTrajectory(float(x), float(y), (0.0, 0.0), wander), 0.3
        phase = float(rng.uniform(0, 2 * math.pi))
        look = looks[int(rng.integers(len(looks)))]
        crowd.append(Actor(-1, look, trajectory, phase, typical_gait_rate(kind, speed)))
    return tuple(crowd)


def sample_herd(rng: Rng, centre: Array, view_m: float) -> tuple[Actor, ...]:
    """Sample grazing animals of one or two coats."""
    looks = [sample_appearance(rng, "animal") for _ in range(int(rng.integers(1, 3)))]
    spot = centre + rng.normal(0, 0.3 * view_m, 2)
    spread_m = rng.uniform(4, 0.15 * view_m + 5)
    herd = []
    for _ in range(int(rng.integers(4, 24))):
        x, y = spot + rng.normal(0, spread_m, 2)
        pose = StaticPose(float(x), float(y), float(rng.uniform(0, 2 * math.pi)))
        look, phase = looks[int(rng.integers(len(looks)))], float(rng.uniform(0, 2 * math.pi))
        herd.append(Actor(-1, look, pose, phase, 0.0))
    return tuple(herd)


def sample_flock(rng: Rng, centre: Array, view_m: float) -> tuple[Actor, ...]:
    """Sample birds that cross the view together."""
    look = sample_appearance(rng, "bird")
    angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(5, 12)
    velocity = (speed * math.sin(angle), speed * math.cos(angle))
    spot = centre + rng.normal(0, 0.3 * view_m, 2)
    birds = []
    for _ in range(int(rng.integers(1, 12))):
        x, y = spot + rng.normal(0, 0.06 * view_m + 1.5, 2)
        wander = (SineNoise.sample(rng, 1.0, 3.0), SineNoise.sample(rng, 1.0, 3.0))
        trajectory = WanderTrajectory(float(x), float(y), velocity, wander)
        phase = float(rng.uniform(0, 2 * math.pi))
        birds.append(Actor(-1, look, trajectory, phase, typical_gait_rate("bird", speed)))
    return tuple(birds)
