"""What each process of pytest-xdist takes: a GPU of its own, and tests of as few models as can be.

Workers share the store: two that measure one cell divide its shards between them.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from claims.harness.options import Settings

VISIBLE = "CUDA_VISIBLE_DEVICES"
COUNT_IN_TORCH = "import torch; print(torch.cuda.device_count())"


def take_own_gpu(
    worker: int, settings: Settings, environment: MutableMapping[str, str] = os.environ
) -> None:
    """Leave one worker one GPU, before torch is imported.

    Nothing happens where no model is loaded or the options name a device that is not just any GPU.

    Parameters
    ----------
    worker : int
        Its number, from 0.
    environment : mapping
        Where ``CUDA_VISIBLE_DEVICES`` is read and set.
    """
    if settings.no_measure or settings.device not in ("auto", "cuda"):
        return
    visible = environment.get(VISIBLE)
    gpus = visible_gpus(visible) if visible is not None else every_gpu()
    if gpus:
        environment[VISIBLE] = own_gpu(worker, gpus)


def own_gpu(worker: int, gpus: Sequence[str]) -> str:
    """Return the GPU of a worker: they take turns where there are more workers than GPUs."""
    return gpus[worker % len(gpus)]


def visible_gpus(variable: str) -> tuple[str, ...]:
    """Return the entries of ``CUDA_VISIBLE_DEVICES``: numbers or UUIDs.

    As CUDA reads it, what follows a negative number or nothing does not count.
    """
    gpus: list[str] = []
    for entry in map(str.strip, variable.split(",")):
        if not entry or entry.startswith("-"):
            break
        gpus.append(entry)
    return tuple(gpus)


def every_gpu() -> tuple[str, ...]:
    """Return the numbers of this machine's GPUs, without importing torch here."""
    if tool := shutil.which("nvidia-smi"):
        listed = _output(tool, "--list-gpus").splitlines()
        return tuple(map(str, range(sum(line.startswith("GPU ") for line in listed))))
    if Path("/dev/kfd").exists():  # AMD's, which has no such tool; torch counts them
        count = _output(sys.executable, "-c", COUNT_IN_TORCH).strip()
        return tuple(map(str, range(int(count)))) if count.isdigit() else ()
    return ()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def groups(models: Sequence[str], workers: int) -> list[str]:
    """Return the group of each test: tests of one group run in one worker, in their order.

    As long as there are at least as many models as workers, a model stays with one worker. Else
    the tests of every cell are dealt out to as many groups as there are workers for its model.

    Parameters
    ----------
    models : sequence of str
        The model of each test.
    workers : int
        From 1.
    """
    each = math.ceil(workers / max(1, len(set(models))))
    if each == 1:
        return list(models)
    before: Counter[str] = Counter()
    named = []
    for model in models:
        named.append(f"{model}#{before[model] % each}")
        before[model] += 1
    return named
