"""Finds the ranges of activations from histograms of their values."""
