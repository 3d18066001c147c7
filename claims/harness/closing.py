"""What is said at the end of a run beside its verdicts: what it measured, saved and added."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims.harness import looking
from kvcore.progress import Listener, Progress, duration
from kvcore.verdict import Judgement
from reports import folders

MEASURED = "kv_measured"
"""Under which name a worker reports what it measured."""


@dataclass
class MeasuredRows:
    """Counts the rows that a run measures, and the seconds that took."""

    rows: int = 0
    seconds: float = 0.0
    _at_work: Progress | None = None

    def telling(self, listener: Listener) -> Listener:
        """Return a listener that counts and hands on what it is told."""

        def count(told: Progress) -> None:
            self._at_work = None if told.ended else told
            if told.ended and told.unit == "rows":
                self.add(told.done, told.seconds)
            listener(told)

        return count

    def add(self, rows: int, seconds: float) -> None:
        """Count rows that were measured here or by a worker."""
        self.rows += rows
        self.seconds += seconds


def previous_verdicts(out: Path) -> Mapping[tuple[str, ...], str] | None:
    """Return the verdicts of the latest report by claim and cell; None where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        text = (out / folders.LATEST / "results.json").read_text(encoding="utf-8")
        return {
            (
                j["claim"]["id"],
                *(j["cell"][name] for name in ("model", "dataset", "metric", "dtype")),
            ): j["verdict"]
            for j in json.loads(text)["judgements"]
        }
    return None


def lines(
    judgements: Sequence[Judgement],
    contexts: Sequence[Mapping[str, Any]],
    measured: MeasuredRows,
    before: Mapping[tuple[str, ...], str] | None,
    store: Path,
    *,
    broken_off: bool,
) -> list[str]:
    """Return what a run measured, what looks saved it and what it added to the report before."""
    said = []
    if broken_off:
        said += stopped(measured, store)
    elif measured.rows:
        said.append(
            f"measured: {measured.rows:,} rows in {duration(measured.seconds)}, kept in "
            f"{store.name}/ for the next run"
        )
    said += looks_lines(judgements, contexts)
    if before is not None and not broken_off:
        said += added(judgements, before)
    return said


def stopped(measured: MeasuredRows, store: Path) -> list[str]:
    """Say what a run that was broken off leaves, and how to go on."""
    return [
        f"stopped: {measured.rows:,} rows measured by now are kept in {store.name}/; the same "
        "command goes on",
    ]


def added(judgements: Sequence[Judgement], before: Mapping[tuple[str, ...], str]) -> list[str]:
    """Say how the verdicts differ from those of the latest report before."""
    now = {
        (j.claim.id, j.cell.model, j.cell.dataset, j.cell.metric, j.cell.dtype): j.verdict
        for j in judgements
    }
    decided = sum(
        verdict != "inconclusive" and before.get(key, "inconclusive") == "inconclusive"
        for key, verdict in now.items()
    )
    opened = sum(
        verdict == "inconclusive" and before.get(key, "inconclusive") != "inconclusive"
        for key, verdict in now.items()
    )
    turned = sum(
        "inconclusive" not in (verdict, before.get(key, "inconclusive")) and verdict != before[key]
        for key, verdict in now.items()
    )
    new = sum(key not in before for key in now)
    counts = {
        "new": new,
        "newly decided": decided,
        "open again": opened,
        "turned over": turned,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return [f"since the report before: {', '.join(parts) or 'no verdict changed'}"]


def looks_lines(
    judgements: Sequence[Judgement], contexts: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Say what stopped where; each cell's rows count once, however many claims it has."""
    cells = {json.dumps(context["provenance"]): context["provenance"] for context in contexts}
    measured, planned = (
        sum(int(facts.get(name, 0)) for facts in cells.values())
        for name in ("rows measured", "rows at the limit")
    )
    return looking.lines([j.look for j in judgements if j.look], measured, planned)
