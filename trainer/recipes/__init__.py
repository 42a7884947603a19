"""Recipes: the settings of a training, read from TOML and checked."""
