"""Measures engines and reports what was measured."""
