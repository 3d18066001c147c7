"""Speed and memory of this engine against its peers, measured in one interleaved run."""
