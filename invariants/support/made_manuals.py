"""Manuals of invented web services, in the files and the HTML that botocore ships."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invariants.support.made_docstrings import WORDS, sentence


def html_of(seed: int, summary: str | None = None, n_sentences: int = 6, more: str = "") -> str:
    """Make the documentation of an operation: its summary, and sentences of common words."""
    told = " ".join(sentence(1000 * seed + i) for i in range(n_sentences))
    return f"<p>{summary or f'Returns the {WORDS[seed]} of a thing.'} {told}</p>{more}"


def written(
    data: Path,
    service: str,
    operations: Mapping[str, str | Mapping[str, Any]],
    version: str = "2020-01-01",
) -> Path:
    """Write the manual of a service, of the operations' documentation or whole entries."""
    entries = {
        name: {"documentation": entry} if isinstance(entry, str) else entry
        for name, entry in operations.items()
    }
    manual = {"metadata": {"serviceId": f"{service.title()} Service"}, "operations": entries}
    path = data / service / version / "service-2.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(manual).encode(), mtime=0))
    return path
