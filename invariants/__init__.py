"""Properties of the instrument, checked on tiny random models."""
