"""What runs on the board: install, trial, slots, roll-back, service."""
