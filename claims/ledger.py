"""The ledger of cells known to be refuted: ``claims/known.toml``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvcore.errors import KvError
from kvcore.verdict import Judgement

PATH = Path(__file__).with_name("known.toml")
_KEY = ("claim", "version", "metric", "model", "dtype", "dataset")
_HEADER = """# Cells whose claim is known to be refuted: a refutation here is expected (xfail), and
# a cell that turns out to be supported fails until its entry is removed. `pytest claims
# --kv-record` writes the entries with source = "recorded".
"""


@dataclass(frozen=True)
class Entry:
    """One cell known to be refuted, and how that is known."""

    claim: str
    version: int
    metric: str
    model: str
    dtype: str
    dataset: str
    source: str  # "published" or "recorded"
    estimate: float
    ci_low: float
    ci_high: float
    n: int
    date: str
    versions: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What an entry is looked up by."""
        return tuple(getattr(self, name) for name in _KEY)

    def said(self) -> str:
        """Say how the refutation is known."""
        return f"known refuted ({self.source} {self.date})".replace(" )", ")")


def read(path: Path = PATH) -> dict[tuple[Any, ...], Entry]:
    """Read the ledger.

    Raises
    ------
    KvError
        For a file that is not such a ledger, naming the entry.
    """
    if not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("refuted", [])
    except tomllib.TOMLDecodeError as error:
        raise KvError(f"ledger {path.name} is not valid TOML: {error}.") from error
    entries = []
    for number, one in enumerate(found, 1):
        try:
            entries.append(Entry(**one))
        except TypeError as error:
            raise KvError(f"ledger {path.name}, entry {number}: {error}; give each entry exactly "
                          f"the fields {', '.join(Entry.__dataclass_fields__)}.") from error
    return {entry.key: entry for entry in entries}


def key_of(judgement: Judgement) -> tuple[Any, ...]:
    """Return the key under which a judgement's cell would stand."""
    cell, claim = judgement.cell, judgement.claim
    return (claim.id, claim.version, cell.metric, cell.model, cell.dtype, cell.dataset)


def record(judgements: Iterable[Judgement], versions: str, path: Path = PATH) -> list[str]:
    """Write what was found: refuted cells enter, cells no longer refuted leave.

    Returns
    -------
    list of str
        One line per change or refusal. An estimate with fewer samples than its claim's minimum
        is refused and changes nothing; an inconclusive one leaves its entry as it is.
    """
    entries = read(path)
    said = []
    for judgement in judgements:
        key, n = key_of(judgement), judgement.estimate.n
        if judgement.verdict == "inconclusive":
            continue
        if n < judgement.claim.min_n:
            said.append(f"not recorded: {judgement.claim.id} on {judgement.cell}, n = {n} is below "
                        f"the claim's minimum of {judgement.claim.min_n}")
        elif judgement.verdict == "refuted":
            entries[key] = _entry(judgement, key, versions)
            said.append(f"recorded as refuted: {judgement.claim.id} on {judgement.cell}")
        elif key in entries:
            del entries[key]
            said.append(f"no longer refuted: {judgement.claim.id} on {judgement.cell}")
    _write(entries, path)
    return said


def _entry(judgement: Judgement, key: tuple[Any, ...], versions: str) -> Entry:
    e = judgement.estimate
    return Entry(**dict(zip(_KEY, key, strict=True)), source="recorded",
                 estimate=round(e.value, 6), ci_low=round(e.ci_low, 6),
                 ci_high=round(e.ci_high, 6), n=e.n,
                 date=datetime.now(UTC).date().isoformat(), versions=versions)


def _write(entries: Mapping[tuple[Any, ...], Entry], path: Path) -> None:
    tables = []
    for key in sorted(entries, key=str):
        values = vars(entries[key])
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        tables.append("\n".join(["[[refuted]]", *lines]))
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(_HEADER + "\n" + "\n\n".join(tables) + "\n", encoding="utf-8")
    temporary.replace(path)
