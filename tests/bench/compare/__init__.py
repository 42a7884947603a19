"""Comparison of two commits, turn by turn, in two worker processes."""
