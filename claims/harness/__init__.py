"""What declares, measures and judges the claims; the claims themselves are the tests beside it."""
