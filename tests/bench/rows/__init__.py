"""Rows of the benchmark by theme: each module has a function `benchmarks`."""
