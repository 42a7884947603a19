"""Chooses which layers run in int8: accuracy, latency and the search between them."""
