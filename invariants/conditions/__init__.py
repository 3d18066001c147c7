"""Invariants of `kvcore.conditions`."""
