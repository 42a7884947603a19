"""Bundles: signed archives of a release that SWUpdate servers can distribute."""
