"""Invariants of `kvcore.data`."""
