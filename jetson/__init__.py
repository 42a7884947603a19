"""Delivers signed bundles to boards, and reverts them if they fail."""
