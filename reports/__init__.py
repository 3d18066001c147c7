"""Verdicts as a terminal table, JUnit properties, one HTML page and results.json."""
