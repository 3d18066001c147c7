"""Workers that fill a store (`store_worker`), each a process that begins when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from invariants.support import store_worker

ROOT = Path(__file__).parents[2]


def start(
    root: Path | str, log: Path, pause: float, breakage: str = "none", **environment: str
) -> subprocess.Popen[str]:
    """Start a worker; it waits for a line before it fills."""
    arguments = [str(root), str(log), str(pause), breakage]
    return subprocess.Popen(
        [sys.executable, str(Path(store_worker.__file__)), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(process: subprocess.Popen[str]) -> None:
    """Wait until a worker is ready and let it fill."""
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
