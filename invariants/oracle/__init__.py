"""The plain procedure: one sample at a time, no cache surgery, nothing shared."""
