"""Runs the command: `python -m edge` is `aerogaze`."""

from edge.cli.main import main

main()
