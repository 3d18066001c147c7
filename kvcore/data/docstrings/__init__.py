"""The default corpus: what the docstrings of installed packages say, as questions and answers."""
