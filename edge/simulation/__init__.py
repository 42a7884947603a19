"""A procedural aerial world: endless synthetic drone footage with ground truth, generated from a seed."""
