"""Tests of export.networks."""
