"""Invariants of `kvcore.measurements`."""
