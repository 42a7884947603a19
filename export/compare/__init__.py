"""Compares two graphs or engines, by map and by layer."""
