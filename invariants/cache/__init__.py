"""Invariants of `kvcore.cache`."""
