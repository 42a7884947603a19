"""Makes release folders and verifies their accuracy."""
