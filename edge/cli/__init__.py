"""Command line: entry point, and the commands `run` and `profile`."""
