"""Interface of a layer: something that is drawn on the image as a whole, at its place in the order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge.simulation.actors import Actor
from edge.simulation.camera import SceneCamera
from edge.simulation.materials import Image


@dataclass(frozen=True)
class View:
    """A moment of a scene as the camera sees it.

    Attributes:
        camera: The camera, for the image that is drawn on.
        time_s: Time in seconds.
        actors: The possible targets of the scene.
    """

    camera: SceneCamera
    time_s: float
    actors: tuple[Actor, ...]


class Layer(Protocol):
    """Part of a scene that is neither ground nor object."""

    def draw(self, image: Image, view: View) -> None:
        """Draw on the image (H, W, 3) in place."""
        ...
