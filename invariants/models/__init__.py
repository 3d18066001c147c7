"""Invariants of `kvcore.models`."""
