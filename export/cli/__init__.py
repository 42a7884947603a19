"""The commands `export`, `calibrate`, `sensitivity`, `build`, `compare` and `demo`."""
