"""What can be loaded, and loading it."""
