"""The published cells, dry: small stand-ins of the hub's models and data, measured on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims.harness import registry
from claims.harness.published import published_values
from invariants.support.claim_runs import ClaimRun, run_here
from invariants.support.hub_stand_ins import put_in_place
from kvcore.models.registry import entry_of


def check_dry_run(run: ClaimRun) -> None:
    """Demand rows and verdicts of every published model and dataset, and a report of them."""
    judged = {
        (each["cell"]["model"], each["cell"]["dataset"]) for each in run.results["judgements"]
    }
    places = {entry.place for entry in published_values().values() if entry_of(entry.model).gpu}
    assert places <= judged, places - judged
    broken = [name for name, case in run.junit.items() if case.find("error") is not None]
    assert not broken, broken
    assert all(model in run.page and dataset in run.page for model, dataset in places)


@pytest.mark.nightly
def test_the_published_cells_run_on_stand_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published cell that cannot be measured, judged or reported for want of nothing but size."""
    put_in_place(tmp_path, monkeypatch)
    modules = sorted(path.stem for path in registry.FOLDER.glob("test_*.py"))
    text = "".join(f"from claims.{module} import *\n" for module in modules)
    options = ("-q", "-m", "gpu", "--kv-limit", "6", "--kv-looks", "1", "--kv-store", "store")
    run = run_here(tmp_path, monkeypatch, text, *options, measures=True)
    check_dry_run(run)
