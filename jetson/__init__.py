"""Carries signed bundles onto boards, and back off them when they fail."""
