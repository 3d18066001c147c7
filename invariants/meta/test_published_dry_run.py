"""The published cells, dry: small stand-ins of the hub's models and data, measured on the CPU."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from claims.harness import registry
from claims.harness.published import published_values
from invariants.support.claim_runs import ClaimRun, run_here
from invariants.support.hub_stand_ins import put_in_place
from kvcore.measurements.base import Place
from kvcore.models.registry import entry_of

PARTS = (("test_divergence", 36), ("test_adaptation", 18), ("", 6))
"""Modules with the samples that the least of their claims takes; the rest, with fewer, last."""
MOST_SECONDS = 600  # of processor time, whatever else the machine does
NO_RESOURCE = "no resource: "


def check_dry_run(run: ClaimRun, places: set[Place]) -> set[Place]:
    """Demand a report of every place, nothing broken or lacking; return the places judged."""
    broken = [name for name, case in run.junit.items() if case.find("error") is not None]
    assert not broken, broken
    skipped = (case.find("skipped") for case in run.junit.values())
    said = [f"{each.get('message')}" for each in skipped if each is not None]
    lacking = [message for message in said if message.startswith(NO_RESOURCE)]
    assert not lacking, lacking
    judged = {
        (each["cell"]["model"], each["cell"]["dataset"]) for each in run.results["judgements"]
    }
    shown = run.page
    assert all(model in shown and dataset in shown for model, dataset in judged & places)
    return judged


@pytest.mark.nightly
def test_the_published_cells_run_on_stand_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published cell that cannot be measured, judged or reported for want of nothing but size."""
    started = time.process_time()
    put_in_place(tmp_path, monkeypatch)
    places = {entry.place for entry in published_values().values() if entry_of(entry.model).gpu}
    modules = {path.stem for path in registry.FOLDER.glob("test_*.py")}
    judged: set[Place] = set()
    for part, limit in PARTS:
        chosen = sorted({part} if part else modules)
        modules -= {part}
        text = "".join(f"from claims.{module} import *\n" for module in chosen)
        more = ("--kv-limit", f"{limit}", "--kv-looks", "1", "--kv-store", "store")
        run = run_here(tmp_path, monkeypatch, text, "-q", "-m", "gpu", *more, measures=True)
        judged |= check_dry_run(run, places)
    assert places <= judged, places - judged
    assert time.process_time() - started < MOST_SECONDS
