"""Bundles: signed archives of a release."""
