"""Rows that other code measured, and the evidence that they count as measured by this one.

A row's key names the version of its method, not the code; the hash of the code stands beside it.
Where a store holds rows of another hash, some of them are measured again. If they agree, the rest
is adopted, which a file ``_adopted-<hash>.json`` beside the rows records: the two hashes, the
model, which groups of rows it holds for, how many rows were compared and how far they lie apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from kvcore import io
from kvcore.store import agreement, folder, keys, schema
from kvcore.store.remote import shown
from kvcore.store.schema import CODE, KEY, RowSchema, clean
from kvcore.store.shards import Store

GROUP = tuple(name for name in KEY if name not in ("sample_id", "sample_hash"))
"""Rows that differ in nothing but the sample are compared, and adopted, together."""
COMPARED_SAMPLES = 3
_RECORD_COLUMNS = ("model", "model_id", "dtype", "tokenizer", "method", "dataset", "seed",
                   "template")  # fmt: skip
Group = tuple[str | int, ...]
_NAME = re.compile(r"_adopted-.*\.json")


@dataclass(frozen=True)
class Adoption:
    """Groups of rows of one hash that count as measured by the code of another.

    - `old`, `new`: hashes of the code.
    - `groups`: values of `GROUP`, and how many rows of each were compared.
    - `largest`: largest difference of two numbers, relative where they exceed 1.
    - `date`: of the comparison, ISO 8601.
    """

    old: str
    new: str
    groups: Mapping[Group, int]
    largest: float
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    @property
    def compared(self) -> int:
        """How many rows were compared."""
        return sum(self.groups.values())


@dataclass(frozen=True)
class Comparison:
    """What came of measuring rows of another code again.

    - `adoptions`: one per old hash, of the groups whose rows agree.
    - `rejected`: for each old hash the number of groups whose rows do not agree.
    - `example`: where the first of them differs, "" if all agree.
    """

    adoptions: tuple[Adoption, ...]
    rejected: Mapping[str, int]
    example: str = ""


def groups_of(rows: pd.DataFrame) -> list[Group]:
    """Return the group of every row."""
    return list(zip(*schema.key_columns(rows, GROUP), strict=True))


def rows_to_compare(old_rows: pd.DataFrame, pending: pd.DataFrame | None = None) -> pd.DataFrame:
    """Choose `COMPARED_SAMPLES` rows of every hash and group, drawn by the rows' seed.

    Rows that could be measured come first. The draw is the same for every condition, so that one
    sample's conditions are measured together, and for every hash.

    - `old_rows`: rows that other code measured.
    - `pending`: those of them whose groups are to be compared; all by default.
    """
    drawn = old_rows.assign(
        _place=_places(old_rows),
        _not_ok=old_rows["status"] != "ok",
        _draw=[
            io.digest("compare", str(seed), sample)
            for seed, sample in zip(old_rows["seed"], old_rows["sample_id"], strict=True)
        ],
    ).sort_values(["_not_ok", "_draw"], kind="stable")
    if pending is not None:
        drawn = drawn[drawn["_place"].isin(_places(pending))]
    return drawn.groupby("_place", sort=False).head(COMPARED_SAMPLES)[list(old_rows.columns)]


def _places(rows: pd.DataFrame) -> list[str]:
    """Return a name of every row's hash and group."""
    return [
        io.json_digest([code, *group])
        for code, group in zip(rows[CODE], groups_of(rows), strict=True)
    ]


def compare(
    old_rows: pd.DataFrame, new_rows: pd.DataFrame, row_schema: RowSchema, new: str
) -> Comparison:
    """Compare rows of other hashes with measurements of the same keys by new code.

    Every column counts but lists of texts, lists element by element, within the tolerance of the
    dtype. A group is adopted only if all its rows agree.
    """
    fresh = dict(zip(keys.row_keys(new_rows), _plain(new_rows, row_schema), strict=True))
    distances: dict[tuple[str, Group], list[float]] = {}
    differing: dict[tuple[str, Group], str] = {}
    rows = zip(
        groups_of(old_rows), keys.row_keys(old_rows), _plain(old_rows, row_schema), strict=True
    )
    for group, key, row in rows:
        place = (row[CODE], group)
        column = agreement.disagreement(row, fresh[key], row_schema, lists=True)
        if column:
            differing.setdefault(place, f"{column} of {row['sample_id']} under {row['condition']}")
        else:
            distance = agreement.largest_distance(row, fresh[key], row_schema)
            distances.setdefault(place, []).append(distance)
    agreed = {place: found for place, found in distances.items() if place not in differing}
    adoptions = []
    for old in sorted({code for code, _ in agreed}):
        own = {group: found for (code, group), found in agreed.items() if code == old}
        largest = max(max(found) for found in own.values())
        adoptions.append(Adoption(old, new, {g: len(found) for g, found in own.items()}, largest))
    rejected: dict[str, int] = {}
    for code, _ in differing:
        rejected[code] = rejected.get(code, 0) + 1
    return Comparison(tuple(adoptions), rejected, next(iter(differing.values()), ""))


def is_accepted(rows: pd.DataFrame, adoptions: Iterable[Adoption], new: str) -> pd.Series[bool]:
    """Return which rows the code of a hash measured, or adopted."""
    adopted = {(a.old, group) for a in adoptions if a.new == new for group in a.groups}
    places = zip(rows[CODE].tolist(), groups_of(rows), strict=True) if len(rows) else ()
    accepted = [code == new or (code, group) in adopted for code, group in places]
    return pd.Series(accepted, index=rows.index, dtype=bool)


def save(store: Store, adoption: Adoption) -> Path:
    """Record an adoption beside the rows, as a whole or not at all.

    Raises KvError where the folder cannot be written.
    """
    nested: dict[Group, dict[str, int]] = {}
    for group, compared in adoption.groups.items():
        parts = dict(zip(GROUP, group, strict=True))
        shared = tuple(parts[name] for name in _RECORD_COLUMNS)
        nested.setdefault(shared, {})[str(parts["condition"])] = compared
    content = {
        "old": adoption.old,
        "new": adoption.new,
        "date": adoption.date,
        "rows compared": adoption.compared,
        "largest difference": adoption.largest,
        "groups": [
            {**dict(zip(_RECORD_COLUMNS, shared, strict=True)), "rows compared": conditions}
            for shared, conditions in nested.items()
        ],
    }
    data = json.dumps(content, ensure_ascii=True, indent=1) + "\n"
    path = store.root / f"_adopted-{io.digest(data)[:32]}.json"
    with io.disk_errors(shown(store.root), "record an adoption"):
        folder.put(path, data)
    return path


def load(store: Store) -> tuple[Adoption, ...]:
    """Read every adoption that is recorded beside the rows; a damaged file does not count."""
    with io.disk_errors(shown(store.root), "read its adoptions"):
        files = folder.paths(store.root, _NAME)
        texts = [(path, path.read_text("utf-8")) for path in files]
    return tuple(
        _adoption(json.loads(text))
        for path, text in texts
        if path.stem == f"_adopted-{io.digest(text)[:32]}"
    )


def _adoption(content: Mapping[str, Any]) -> Adoption:
    groups: dict[Group, int] = {}
    for entry in content["groups"]:
        for condition, compared in entry["rows compared"].items():
            parts = {**entry, "condition": condition}
            group = tuple(
                int(parts[name]) if name == "seed" else clean(str(parts[name])) for name in GROUP
            )
            groups[group] = int(compared)
    return Adoption(
        content["old"], content["new"], groups, content["largest difference"], content["date"]
    )


def _plain(rows: pd.DataFrame, row_schema: RowSchema) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = schema.to_table(rows, row_schema).to_pylist()
    return plain
