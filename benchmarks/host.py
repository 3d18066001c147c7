"""Time outside the model for each score, and how full the passes are: measured with a tiny model.

Cells are measured as a run measures them, into a store of their own; what the model takes is timed
apart, in processor time. A few samples go before, so that what is done once a process does not
count. Nothing else is watched meanwhile: how full passes are is counted in runs apart, with the
budgets and the shards of a GPU, on passages as short as those that its cells read; nothing is run
on one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from benchmarks import hybrids, ranking
from kvcore.data.sample import Corpus
from kvcore.engine import forward, hooks, limits
from kvcore.measurements import collect
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.measurements.kinds import answer_nll
from kvcore.measurements.needs import SHARES
from kvcore.measurements.registry import kind_of
from kvcore.models.files import locate
from kvcore.models.lm import LM

THREE = ("bare", "oracle", "random")
PLAIN = hybrids.PLAIN
MORE_HYBRIDS = (
    f"values_early_layers({PLAIN},0.47)",
    f"values_layer({PLAIN},1)",
    f"values_early_positions({PLAIN},0.5)",
    f"interp({PLAIN},0.75)",
)
MOST_MICROSECONDS = {"three conditions": 500, "13 hybrids": 400, "ranking": 400}
LEAST_TOKENS, MOST_PADDING = 8000, 0.1
GPU_SAMPLES, WARM_UP = 400, 20
LENGTHS: Mapping[str, Callable[[str], int]] = {
    "of like lengths": lambda passage: min(200, len(passage)),
    "of any length": lambda passage: int(0.35 * len(passage)),
}
"""How many characters of a passage are read: the tiny tokenizer reads almost letter by letter, so
that passages have the 110 to 140 tokens that those of MS MARCO have; SDs are 10 and 46 tokens."""


@dataclass
class ModelTime:
    """What the calls of a model took: seconds of the processor, and how many they were."""

    seconds: float = 0.0
    passes: int = 0


@dataclass
class Passes:
    """How full the passes of a model were.

    - `tokens`: of each pass, padding included: the mean of what its layers run.
    - `real`: how many of its tokens are no padding, a share.
    """

    tokens: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)

    @property
    def padding(self) -> float:
        """Share of all tokens that are padding."""
        run = sum(self.tokens)
        return 1 - sum(t * r for t, r in zip(self.tokens, self.real, strict=True)) / max(1, run)


@contextmanager
def time_of(lm: LM) -> Iterator[ModelTime]:
    """Time a model inside the context: two looks at the clock for each pass, and nothing more."""
    taken = ModelTime()
    own_forward = lm.model.forward

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return own_forward(*arguments, **named)
        finally:
            taken.seconds += time.process_time() - started
            taken.passes += 1

    with mock.patch.object(lm.model, "forward", timed):
        yield taken


@contextmanager
def passes_of() -> Iterator[Passes]:
    """Count the tokens of all passes inside the context."""
    done = Passes()
    run_model = forward.run_model

    def counted(lm: LM, step: forward.ForwardInput, *arguments: Any, **named: Any) -> Any:
        in_layers: list[int] = []  # rows that are alike up to a layer are run once below it
        with hooks.watching(
            lm, ["residual"], lambda _part, _layer, x: in_layers.append(x.shape[0] * x.shape[1])
        ):
            try:
                return run_model(lm, step, *arguments, **named)
            finally:
                done.tokens.append(statistics.mean(in_layers))
                done.real.append(float(step.real.float().mean()))

    with mock.patch.object(forward, "run_model", counted):
        yield done


def needs_of(lm: LM) -> dict[str, tuple[str, ...]]:
    """Return what is measured: the needs of each set."""
    return {
        "three conditions": THREE,
        "13 hybrids": (*hybrids.names(lm.config.num_hidden_layers), *MORE_HYBRIDS),
        "ranking": tuple(
            f"{name}@lists" + ("" if target == "answer" else f".{target}")
            for name in ranking.CONDITIONS
            for target in ranking.TARGETS
        ),
    }


def measure(lm: LM, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every set, print its figures and return them all."""
    print(f"host: {lm.name}, {options.host_samples} samples, processor time")
    _measured(lm, corpus, THREE, WARM_UP, "cpu")
    report: dict[str, Any] = {"samples": options.host_samples}
    for name, needs in needs_of(lm).items():
        limit = options.host_samples
        if name == "ranking":  # a list is `--passages` samples
            limit = max(2, limit // options.passages) * SHARES["lists"]
        with time_of(lm) as model:
            rows, seconds = _measured(lm, corpus, needs, limit, "cpu")
        outside, inside = (1e6 * part / rows for part in (seconds - model.seconds, model.seconds))
        report[name] = {
            "rows": rows,
            "microseconds_outside_the_model": outside,
            "microseconds_in_the_model": inside,
            "passes": model.passes,
        }
        print(
            f"  {name:<18}{rows:>7} scores   outside the model {outside:6.0f} µs each (aim: "
            f"{MOST_MICROSECONDS[name]}), inside {inside:6.0f} µs"
        )
    report["prepared ahead"] = ahead(lm, corpus, options)
    return report | {"gpu": gpu_passes(lm, corpus, options)}


def ahead(lm: LM, corpus: Corpus, options: argparse.Namespace) -> dict[str, float]:
    """Time three conditions with the next shard prepared meanwhile, against in turn: the ratio.

    By the clock, in turns, on one thread for the model and one for what is prepared. Each run has a
    seed of its own, so that none remembers another's random prefixes.
    """
    seconds: dict[bool, float] = {True: 0.0, False: 0.0}
    for seed, is_ahead in enumerate((True, False, False, True), start=1):
        with mock.patch.object(collect, "on_gpu", return_value=is_ahead):
            started = time.perf_counter()
            _measured(lm, corpus, THREE, options.host_samples, "cpu", seed)
            seconds[is_ahead] += time.perf_counter() - started
    ratio = seconds[False] / seconds[True]
    print(f"  the next shard prepared meanwhile: {ratio:.2f} × as fast as in turn, by the clock")
    return {"seconds_in_turn": seconds[False], "seconds_ahead": seconds[True], "ratio": ratio}


def gpu_passes(
    lm: LM, corpus: Corpus, options: argparse.Namespace, lengths: Sequence[str] = tuple(LENGTHS)
) -> dict[str, Any]:
    """Count the passes that a GPU's budgets and shards give, print their figures, return them.

    `lengths`: keys of `LENGTHS`.
    """
    needs = dict.fromkeys((*THREE, *needs_of(lm)["13 hybrids"]))
    report = {}
    for name in lengths:
        length = LENGTHS[name]
        samples = tuple(replace(s, passage=s.passage[: length(s.passage)]) for s in corpus.samples)
        with ExitStack() as budgets:
            for of_device in (limits.BATCH_TOKENS, limits.PASS_COST, limits.LOGITS):
                budgets.enter_context(mock.patch.dict(of_device, cpu=of_device["cuda"]))
            limit = min(options.host_samples, GPU_SAMPLES)
            short = replace(corpus, samples=samples)
            passes = budgets.enter_context(passes_of())
            rows, _ = _measured(lm, short, tuple(needs), limit, "cuda")
        median = statistics.median(passes.tokens)
        report[name] = {
            "rows": rows,
            "passes": len(passes.tokens),
            "median_tokens": median,
            "padding": passes.padding,
        }
        print(
            f"  a GPU's budgets, passages {name}: {rows} scores, {len(passes.tokens)} passes, "
            f"median {median:.0f} tokens (aim: {LEAST_TOKENS}), padding {passes.padding:.1%} "
            f"(aim: {MOST_PADDING:.0%})"
        )
    return report


def _measured(
    lm: LM, corpus: Corpus, needs: Sequence[str], limit: int, device: str, seed: int = 0
) -> tuple[int, float]:
    """Measure a cell in a store of its own; return its rows, and seconds of the processor."""
    kind = kind_of("answer_nll")
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(answer_nll, "load_corpus", return_value=corpus),
    ):
        root = Path(folder)
        request = MeasureRequest(
            locate(lm.name), lambda: lm, corpus.name, tuple(needs), limit, seed, None, root, device
        )
        collection = Collection.planned(kind, request, root, progress=None).adopting()
        started = time.process_time()
        collection.measure(collection.keys)
        return len(collection.keys), time.process_time() - started
