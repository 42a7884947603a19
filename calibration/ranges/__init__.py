"""Activation ranges from histograms."""
