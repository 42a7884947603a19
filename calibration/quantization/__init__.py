"""Puts Q/DQ nodes into graphs, writes DLA caches and emulates fp16."""
