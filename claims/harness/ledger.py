"""The ledger of cells known to be refuted: ``claims/known.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from kvcore.errors import KvError
from kvcore.io import json_digest, write_atomically
from kvcore.verdict import Claim, Judgement

PATH = Path(__file__).parent.parent / "known.toml"
Key = tuple[str, int, str, str, str, str, str]
"""Claim and its version, metric, model, dtype and dataset, and the hash of what it predicts."""
_HASH_DIGITS = 12
SOURCES = ("published", "recorded")
"""How a refutation is known: from a study, by hand, or from a run that recorded it."""

_HEADER = """# Cells whose claim is known to be refuted: a refutation here is expected (xfail), and
# a cell that turns out to be supported fails until its entry is removed. `pytest claims
# --kv-record` writes the entries with source = "recorded". An entry counts for the claim as it
# predicted when it was recorded: `prediction` is the hash of prediction and least n.

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
    source: str  # one of `SOURCES`
    estimate: float
    ci_low: float
    ci_high: float
    n: int
    date: str
    versions: str
    prediction: str = ""  # `prediction_hash` of the claim that was refuted
    statement: str = ""  # of the claim at that place

    @property
    def key(self) -> Key:
        """What an entry is looked up by."""
        cell = (self.metric, self.model, self.dtype, self.dataset)
        return (self.claim, self.version, *cell, self.prediction)

    def described(self) -> str:
        """Say how the refutation is known."""
        known = " ".join(filter(None, (self.source, self.date)))
        return f"known refuted ({known}, n = {self.n})"


def read(path: Path | None = None) -> dict[Key, Entry]:
    """Read the ledger, by default the project's own; KvError names the entry that is none."""
    path = path or PATH
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("refuted", [])
    except tomllib.TOMLDecodeError as error:
        raise KvError(f"ledger {path.name} is not valid TOML: {error}.") from error
    entries = []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(Entry(**table))
        except TypeError as error:
            raise KvError(
                f"ledger {path.name}, entry {number}: {error}; give each entry exactly "
                f"the fields {', '.join(Entry.__dataclass_fields__)}."
            ) from error
        source = entries[-1].source
        if source not in SOURCES:
            raise KvError(
                f"ledger {path.name}, entry {number}: `source={source!r}` must be "
                f"{' or '.join(SOURCES)}; say how the refutation is known."
            )
    return {entry.key: entry for entry in entries}


def key_of(judgement: Judgement) -> Key:
    """Return the key under which a judgement's cell would stand."""
    cell, claim = judgement.cell, judgement.claim
    where = (cell.metric, cell.model, cell.dtype, cell.dataset)
    return (claim.id, claim.version, *where, prediction_hash(claim))


def prediction_hash(claim: Claim) -> str:
    """Return the hash of what refutes a claim: its prediction, and the fewest samples for that."""
    predicted = {
        name: getattr(claim.prediction, name)
        for name in ("name", "delta", "effect", "unit", "bound")
    }
    return json_digest({**predicted, "min_n": claim.min_n})[:_HASH_DIGITS]


def record(judgements: Iterable[Judgement], versions: str, path: Path | None = None) -> list[str]:
    """Write what was judged: refuted cells enter, cells no longer refuted leave.

    Returns a line per change or refusal: an estimate with fewer samples than its claim's minimum
    is refused and changes nothing; an inconclusive one leaves its entry as it is. An entry of the
    same cell by an earlier version or prediction of its claim leaves with either.
    """
    path = path or PATH
    entries = read(path)
    lines = []
    for judgement in judgements:
        key, n, verdict = key_of(judgement), judgement.estimate.n, judgement.verdict
        where = f"{judgement.claim.id} on {judgement.cell}"
        if n < judgement.claim.min_n:
            if verdict != "inconclusive":
                lines.append(
                    f"not recorded: {where}, n = {n} is below the claim's minimum of "
                    f"{judgement.claim.min_n}"
                )
            continue
        for stale in [other for other in entries if _same_cell(other, key) and other != key]:
            del entries[stale]
            lines.append(f"of an earlier prediction, removed: {where}")
        if verdict == "refuted":
            entries[key] = _entry(judgement, versions)
            lines.append(f"recorded as refuted: {where}")
        elif verdict == "supported" and key in entries:
            del entries[key]
            lines.append(f"no longer refuted: {where}")
    _write(entries, path)
    return lines


def _same_cell(first: Key, second: Key) -> bool:
    """Whether two keys are of one claim in one cell, whatever its version and prediction."""
    return (first[0], *first[2:6]) == (second[0], *second[2:6])


def _entry(judgement: Judgement, versions: str) -> Entry:
    estimate, claim, cell = judgement.estimate, judgement.claim, judgement.cell
    return Entry(
        claim=claim.id,
        version=claim.version,
        metric=cell.metric,
        model=cell.model,
        dtype=cell.dtype,
        dataset=cell.dataset,
        prediction=prediction_hash(claim),
        statement=judgement.claim.statement,
        source="recorded",
        estimate=round(estimate.value, 6),
        ci_low=round(estimate.ci_low, 6),
        ci_high=round(estimate.ci_high, 6),
        n=estimate.n,
        date=datetime.now(UTC).date().isoformat(),
        versions=versions,
    )


def _write(entries: Mapping[Key, Entry], path: Path) -> None:
    tables = [asdict(entries[key]) for key in sorted(entries, key=str)]
    text = _HEADER + tomli_w.dumps({"refuted": tables})
    write_atomically(path, text.encode("utf-8"))
