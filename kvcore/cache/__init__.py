"""The KV cache as an immutable value, and what it takes to edit one exactly."""
