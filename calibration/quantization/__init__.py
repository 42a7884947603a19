"""Inserts Q/DQ nodes into graphs, writes DLA calibration caches and emulates float16."""
