"""Readers of saliency data sets, one module per layout."""
