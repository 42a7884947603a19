"""Scores of saliency maps against gaze, densities and boxes."""
