"""The engine beside the notebook's procedure and lm-evaluation-harness: speed and memory."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import contenders, memory, timing, work
from kvcore.data.sample import Sample
from kvcore.errors import MissingResource
from kvcore.models.lm import LM

NOTEBOOK, ENGINE = "notebook procedure", "this engine"
ENGINE_FULL, HARNESS = "this engine, full context", "lm-eval, full context"
BATCH_SIZES = (4, 8, 16, 32)


def measure(lm: LM, samples: Sequence[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """Time everything, print each figure as it is known, and return them all."""
    primed = contenders.requests(lm, samples, contenders.PRIMED, options.seed)
    visible = contenders.requests(lm, samples, contenders.VISIBLE, options.seed)
    asked = {NOTEBOOK: primed, ENGINE: primed, ENGINE_FULL: visible, HARNESS: visible}
    built, batch_size = _contenders(lm, samples, primed, visible, options.seed)
    print(f"speed: {lm.name}, {len(samples)} samples, {options.rounds} interleaved rounds")
    done, results = timing.rounds(built, options.rounds)
    results["one pass"] = contenders.one_pass(lm, primed)()
    arithmetic = work.model_work(lm)
    speed = {
        name: _speed(done, name, len(samples), work.needed(arithmetic, asked[name]))
        for name in built
    }
    report = {
        "samples": len(samples),
        "rounds": options.rounds,
        "matmul_gflops": statistics.median(x for r in done for x in r.rates.values()) / 1e9,
        "speed": speed,
        "ratios": _ratios(done, built),
        "largest_difference_nats": _differences(results, primed, visible),
        "lm_eval_batch_size": batch_size,
    }
    if not options.no_memory:
        report["peak_mib"] = memory.peak_mib(
            options.model, list(built), samples, seed=options.seed, batch_size=batch_size
        )
    _show(report)
    return report


def _contenders(
    lm: LM,
    samples: Sequence[Sample],
    primed: Sequence[contenders.Request],
    visible: Sequence[contenders.Request],
    seed: int,
) -> tuple[dict[str, contenders.Contender], int]:
    """Build the contenders, warmed up, lm-eval at the fastest of its batch sizes (0: absent)."""
    built = {
        NOTEBOOK: contenders.notebook(lm, primed),
        ENGINE: contenders.engine(lm, samples, contenders.PRIMED, seed),
        ENGINE_FULL: contenders.engine(lm, samples, contenders.VISIBLE, seed),
    }
    contenders.engine(lm, samples[:4], contenders.PRIMED, seed)()
    try:
        sizes = {n: contenders.harness(lm, visible, n) for n in BATCH_SIZES}
    except MissingResource as error:
        print(error, file=sys.stderr)
        return built, 0
    contenders.harness(lm, visible[:4], 4)()
    best = min(sizes, key=lambda n: timing.timed(sizes[n])[1])
    return built | {HARNESS: sizes[best]}, best


def _speed(
    done: Sequence[timing.Round], name: str, samples: int, operations: int
) -> dict[str, Any]:
    seconds = [r.seconds[name] for r in done]
    return {
        "seconds": seconds,
        "samples_per_s": samples / statistics.median(seconds),
        "operations": operations,
        "share_of_matmul": timing.median_share(done, name, operations),
    }


def _ratios(done: Sequence[timing.Round], contenders: Mapping[str, Any]) -> dict[str, float]:
    ratios = {"engine / notebook": timing.median_ratio(done, NOTEBOOK, ENGINE)}
    if HARNESS in contenders:
        ratios["engine / lm-eval"] = timing.median_ratio(done, HARNESS, ENGINE_FULL)
    return ratios


def _differences(
    results: Mapping[str, contenders.Sums],
    primed: Sequence[contenders.Request],
    visible: Sequence[contenders.Request],
) -> dict[str, float]:
    """Return the largest differences in nats per answer token."""
    lengths: dict[contenders.Key, int] = {r.key: len(r.answer) for r in primed}
    found = {
        "engine - notebook": timing.largest_difference(results[ENGINE], results[NOTEBOOK], lengths),
        "engine - one pass": timing.largest_difference(
            results[ENGINE], results["one pass"], lengths
        ),
    }
    if HARNESS in results:
        found["engine - lm-eval"] = timing.largest_difference(
            results[ENGINE_FULL], results[HARNESS], {r.key: len(r.answer) for r in visible}
        )
    return found


def _show(report: Mapping[str, Any]) -> None:
    m, k, n = work.SHAPE
    print(f"matrix product {m}x{k}x{n} float32: {report['matmul_gflops']:.0f} GFLOP/s")
    peaks = report.get("peak_mib", {})
    for name, figures in report["speed"].items():
        peak = f"   peak {peaks[name]:.0f} MiB" if name in peaks else ""
        print(
            f"{name:<28}{figures['samples_per_s']:7.2f} samples/s   "
            f"{figures['share_of_matmul']:6.1%} of the matrix rate{peak}"
        )
    if peaks:
        print(f"{memory.LOADED:<28}{'':46}peak {peaks[memory.LOADED]:.0f} MiB")
    for name, ratio in report["ratios"].items():
        print(f"{name}: {ratio:.2f} times as fast")
    for name, nats in report["largest_difference_nats"].items():
        print(f"largest |{name}|: {nats:.1e} nats per answer token")


def child(lm: LM, options: argparse.Namespace) -> int:
    """Run one contender once and print this process's peak memory."""
    samples = memory.read_samples(options.samples_file)
    build: dict[str, Callable[[], contenders.Contender]] = {
        memory.LOADED: lambda: dict,
        NOTEBOOK: lambda: contenders.notebook(lm, _asked(lm, samples, contenders.PRIMED, options)),
        ENGINE: lambda: contenders.engine(lm, samples, contenders.PRIMED, options.seed),
        ENGINE_FULL: lambda: contenders.engine(lm, samples, contenders.VISIBLE, options.seed),
        HARNESS: lambda: contenders.harness(
            lm, _asked(lm, samples, contenders.VISIBLE, options), options.batch_size
        ),
    }
    contender = build[options.peak_of]()
    memory.forget_peak()
    contender()
    print(memory.own_peak_mib())
    return 0


def _asked(
    lm: LM, samples: Sequence[Sample], names: Sequence[str], options: argparse.Namespace
) -> list[contenders.Request]:
    return contenders.requests(lm, samples, names, options.seed)
