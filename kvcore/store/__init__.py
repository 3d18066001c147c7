"""Measured rows and written texts on disk."""
