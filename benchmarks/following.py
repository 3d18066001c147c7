"""What it costs to see where following tokens look, beside eager attention; and how it grows."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import memory, sharing, timing
from benchmarks.contenders import Contender, Sums
from benchmarks.sharing import Expected
from kvcore import loading
from kvcore.conditions import switching
from kvcore.conditions.switching import Switch
from kvcore.data.context_pairs.load import load_pairs
from kvcore.measurements import context_switch
from kvcore.measurements.kinds import context_switch as switch_kind
from kvcore.models.lm import LM

PLAIN, TRACKED = "eight ways followed", "with attention shares"
SINGLY, EAGER = "way by way, one pass each", "way by way, eager, attention matrices"
PAIRS, STEPS, SIZES, FULL = 6, 64, (4, 16, 64), 500
MOST, MOST_MIB, TOLERANCE = 1.5, 4e9 / 2**20, 1e-4
"""Most times the same run that shares may cost, MiB of 500 pairs, difference of a share."""
CHILD = "following"
"""What ``--peak-of`` is given in the processes whose memory is measured."""


def given(count: int, seed: int) -> list[Switch]:
    """Return switches of word problems whose contexts differ."""
    pairs = load_pairs("word_problems", 2 * count, seed).pairs
    found = [switch_kind.switch_of(pair, seed) for pair in pairs]
    return [one for one in found if one.original != one.new][:count]


def followed(lm: LM, some: Sequence[Switch], *, attention: bool) -> Contender:
    """Prepare following all ways; what is returned is the mean share on what was injected."""

    def run() -> Sums:
        table = context_switch.follow(lm, some, steps=STEPS, attention=attention)
        return {
            (row.switch_id, row.condition): float(np.mean(row.share_injected))
            if attention
            else float(np.mean(row.logp))
            for row in table.itertuples(index=False)
        }

    return run


def one_by_one(lm: LM, some: Sequence[Switch], *, eager: bool) -> Contender:
    """Prepare one uncached pass per way, as a plain script does it.

    With eager attention the shares are read off whole attention matrices. Ways that reuse a cut
    cache (partial) have no such pass and are left out.
    """
    ways = [w for w in switching.METHODS if not w.startswith("partial")]

    def run() -> Sums:
        found: Sums = {}
        for switch in some:
            told = switching.tokenize(lm.tokenizer, switch, int(lm.config.vocab_size))
            noise = switching.noise_ids(lm.tokenizer, told, 0)
            for name in ways:
                start = switching.plan_cache(switching.switch_method(name), told, lm.bos_id, noise)
                script = switching.plan_decode(start, told.after[:STEPS])
                ids = [*start.runs[0][: start.slots_taken[0]], *script.read]
                rows = [start.slots_taken[0] + n for n in script.predicts]
                found[switch.id, name] = _pass(lm, ids, rows, script.slot_spans, eager=eager)
        return found

    return run


def _pass(
    lm: LM, ids: Sequence[int], rows: Sequence[int], holds: Sequence[int], *, eager: bool
) -> float:
    with torch.inference_mode():
        out = lm.model(torch.tensor([list(ids)]), use_cache=False, output_attentions=eager)
        logps = out.logits[0, list(rows)].float().log_softmax(-1)
    if not eager:
        return float(logps.mean())
    where = torch.tensor(list(holds)) == switching.INJECTED
    return float(
        np.mean(
            [float(layer[0, :, list(rows)][..., where].sum(-1).mean()) for layer in out.attentions]
        )
    )


def measure(lm: LM, options: argparse.Namespace) -> dict[str, Any]:
    """Time the four beside each other, measure peak memory; print and return it all."""
    some = given(PAIRS, options.seed)
    eager = loading.load(options.model, device="cpu", dtype="float32")
    eager.model.set_attn_implementation("eager")
    contenders = {
        PLAIN: followed(lm, some, attention=False),
        TRACKED: followed(lm, some, attention=True),
        SINGLY: one_by_one(lm, some, eager=False),
        EAGER: one_by_one(eager, some, eager=True),
    }
    followed(lm, some[:1], attention=True)()
    done, results = timing.rounds(contenders, options.rounds)
    tracked = timing.median_ratio(done, TRACKED, PLAIN)
    matrices = timing.median_ratio(done, EAGER, SINGLY)
    apart = max(abs(share - results[TRACKED][key]) for key, share in results[EAGER].items())
    expected = [
        Expected(f"{TRACKED} / {PLAIN}", tracked, at_most=MOST),
        Expected("largest difference of a share from eager attention's", apart, at_most=TOLERANCE),
    ]
    sizes: list[dict[str, Any]] = []
    if not options.no_memory:
        sizes = [_sized(options, n) for n in ((*SIZES, FULL) if options.full else SIZES)]
        expected.append(
            Expected(
                f"peak memory at {sizes[-1]['pairs']} pairs, MiB",
                sizes[-1]["peak_mib"],
                at_most=MOST_MIB,
            )
        )
    seconds = sharing.seconds_of(done, list(contenders))
    sharing.show(
        f"following: {lm.name}, {PAIRS} pairs × {len(switching.METHODS)} ways × {STEPS} "
        f"tokens, {options.rounds} interleaved rounds",
        seconds,
        expected,
    )
    print(f"  {EAGER} / {SINGLY}: {matrices:.2f}")
    for one in sizes:
        print(
            f"  {one['pairs']:>4} pairs: {one['seconds']:8.1f} s   peak {one['peak_mib']:6.0f} MiB"
        )
    return {
        "pairs": PAIRS,
        "ways": switching.METHODS,
        "steps": STEPS,
        "rounds": options.rounds,
        "matmul_gflops": sharing.matrix_rate(done),
        "seconds": seconds,
        f"{EAGER} / {SINGLY}": matrices,
        "by_size": sizes,
        "expected": sharing.as_data(expected),
        "numbers_agree": expected[1].holds,
    }


def _sized(options: argparse.Namespace, pairs: int) -> dict[str, Any]:
    start = time.perf_counter()
    peak = memory.in_child(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "--model",
            options.model,
            "--seed",
            str(options.seed),
            "--queries",
            str(pairs),
            "--peak-of",
            CHILD,
        ]
    )
    return {"pairs": pairs, "peak_mib": peak, "seconds": time.perf_counter() - start}


def child(lm: LM, options: argparse.Namespace) -> int:
    """Follow pairs in this process, attention included, and print its peak memory in MiB."""
    some = given(options.queries, options.seed)
    memory.forget_peak()
    followed(lm, some, attention=True)()
    print(memory.own_peak_mib())
    return 0
