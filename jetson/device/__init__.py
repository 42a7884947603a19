"""Installs bundles on the board: two slots, trial of the engines, roll-back and the service."""
