"""Runs of the claims whose rows a Ray cluster measures: begun, interrupted, resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from invariants.support import cells_elsewhere as cells
from invariants.support.claim_runs import NO_CACHE, ROOT
from kvcore.measurements.needs import CONTROL_SAMPLES, CONTROLS

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]
CLAIMS = "a_random_prefix_helps or the_real_query_does_not_help"
SAMPLES = 150
ROWS = 3 * SAMPLES + len(CONTROLS) * CONTROL_SAMPLES  # bare, random and oracle; the controls
ENDED = pytest.ExitCode.INTERRUPTED
PATIENCE = 600  # seconds: of a busy machine
ENVIRONMENT = {
    "COLUMNS": "80",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "RAY_worker_niceness": "0",  # as this process has it
}


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start measuring a cell into a store in a folder."""
    data = cells.questions(folder, SAMPLES)
    cell = ("-k", CLAIMS, "--kv-models", cells.MODEL)
    where = ("--kv-datasets", data, "--kv-store", str(folder / "store"), "--kv-device", "cpu")
    limit = ("--kv-limit", str(SAMPLES), "--kv-measure-only")
    command = [sys.executable, "-m", "pytest", *NO_CACHE, "claims/test_priming.py"]
    return subprocess.Popen(
        [*command, *cell, *where, *limit, *options],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def by_two_actors() -> tuple[str, ...]:
    """Return the options of a run whose cluster, on this machine, has room for two actors."""
    cpus = len(os.sched_getaffinity(0))
    return "--kv-executor", "ray", "--kv-ray-cpus", str(max(1, cpus // 2))


def wait_for_a_shard(store: Path, process: subprocess.Popen[str]) -> None:
    """Return as soon as a shard is stored."""
    end = time.monotonic() + PATIENCE
    while not list(store.glob("part-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Catches Ctrl-C that loses stored rows, leaves processes, or a store that cannot go on."""
    store = tmp_path / "store"
    process = start(tmp_path, *by_two_actors())
    try:
        wait_for_a_shard(store, process)
        others = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()
    assert process.returncode == ENDED, said
    psutil.wait_procs(others, timeout=60)
    assert not [other for other in others if other.is_running()]
    before = len(cells.stored(store))
    assert 0 < before < ROWS, "interrupted too late"

    again = start(tmp_path)
    said = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, said
    assert f"{ROWS - before:,} rows to measure, {before:,} rows stored" in said
    rows = cells.stored(store)
    assert rows.index.is_unique
    assert len(rows) == ROWS

    undisturbed = cells.request(tmp_path / "here", str(tmp_path / "questions.jsonl"))
    cells.check_same_rows(cells.collected(undisturbed), rows)
