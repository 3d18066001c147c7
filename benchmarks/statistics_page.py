"""Writes `docs/statistics.md` from the figures of `benchmarks.verdicts`, kept beside it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import verdicts
from kvcore.io import write_atomically
from kvcore.verdict import MIN_UNITS, looks, planning
from reports.markdown import templates

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FIGURES = DOCS / "statistics.md", DOCS / "statistics.json"
POWER = 80
LABELS = {"jackknife": "jackknife-t", "bca": "BCa"}


def write(replications: int, seed: int) -> None:
    """Simulate the figures, keep each table as soon as it is there, and write the page."""
    figures: dict[str, Any] = {}
    for table in verdicts.measure(replications, seed):
        figures |= table
        write_atomically(FIGURES, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        print(f"simulated: {', '.join(figures)}", flush=True)
    write_atomically(PAGE, page(figures))


def page(figures: Mapping[str, Any]) -> str:
    """Return the page that figures make."""
    environment = templates.environment(Path(__file__).with_name("templates"))
    environment.filters["thousands"] = lambda n: f"{n:,}"
    bounds = looks.bounds(0.05, [k / 5 for k in range(1, 6)])
    values = {
        "looked": None,
        **figures,
        "model": verdicts.MODEL,
        "dataset": verdicts.DATASET,
        "min_units": MIN_UNITS,
        "limit": f"{100 * planning.LIMIT:.0f}",
        "bounds": ", ".join(f"{bound:.2f}" for bound in bounds),
        "sizes": verdicts.SIZES,
        "coverage": _coverage(figures["coverage"]),
        "errors": [{**row, "verdict": verdicts.WRONG[row["true d"]]} for row in figures["errors"]],
        "worst": max(figures["published"], key=lambda row: row["refuted"]),
        "weak": [row for row in figures["published"] if row["supported"] < POWER],
        "margin": verdicts.MARGIN,
        "effect": verdicts.EFFECT,
        "pilot": verdicts.PILOT,
        "resamples": verdicts.FEW_RESAMPLES,
    }
    return environment.get_template("statistics.md").render(values)


def _coverage(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a statistic and method, a cell a size; the range over pairs of conditions."""
    lines: dict[str, dict[int, str]] = {}
    for row in rows:
        rates = [f"{rate:.1f}" for rate in sorted(row["covered"])]
        ends = dict.fromkeys((rates[0], rates[-1]))
        label = f"{row['statistic']}, {LABELS[row['method']]}"
        lines.setdefault(label, {})[row["n"]] = "–".join(ends)
    return [
        {"label": label, "cells": [cells.get(n, "") for n in verdicts.SIZES]}
        for label, cells in lines.items()
    ]
