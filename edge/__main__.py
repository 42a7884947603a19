"""Entry point of `python -m edge`, the same as `aerogaze`."""

from edge.cli.main import main

main()
