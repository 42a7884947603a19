"""A procedural aerial world: endless labelled drone footage, made from a seed."""
