"""Signing keys, signatures and the documents that say which keys are trusted."""
