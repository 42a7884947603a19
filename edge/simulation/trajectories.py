"""Trajectories of actors, and the roads that some of them follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.simulation.camera import Array, SineNoise


class Trajectory(Protocol):
    """Pose of an actor as a function of time."""

    def pose_at(self, time_s: float) -> tuple[float, float, float]:
        """Return x and y in metres, and the heading in radians clockwise from north."""
        ...


@dataclass(frozen=True)
class StaticPose:
    """Trajectory that stays in place."""

    x: float
    y: float
    heading: float

    def pose_at(self, time_s: float) -> tuple[float, float, float]:
        """Return the pose."""
        return self.x, self.y, self.heading


@dataclass(frozen=True)
class WanderTrajectory:
    """Smooth random motion about a straight line, or about a point if the velocity is zero.

    Attributes:
        x: Start in metres.
        y: Start in metres.
        velocity: Metres per second along x and y.
        wander: Random motion along x and y, in metres.
    """

    x: float
    y: float
    velocity: tuple[float, float]
    wander: tuple[SineNoise, SineNoise]

    def position_at(self, time_s: float) -> tuple[float, float]:
        """Return x and y in metres."""
        return (
            self.x + self.velocity[0] * time_s + self.wander[0].value_at(time_s),
            self.y + self.velocity[1] * time_s + self.wander[1].value_at(time_s),
        )

    def pose_at(self, time_s: float) -> tuple[float, float, float]:
        """Return the position, with the heading along the motion."""
        x, y = self.position_at(time_s)
        ahead = self.position_at(time_s + 0.05)
        return x, y, math.atan2(ahead[0] - x, ahead[1] - y)


@dataclass(frozen=True)
class Road:
    """A gently winding road across the whole world, which repeats without end.

    Attributes:
        along_x: The road runs along x; otherwise along y.
        offset_m: Position of the centre line across the road's direction.
        bend_amplitude_m: Amplitude of the sinusoidal bends.
        bend_count: Number of bends in the world's width.
        phase: Phase of the bends in radians.
        world_m: Width of the world.
        width_m: Width of the road.
    """

    along_x: bool
    offset_m: float
    bend_amplitude_m: float
    bend_count: int
    phase: float
    world_m: float
    width_m: float

    def point(self, along_m: float | Array, aside_m: float) -> tuple[float | Array, float | Array]:
        """Return x and y in metres of a point on the road.

        Args:
            along_m: Distance along the road, a number or an array.
            aside_m: Distance from the centre line, positive towards larger coordinates.
        """
        bend = self.bend_amplitude_m * np.sin(
            2 * math.pi * self.bend_count * along_m / self.world_m + self.phase
        )
        across_m = self.offset_m + bend + aside_m
        return (along_m, across_m) if self.along_x else (across_m, along_m)


@dataclass(frozen=True)
class RoadTrajectory:
    """Motion along a road at constant speed.

    Attributes:
        road: The road.
        start_m: Distance along the road at time 0.
        aside_m: Distance from the centre line.
        speed: Metres per second; negative in the opposite direction.
    """

    road: Road
    start_m: float
    aside_m: float
    speed: float

    def pose_at(self, time_s: float) -> tuple[float, float, float]:
        """Return the position in the lane, with the heading along it."""
        along_m = self.start_m + self.speed * time_s
        x, y = self.road.point(along_m, self.aside_m)
        step = math.copysign(0.5, self.speed)
        ahead = self.road.point(along_m + step, self.aside_m)
        return float(x), float(y), math.atan2(ahead[0] - x, ahead[1] - y)


@dataclass(frozen=True)
class TowedTrajectory:
    """Trajectory of another actor, delayed and shifted to one side.

    Attributes:
        leader: The trajectory that is followed.
        delay_s: Delay in seconds.
        aside_m: Shift to the right of the leader's heading.
    """

    leader: Trajectory
    delay_s: float
    aside_m: float

    def pose_at(self, time_s: float) -> tuple[float, float, float]:
        """Return the delayed pose of the leader, shifted to one side."""
        x, y, heading = self.leader.pose_at(time_s - self.delay_s)
        return (x + self.aside_m * math.cos(heading), y - self.aside_m * math.sin(heading), heading)
