"""Ranges of activations over real frames, and the Q/DQ nodes made from them."""
