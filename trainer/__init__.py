"""Distils big teachers into small students."""
