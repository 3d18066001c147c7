"""Ranking under thirteen conditions and three targets: time beside score by score, and memory."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import memory, sharing, timing
from benchmarks.contenders import Sums
from benchmarks.sharing import Asked, Expected
from kvcore.data.datasets import load_corpus
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Corpus, Sample
from kvcore.models.lm import LM

INTENTS = ("fact", "definition", "procedure", "quantity", "problem")
CONDITIONS = (
    "bare",
    *(f"values_early_layers(static({intent}),0.47)" for intent in INTENTS),
    "interp(oracle,0.25)",
    "values_early_layers(oracle,0.25)",
    "values_early_layers(oracle,0.5)",
    "full_context(oracle)",
    *(f"qvi({weight})" for weight in (0.1, 0.25, 0.5)),
)
TARGETS = ("answer", "qdoc", "relevance")
TOGETHER, APART = "this engine, all at once", "condition by condition"
SINGLY = "score by score"
SIZES, FULL = (1, 2, 4), 50
"""Queries whose peak memory is measured, and those of a whole ranking (``--full``)."""
LEAST, MOST_MIB, TOLERANCE = 3.0, 4e9 / 2**20, 1e-4
CHILD = "ranking"
"""What ``--peak-of`` is given in the processes whose memory is measured."""


def measure(lm: LM, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Time every list in a round of its own, measure the peak memory; print and return it all."""
    lists = [
        Asked(samples, CONDITIONS, TARGETS, options.seed)
        for samples in chosen(corpus, options.queries, options)
    ]
    sharing.contender(lm, [Asked(lists[0].samples[:1], ("bare",), seed=options.seed)])()
    done: list[timing.Round] = []
    together: Sums = {}
    singly: Sums = {}
    apart = 0.0
    for number, asked in enumerate(lists):
        once, found = timing.rounds(
            {
                TOGETHER: sharing.contender(lm, [asked]),
                APART: sharing.contender(lm, asked.by_condition()),
                SINGLY: sharing.contender(lm, asked.one_by_one()),
            },
            1,
            first=number,
        )
        done += once
        together |= found[TOGETHER]
        singly |= found[SINGLY]
        apart = max(
            apart,
            *(sharing.largest_difference(found[TOGETHER], found[name]) for name in (APART, SINGLY)),
        )
    expected = [
        Expected(
            f"{SINGLY} / {TOGETHER}", timing.median_ratio(done, SINGLY, TOGETHER), at_least=LEAST
        ),
        Expected("largest difference together - by itself, nats", apart, at_most=TOLERANCE),
    ]
    seconds = sharing.seconds_of(done, (TOGETHER, APART, SINGLY))
    sharing.show(
        f"ranking: {lm.name}, {len(lists)} interleaved rounds, in each another query's "
        f"list of {options.passages} passages",
        seconds,
        expected,
    )
    counts = [sharing.tokens_run(lm, asked) for asked in lists]
    by_tokens = sum(a for _, a in counts) / sum(s for s, _ in counts)
    print(f"  {SINGLY} / {TOGETHER} by their tokens alone: {by_tokens:.2f}")
    wanted = sum(len(asked.one_by_one()) for asked in lists)
    report = {
        "queries": len(lists),
        "passages": options.passages,
        "conditions": CONDITIONS,
        "targets": TARGETS,
        "scores": len(together),
        "unmeasurable": wanted - len(together),
        "matmul_gflops": sharing.matrix_rate(done),
        "seconds": seconds,
        f"{APART} / {TOGETHER}": timing.median_ratio(done, APART, TOGETHER),
        "by_tokens": by_tokens,
    }
    if not options.no_memory:
        passes = statistics.median(seconds[TOGETHER]) * FULL / 60
        sizes = (*SIZES, FULL) if options.full else SIZES
        print(
            f"  {FULL} queries would take about {passes:.0f} minutes: "
            f"{'they follow' if options.full else 'ask for them with --full'}"
        )
        report["by_size"], further = _sizes(options, sizes, singly)
        expected += further
    return report | {
        "expected": sharing.as_data(expected),
        "numbers_agree": all(one.holds for one in expected if one.at_most == TOLERANCE),
    }


def chosen(corpus: Corpus, queries: int, options: argparse.Namespace) -> list[tuple[Sample, ...]]:
    """Return the passages of some queries, list by list; fewer queries are a part of more."""
    if not queries:
        return []
    listed = ranking_lists(corpus, queries, options.seed, negatives=options.passages - 1)
    return [tuple(c.sample for c in each) for _, each in groupby(listed, key=lambda c: c.query_id)]


def child(lm: LM, options: argparse.Namespace) -> int:
    """Rank once in this process; write scores and seconds, print the peak memory in MiB."""
    lists = chosen(load_corpus(options.dataset), options.queries, options)
    asked = Asked(
        tuple(sample for each in lists for sample in each), CONDITIONS, TARGETS, options.seed
    )
    memory.forget_peak()
    scores, seconds = timing.timed(sharing.contender(lm, [asked] if lists else []))
    peak = memory.own_peak_mib()
    found = {"seconds": seconds, "scores": [[*key, nll] for key, nll in scores.items()]}
    options.scores_file.write_text(json.dumps(found))
    print(peak)
    return 0


def _sizes(
    options: argparse.Namespace, sizes: Sequence[int], singly: Sums
) -> tuple[list[dict[str, Any]], list[Expected]]:
    """Rank lists of growing number, each number in a process of its own.

    Their scores are compared with those of the same lists scored one by one.
    """
    measured: list[dict[str, Any]] = []
    apart = 0.0
    for queries in (0, *sizes):
        peak, seconds, scores = _sized(options, queries)
        measured.append(
            {"queries": queries, "peak_mib": peak, "seconds": seconds, "scores": len(scores)}
        )
        both = singly.keys() & scores.keys()
        if queries:
            apart = max(
                apart,
                sharing.largest_difference(
                    {key: singly[key] for key in both}, {key: scores[key] for key in both}
                ),
            )
        print(
            f"  {queries:>4} queries: {seconds:8.1f} s   peak {peak:6.0f} MiB"
            f"{'' if queries else '   (only loaded)'}"
        )
    found = [
        Expected(
            f"peak memory at {sizes[-1]} queries, MiB", measured[-1]["peak_mib"], at_most=MOST_MIB
        ),
        Expected("largest difference in these processes, nats", apart, at_most=TOLERANCE),
    ]
    for one in found:
        print(f"  {one}")
    return measured, found


def _sized(options: argparse.Namespace, queries: int) -> tuple[float, float, Sums]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scores.json"
        peak = memory.in_child(
            [
                sys.executable,
                "-m",
                "benchmarks",
                "--model",
                options.model,
                "--dataset",
                options.dataset,
                "--seed",
                str(options.seed),
                "--queries",
                str(queries),
                "--passages",
                str(options.passages),
                "--scores-file",
                str(path),
                "--peak-of",
                CHILD,
            ]
        )
        found = json.loads(path.read_text())
    return peak, found["seconds"], {tuple(key): nll for *key, nll in found["scores"]}
