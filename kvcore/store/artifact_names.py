"""Files that are named by what they hold."""

from __future__ import annotations

import hashlib
import re

_HASHED = re.compile(r"[a-z]+-\d+-([0-9a-f]{32})\.[a-z]+")


def fingerprint(data: bytes) -> str:
    """Return the hash in the name of a file with these bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def holds_what_it_says(name: str, data: bytes) -> bool:
    """Whether a file has the bytes that it is named by; True for a name without a hash."""
    match = _HASHED.fullmatch(name)
    return match is None or match[1] == fingerprint(data)
