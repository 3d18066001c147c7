"""``python -m benchmarks``: every part's speed and memory, each beside its peers."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import (
    capture,
    contenders,
    dtypes,
    elsewhere,
    following,
    host,
    hybrids,
    ranking,
    sinks_page,
    speed,
    statistics_page,
)
from kvcore import loading
from kvcore.data import datasets
from kvcore.data.sample import Corpus, Sample, choose_samples
from kvcore.models.lm import LM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit status: 1 where two routes' numbers differ."""
    options = _options(arguments)
    if options.part == STATISTICS:
        statistics_page.write(options.replications, options.seed)
        print(f"written to {statistics_page.PAGE.relative_to(Path.cwd())}")
        return 0
    if options.part == SINKS:
        sinks_page.write()
        print(f"written to {sinks_page.PAGE.relative_to(Path.cwd())} and the pictures beside it")
        return 0
    lm = loading.load(options.model, device="cpu", dtype="float32")
    if options.peak_of:
        return _child(lm, options)
    corpus = datasets.load_corpus(options.dataset)
    every = [name for name in PARTS if name not in ON_REQUEST]
    chosen = every if options.part == "all" else [options.part]
    return max(_report(lm, name, PARTS[name](lm, corpus, options), options) for name in chosen)


def _child(lm: LM, options: argparse.Namespace) -> int:
    """Run what a process is started for, to have its memory measured."""
    if options.peak_of.startswith(capture.CHILD):
        return capture.child(lm, options)
    own = {ranking.CHILD: ranking.child, following.CHILD: following.child}
    return own.get(options.peak_of, speed.child)(lm, options)


def _report(lm: LM, part: str, report: dict[str, Any], options: argparse.Namespace) -> int:
    """Write one part's figures and return its exit status."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{part}-{lm.name.strip('/').replace('/', '-')}.json"
    whole = {
        "model": lm.name,
        "dataset": options.dataset,
        "seed": options.seed,
        **report,
        "environment": _environment(),
    }
    path.write_text(json.dumps(whole, indent=2) + "\n")
    print(f"written to {path}")
    return int(not report.get("numbers_agree", True))


def _measurable(lm: LM, corpus: Corpus, count: int, seed: int) -> list[Sample]:
    return contenders.usable(lm, choose_samples(corpus.samples, 2 * count, seed), count, seed)


PARTS: dict[str, Callable[[LM, Corpus, argparse.Namespace], dict[str, Any]]] = {
    "speed": lambda lm, corpus, options: speed.measure(
        lm, _measurable(lm, corpus, options.samples, options.seed), options
    ),
    "hybrids": lambda lm, corpus, options: hybrids.measure(
        lm, _measurable(lm, corpus, options.hybrid_samples, options.seed), options
    ),
    "ranking": ranking.measure,
    "dtypes": lambda lm, corpus, options: dtypes.measure(
        lm, _measurable(lm, corpus, options.dtype_samples, options.seed), options
    ),
    "capture": lambda lm, _corpus, options: capture.measure(lm, options),
    "host": host.measure,
    "following": lambda lm, _corpus, options: following.measure(lm, options),
    "ray": elsewhere.measure,
}

STATISTICS = "statistics"
"""The part that simulates verdicts on the shipped rows, loads no model and writes a page."""
SINKS = "sinks"
"""The part that writes the figures of the attention sinks from the shipped rows."""
ON_REQUEST = ("dtypes", "host", "ray")
"""Parts that "all" leaves out: a minute or more per sample, of use with a tiny model alone, or an
extra of the package."""


def _environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--part", choices=(*PARTS, STATISTICS, SINKS, "all"), default="all", help="what is measured"
    )
    parser.add_argument("--model", default="smollm2-135m", help="registry name, hub id or folder")
    parser.add_argument("--dataset", default="docstrings", help="dataset name or file")
    parser.add_argument("--samples", type=_count, default=24, help="samples per round of speed")
    parser.add_argument(
        "--hybrid-samples", type=_count, default=12, help="samples per round of hybrids"
    )
    parser.add_argument(
        "--dtype-samples", type=_count, default=50, help="samples that are scored in every dtype"
    )
    parser.add_argument(
        "--host-samples", type=_count, default=1000, help="samples of host, by a tiny model"
    )
    parser.add_argument(
        "--rounds", type=_count, default=3, help="interleaved rounds of each part but ranking"
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=2,
        help="queries of ranking, each a round; one takes about five minutes",
    )
    parser.add_argument("--passages", type=int, default=10, help="passages per query of ranking")
    parser.add_argument(
        "--full",
        action="store_true",
        help=f"also rank {ranking.FULL} queries and follow {following.FULL} pairs "
        "for the peak memory: an hour",
    )
    parser.add_argument(
        "--replications", type=_count, default=2000, help="draws of every simulated rate"
    )
    parser.add_argument("--seed", type=int, default=0, help="of samples and random prefixes")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/out"), help="folder for one JSON file per part"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    for internal, kind in (
        ("--peak-of", str),
        ("--samples-file", Path),
        ("--batch-size", int),
        ("--scores-file", Path),
    ):
        parser.add_argument(internal, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} given; pass 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
