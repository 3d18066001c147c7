"""Running the model: passes, batches, caches from recipes."""
