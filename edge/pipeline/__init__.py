"""Runs frames through a model into sinks, each stage on threads of its own."""
