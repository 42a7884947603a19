"""Inserts Q/DQ nodes into graphs and emulates float16."""
