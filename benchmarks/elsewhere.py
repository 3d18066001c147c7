"""What it costs to have one Ray worker measure, beside measuring in this process."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import sharing, timing
from benchmarks.contenders import Contender, Sums
from benchmarks.sharing import Expected
from kvcore.data.sample import Corpus
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.measurements.errands import Sender
from kvcore.measurements.registry import kind_of
from kvcore.models.lm import LM
from kvcore.ray_workers import RayWorkers

HERE, RAY = "in this process", "by one Ray worker"
SAMPLES, WARM_UP = 1000, 20
NEEDS = ("bare", "random", "oracle")
MOST, TOLERANCE = 1.1, 1e-6
"""Most times the time of this process that a worker may take after start-up, nats off."""


def contender(lm: LM, dataset: str, samples: int, seed: int, sender: Sender | None) -> Contender:
    """Prepare the measuring of a cell into a new store; samples in the order of their ids."""
    kind = kind_of("answer_nll")

    def run() -> Sums:
        with tempfile.TemporaryDirectory(prefix="kvclaims-") as folder:
            store = Path(folder)
            request = MeasureRequest(
                lm.files, lambda: lm, dataset, NEEDS, samples, seed, None, store
            )
            cell = Collection.planned(kind, request, store, progress=None, sender=sender)
            cell.measure(cell.keys)
            rows = cell.rows().rows
        scored = rows[rows["status"] == "ok"]
        keys = zip(scored["need"], scored["sample"], strict=True)
        return dict(zip(keys, scored["nll"], strict=True))

    return run


def measure(lm: LM, _corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Time both beside each other, one thread each; print and return all.

    Raises KvError where ray is not installed.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_worker_niceness", "0")  # as this process has it
    workers = RayWorkers(cpus=1, gpus=False, most=1)
    try:
        sender = Sender(workers, "cpu")
        given = (options.dataset, SAMPLES, options.seed)
        contenders = {
            HERE: contender(lm, *given, None),
            RAY: contender(lm, *given, sender),
        }
        contender(lm, options.dataset, WARM_UP, options.seed, sender)()
        done, results = timing.rounds(contenders, options.rounds)
    finally:
        workers.close()
    ratio = timing.median_ratio(done, RAY, HERE)
    apart = max(abs(results[HERE][key] - results[RAY][key]) for key in results[HERE])
    same = set(results[HERE]) == set(results[RAY])
    expected = [
        Expected(f"{RAY} / {HERE}", ratio, at_most=MOST),
        Expected("largest difference, nats", apart, at_most=TOLERANCE),
    ]
    sharing.show(
        f"ray: {lm.name}, {SAMPLES} samples at most, {options.rounds} interleaved rounds",
        sharing.seconds_of(done, list(contenders)),
        expected,
        lambda name: f"{ratio:8.2f} × {HERE}" if name == RAY else "",
    )
    return {
        "scores": len(results[HERE]),
        "rounds": options.rounds,
        "matmul_gflops": sharing.matrix_rate(done),
        "seconds": sharing.seconds_of(done, list(contenders)),
        "times_this_process": ratio,
        "expected": sharing.as_data(expected),
        "numbers_agree": same and expected[1].holds,
    }
