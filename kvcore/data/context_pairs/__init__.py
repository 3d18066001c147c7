"""Pairs of a problem and the changed one that takes its place while it is being answered."""
