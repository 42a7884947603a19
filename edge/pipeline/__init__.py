"""Pipeline from a source through a model into sinks, with threads of its own for each stage."""
