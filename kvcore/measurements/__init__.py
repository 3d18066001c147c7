"""The kinds of measurement, each in a module of its own."""
