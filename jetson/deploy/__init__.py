"""Pushes bundles and runtimes from the desk to one board."""
