"""Foundations that every other package uses: errors, frames, files, locks, run status."""
