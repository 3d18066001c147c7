"""What is kept beside rows: texts, since the corpus changes with what is installed, and notes.

A file ``_texts-<hash>.parquet`` holds one text a row: the hash that rows know its sample by, and
its fields as JSON. ``_tokens-…`` holds where the tokens of answers end, ``_explanations-…`` how
conditions were explained. Files appear as a whole; what one of them holds is never written again.
"""

from __future__ import annotations

import io as bytes_io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kvcore.io import digest, disk_errors
from kvcore.store import folder as store_folder
from kvcore.store.remote import shown

TEXTS, TOKENS, EXPLANATIONS = "texts", "tokens", "explanations"
_COLUMNS = ("sample_hash", "text")


def save(folder: Path, texts: Mapping[str, Mapping[str, Any]], kind: str = TEXTS) -> None:
    """Store texts by sample hash, those that are not there yet; KvError where that fails.

    - `kind`: `TEXTS`; or `TOKENS` and `EXPLANATIONS`, which have keys of their own.
    """
    new = {name: texts[name] for name in sorted(texts.keys() - known(folder, kind))}
    if not new:
        return
    lines = [json.dumps(text, ensure_ascii=True, sort_keys=True) for text in new.values()]
    table = pa.table(dict(zip(_COLUMNS, (list(new), lines), strict=True)))
    data = bytes_io.BytesIO()
    pq.write_table(table, data, compression="zstd", compression_level=15)
    with disk_errors(shown(folder), "keep its texts"):
        name = f"_{kind}-{digest(*new)[:16]}.parquet"
        store_folder.put(folder / name, data.getvalue())


def known(folder: Path, kind: str = TEXTS) -> set[str]:
    """Return the sample hashes whose texts are stored."""
    hashes: set[str] = set()
    for path in _files(folder, kind):
        hashes.update(_read(path, _COLUMNS[:1]).column(0).to_pylist())
    return hashes


def load(folder: Path, hashes: Iterable[str], kind: str = TEXTS) -> dict[str, dict[str, Any]]:
    """Return the stored texts of some sample hashes; those without any are left out."""
    asked = set(hashes)
    stored: dict[str, dict[str, Any]] = {}
    for path in _files(folder, kind):
        table = _read(path, _COLUMNS)
        for name, text in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if name in asked:
                stored[name] = json.loads(text)
    return stored


def _files(folder: Path, kind: str) -> list[Path]:
    with disk_errors(shown(folder), "list its texts"):
        return store_folder.paths(folder, re.compile(rf"_{kind}-.*\.parquet"))


def _read(path: Path, columns: Iterable[str]) -> pa.Table:
    """Read a file; a damaged one holds nothing: its texts are stored again."""
    try:
        return pq.read_table(path, columns=list(columns))
    except (OSError, pa.ArrowInvalid):
        return pa.table({name: pa.array([], pa.string()) for name in columns})
