"""Invariants of the reports."""
