"""What watching the residual stream costs beside the same passes without anyone watching."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import memory, sharing, timing
from benchmarks.contenders import Contender, Sums
from benchmarks.sharing import Expected
from kvcore import tokenization
from kvcore.data.texts import load_texts
from kvcore.engine import hooks
from kvcore.measurements import continuations, hidden_states
from kvcore.measurements.hidden_states import TokenText
from kvcore.models.lm import LM

PLAIN, RESIDUAL, ALL = (
    "texts read, CE alone",
    "all layers' stream beside it",
    ("attention and MLP too"),
)
WATCHED: dict[str, tuple[str, ...]] = {PLAIN: (), RESIDUAL: ("residual",), ALL: hooks.PARTS}
TEXTS = 48
MOST, MOST_MIB, TOLERANCE = 1.3, 200.0, 1e-6
"""Most times a plain pass that capture may take, MiB more that it may hold, nats off in CE."""
CHILD = "capture:"
"""What ``--peak-of`` starts with in the processes whose memory is measured."""


def texts(lm: LM, count: int) -> list[TokenText]:
    """Return the first human texts, read again and again where more are wanted than there are."""
    fitting = load_texts("pydoc").fitting(lambda text: len(tokenization.encode(lm.tokenizer, text)))
    known = continuations.load_continuations(lm, fitting, ("human",)).texts
    return [
        TokenText(f"{n}", one.source, one.prompt, one.continuation)
        for n, one in ((n, known[n % len(known)]) for n in range(count))
    ]


def contender(lm: LM, read: Sequence[TokenText], parts: Sequence[str]) -> Contender:
    """Prepare the reading of all texts in batches; the CE of each is what is returned."""

    def run() -> Sums:
        entropies: Sums = {}
        for batch in hidden_states.text_batches(lm, read):
            group = [read[n] for n in batch]
            if parts:
                rows = hidden_states.measure_batch(lm, group, parts)
                means = [float(row["ce"]) for row in rows]
            else:
                nlls = hidden_states.read_nlls(lm, group, (), lambda *_: None)
                means = [sum(of_text) / len(of_text) for of_text in nlls]
            entropies |= {(text.id,): ce for text, ce in zip(group, means, strict=True)}
        return entropies

    return run


def measure(lm: LM, options: argparse.Namespace) -> dict[str, Any]:
    """Time the three beside each other, measure peak memory at two sizes; print and return all."""
    given = texts(lm, TEXTS)
    contenders = {name: contender(lm, given, parts) for name, parts in WATCHED.items()}
    contender(lm, given[:8], hooks.PARTS)()
    done, results = timing.rounds(contenders, options.rounds)
    beside = {name: timing.median_ratio(done, name, PLAIN) for name in (RESIDUAL, ALL)}
    apart = max(sharing.largest_difference(results[PLAIN], results[name]) for name in beside)
    expected = [
        Expected(f"{RESIDUAL} / {PLAIN}", beside[RESIDUAL], at_most=MOST),
        Expected("largest difference of CE, nats", apart, at_most=TOLERANCE),
    ]
    peaks: dict[str, float] = {}
    if not options.no_memory:
        for size in (TEXTS, 4 * TEXTS):
            for name in (PLAIN, RESIDUAL):
                peaks[f"{name}, {size} texts"] = memory.in_child(
                    [
                        sys.executable,
                        "-m",
                        "benchmarks",
                        "--model",
                        options.model,
                        "--queries",
                        str(size),
                        "--peak-of",
                        CHILD + name,
                    ]
                )
            expected.append(
                Expected(
                    f"MiB more with capture, {size} texts",
                    peaks[f"{RESIDUAL}, {size} texts"] - peaks[f"{PLAIN}, {size} texts"],
                    at_most=MOST_MIB,
                )
            )
    seconds = sharing.seconds_of(done, list(contenders))
    sharing.show(
        f"capture: {lm.name}, {TEXTS} texts, {options.rounds} interleaved rounds",
        seconds,
        expected,
        lambda name: f"{beside[name]:8.2f} × {PLAIN}" if name in beside else "",
    )
    return {
        "texts": TEXTS,
        "rounds": options.rounds,
        "matmul_gflops": sharing.matrix_rate(done),
        "seconds": seconds,
        "times_plain": beside,
        "peak_mib": peaks,
        "expected": sharing.as_data(expected),
        "numbers_agree": expected[1].holds,
    }


def child(lm: LM, options: argparse.Namespace) -> int:
    """Read texts in this process and print its peak memory in MiB."""
    given = texts(lm, options.queries)
    memory.forget_peak()
    contender(lm, given, WATCHED[options.peak_of.removeprefix(CHILD)])()
    print(memory.own_peak_mib())
    return 0
