"""One module per kind of measurement; each is found by itself and registers one kind."""
