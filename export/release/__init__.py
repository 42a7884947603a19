"""Builds release folders and verifies their accuracy."""
