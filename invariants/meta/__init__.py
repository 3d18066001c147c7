"""Tests of the harness that judges the claims."""
