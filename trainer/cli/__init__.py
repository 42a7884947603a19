"""The commands `train`, `label` and `evaluate`."""
