"""The findings, one short test each, and the small harness that judges them."""
