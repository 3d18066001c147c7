"""Which parts of a cache an answer's attention is divided among, and which of them hold sinks."""

from __future__ import annotations

SINGLE = 8
"""Tokens of the prefix, and of the document, that have a part of the profile of their own."""
PARTS = (
    "BOS",
    *(f"prefix {n}" for n in range(1, SINGLE + 1)),
    "rest of the prefix",
    *(f"document {n}" for n in range(1, SINGLE + 1)),
    "rest of the document",
    "behind the document",
    "question and answer",
)
"""What the profile of an answer's attention is divided into."""
SINK_PARTS = ("BOS", "prefix", "document", "behind the document")
