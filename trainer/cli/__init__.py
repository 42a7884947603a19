"""The commands `train`, `label`, `evaluate` and `annotate`."""
