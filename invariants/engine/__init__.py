"""Invariants of `kvcore.engine`."""
