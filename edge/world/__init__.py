"""A procedural aerial world: endless labelled drone footage, made from a seed."""

from edge.world.clip import Frame, Target, World

__all__ = ["Frame", "Target", "World"]
