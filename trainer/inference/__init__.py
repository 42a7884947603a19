"""Runs students and teachers in PyTorch: predictors, pseudo labels, profiler runner."""
