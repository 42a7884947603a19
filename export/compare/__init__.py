"""Compares two graphs or engines, by their maps and layer by layer."""
