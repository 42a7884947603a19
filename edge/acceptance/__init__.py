"""Acceptance of a GPU or a board: what the page of GPU results asks for, measured by one command."""
