"""What nine hybrids of one prefix cost beside one plain truncated condition."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks import sharing, timing
from benchmarks.sharing import Asked, Expected
from kvcore.data.sample import Sample
from kvcore.models.lm import LM

PLAIN = "static_fact"
ONE, TOGETHER = "one plain condition", "nine hybrids together"
APART = "nine hybrids, condition by condition"
SINGLY, ONE_SINGLY = "nine hybrids, score by score", "one plain condition, score by score"
MOST, TOLERANCE = 3.6, 1e-5
"""Most plain conditions that the nine may cost; most nats that a score may differ by."""


def names(depth: int) -> tuple[str, ...]:
    """Return the nine hybrids of a model of some depth: all need the same two prefills."""
    return (
        f"values_only({PLAIN})",
        *(f"values_early_layers({PLAIN},{share})" for share in (0.25, 0.5, 0.75)),
        f"values_early_positions({PLAIN},0.25)",
        *(f"interp({PLAIN},{weight})" for weight in (0.25, 0.5)),
        *(f"values_layer({PLAIN},{layer})" for layer in (0, depth - 1)),
    )


def measure(lm: LM, samples: Sequence[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """Time the hybrids together, apart and beside the plain condition; print and return it all.

    The plain condition is timed as the engine runs it, one masked pass; score by score it is
    prefilled, truncated and re-positioned, as a plain script does it.
    """
    plain = Asked(tuple(samples), (PLAIN,), seed=options.seed)
    nine = Asked(tuple(samples), names(lm.config.num_hidden_layers), seed=options.seed)
    contenders = {
        ONE: sharing.contender(lm, [plain]),
        TOGETHER: sharing.contender(lm, [nine]),
        APART: sharing.contender(lm, nine.by_condition()),
        SINGLY: sharing.contender(lm, nine.one_by_one(), "cache"),
        ONE_SINGLY: sharing.contender(lm, plain.one_by_one(), "cache"),
    }
    contenders[ONE]()
    done, results = timing.rounds(contenders, options.rounds)
    beside = {name: timing.median_ratio(done, name, ONE) for name in contenders if name != ONE}
    apart = max(
        sharing.largest_difference(results[TOGETHER], results[name]) for name in (APART, SINGLY)
    )
    expected = [
        Expected(f"{TOGETHER} / {ONE}", beside[TOGETHER], at_most=MOST),
        Expected("largest difference together - apart, nats", apart, at_most=TOLERANCE),
    ]
    shared, unshared = sharing.tokens_run(lm, nine)
    tokens = sharing.tokens_run(lm, plain)[0]
    seconds = sharing.seconds_of(done, list(contenders))
    title = f"hybrids: {lm.name}, {len(samples)} samples, {options.rounds} interleaved rounds"
    sharing.show(
        title,
        seconds,
        expected,
        lambda name: f"{beside[name]:8.2f} × {ONE}" if name in beside else "",
    )
    print(f"  by their tokens alone: {shared / tokens:.2f} together, {unshared / tokens:.2f} apart")
    return {
        "samples": len(samples),
        "rounds": options.rounds,
        "conditions": nine.conditions,
        "matmul_gflops": sharing.matrix_rate(done),
        "seconds": seconds,
        "times_one_plain_condition": beside,
        f"{SINGLY} / {ONE_SINGLY}": timing.median_ratio(done, SINGLY, ONE_SINGLY),
        "by_tokens": {"together": shared / tokens, "apart": unshared / tokens},
        "expected": sharing.as_data(expected),
        "numbers_agree": expected[-1].holds,
    }
