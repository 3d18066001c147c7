"""Invariants of `kvcore.store`."""
