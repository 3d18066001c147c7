"""Files as users bring them, and texts as hostile as they can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

hostile_text = st.text(st.characters(exclude_categories=()), max_size=12)
"""Lone surrogates and control characters included: files may hold them."""


def jsonl(path: Path, *lines: str | bytes | dict[str, Any]) -> str:
    """Write lines, objects as JSON, and return the path as text."""
    written = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    encoded = (line if isinstance(line, bytes) else line.encode() for line in written)
    path.write_bytes(b"\n".join(encoded))
    return str(path)
