"""Tests of `kvcore.analysis`."""
