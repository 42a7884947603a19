"""Losses that students and teachers are trained with."""
