"""Rolls a bundle out to many boards."""
