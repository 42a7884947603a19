"""Layers that a scene draws over its ground, at its horizon or in front of its objects."""
