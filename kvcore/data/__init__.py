"""What is measured: samples, texts, context pairs and ranking lists, by name or from a file."""
