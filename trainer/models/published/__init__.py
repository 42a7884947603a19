"""Weights that the authors of papers published, read into our networks."""
