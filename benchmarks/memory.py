"""Peak memory of each contender, each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kvcore.data.sample import Sample

LOADED = "model only"
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(
    model: str, names: Sequence[str], samples: Sequence[Sample], *, seed: int, batch_size: int
) -> dict[str, float]:
    """Return each contender's peak resident memory in MiB, and that of only loading the model."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.json"
        path.write_text(json.dumps([[s.query, s.passage, s.answer, s.id] for s in samples]))
        shared = [
            sys.executable,
            "-m",
            "benchmarks",
            "--model",
            model,
            "--seed",
            str(seed),
            "--batch-size",
            str(batch_size),
            "--samples-file",
            str(path),
            "--peak-of",
        ]
        return {name: in_child([*shared, name]) for name in (LOADED, *names)}


def read_samples(path: Path) -> list[Sample]:
    """Read the samples that `peak_mib` hands to its child processes."""
    return [
        Sample(query=q, passage=p, answer=a, id=i) for q, p, a, i in json.loads(path.read_text())
    ]


def forget_peak() -> None:
    """Start the peak anew where the system can (Linux), so that loading does not count."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def own_peak_mib() -> float:
    """Return this process's peak resident memory since `forget_peak`, else since its start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def in_child(command: Sequence[str]) -> float:
    """Run a command whose last line of output is its peak memory in MiB, and return that."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])
