"""Tests of `kvcore.verdict`."""
