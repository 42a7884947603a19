"""The command line: entry point, `run` and `profile`."""
