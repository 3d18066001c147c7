"""Every public path on a stand-in for a CUDA device: no devices mixed, the CPU's numbers, few waits.

Each path runs on the CPU and on `invariants.support.stand_in_device`, with the same weights and
the same batches. Both compute on the CPU, so what differs is what the code does for a device:
attention with repeated heads, where tensors are made, what is copied. A wait makes the GPU idle
until the host has gone on; an upload is a copy to the device, which waits too unless it is pinned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from invariants.support.comparing import Fault, replaced
from invariants.support.samples import LONG, SHORT, TINY
from invariants.support.stand_in_device import Counts, DevicesMixed, stand_in_device
from invariants.support.switches import GIVEN, WAYS
from kvcore import loading
from kvcore.analysis import ranking
from kvcore.cache import kv_cache, masks
from kvcore.data.sample import Sample
from kvcore.engine import forward, limits
from kvcore.engine.hooks import PARTS
from kvcore.measurements import (
    answer_nll,
    capture,
    context_switch,
    divergence,
    explain,
    generation,
    hidden_states,
    surrogate_queries,
    token_nlls,
)
from kvcore.measurements.hidden_states import TokenText
from kvcore.models import tiny_configs
from kvcore.models.lm import LM

TOLERANCE = 1e-6  # relative where above 1: the same kernels in the same batches leave 0 to 7e-7
SAMPLES = (LONG, SHORT, TINY)
Numbers = Mapping[str, Any]
Path_ = Callable[[LM, Path], Numbers]


@dataclass(frozen=True)
class PublicPath:
    """One thing that the instrument can be asked for.

    Attributes
    ----------
    run : callable
        Gets the model and a folder, and returns what was measured by name.
    waits, uploads : float
        Most waits, and most copies to the device, per pass of the model.
    """

    run: Path_
    waits: float
    uploads: float


def of_frame(rows: pd.DataFrame) -> Numbers:
    """Return a frame's columns by name."""
    return {name: rows[name].tolist() for name in rows.columns}


def some_ids(length: int, seed: int) -> tuple[int, ...]:
    """Draw ordinary token ids."""
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 384, length))


TEXTS = tuple(
    TokenText(f"t{n}", "human", some_ids(prompt, n), some_ids(continuation, 50 + n))
    for n, (prompt, continuation) in enumerate([(5, 20), (0, 2), (3, 9)])
)
PROMPTS = tuple(some_ids(length, length) for length in (20, 0, 5))
CONDITIONS: Mapping[str, tuple[str, ...]] = {
    "truncated": ("bare", "oracle", "random", "static_fact", "bare_again"),
    "whole": ("full_context(oracle)", "separator", "suffix(random)"),
    "repositioned": (
        "no_reposition(static_fact)",
        "reposition(random,model)",
        "rope_roundtrip(random)",
    ),
    "copies": ("blocks(static_fact,2,last)", "click_history(2)", "beacons(random,4)"),
    "values": (
        "values_only(static_fact)",
        "values_early_layers(static_fact,0.5)",
        "values_early_positions(random,0.5)",
        "interp(static_fact,0.25)",
        "qvi(0.5)",
    ),
    "layers": ("values_layer(random,0)", "values_layer(random,1)", "values_layer(random,2)"),
}


def scores(*names: str, route: answer_nll.Route = "auto") -> Path_:
    """Return the path that scores answers under some conditions."""
    return lambda lm, _folder: of_frame(answer_nll.score(lm, SAMPLES, names, route=route))


def padded(lm: LM, _folder: Path) -> Numbers:
    """Score in passes so dear that unlike samples share them, and their padding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits.PASS_COST, lm.device.type, 10**6)
        return of_frame(answer_nll.score(lm, SAMPLES, ("bare", "oracle"), route="cache"))


def one_base(lm: LM, _folder: Path) -> Numbers:
    """Score with keys turned by another layer's base, where the model has two."""
    if lm.name != "tiny-gemma3":
        return {}
    return of_frame(answer_nll.score(lm, SAMPLES, ("one_base(static_fact)",)))


def written(lm: LM, _folder: Path) -> Numbers:
    """Write texts, greedily and not."""
    more: Any = {"max_new_tokens": 6, "min_new_tokens": 2, "stop": range(3, 60)}
    return {
        "greedy": generation.generate(lm, PROMPTS, **more),
        "drawn": generation.generate(lm, PROMPTS, temperature=0.7, seeds=range(3), **more),
    }


def surrogates(lm: LM, _folder: Path) -> Numbers:
    """Write surrogate queries; their prompts are longer than some models are exact for."""
    if limits.exact_positions(lm) < 1024:
        return {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate_queries, "MAX_NEW_TOKENS", 4)
        return {"texts": surrogate_queries.surrogates(lm, SAMPLES[:2], "keyword")}


def captured(lm: LM, folder: Path) -> Numbers:
    """Write hidden states to a file, and read it."""
    path = capture.capture_to(lm, TEXTS[0].ids, folder / lm.device.type, parts=PARTS)
    return {name: stream.tolist() for name, stream in load_file(path).items()}


def ranked(lm: LM, _folder: Path) -> Numbers:
    """Score a list of passages by a query, and rank it."""
    passages = [LONG.passage, SHORT.passage, "the value is read", "a key and its value"]
    listed = [Sample(LONG.query, passage, LONG.query, id=str(n)) for n, passage in enumerate(passages)]
    return of_frame(answer_nll.score(lm, listed, ("bare", "random"), targets=("qdoc", "answer")))


def explained(lm: LM, _folder: Path) -> Numbers:
    """Explain conditions on a sample."""
    names = ("oracle", "values_only(static_fact)", "blocks(static_fact,2,last)")
    return {name: explain.explain(lm, LONG, name) for name in names}


def diverging(lm: LM, _folder: Path) -> Numbers:
    """Compare next-token distributions."""
    pairs = [("bare", "random"), ("bare", "values_only(random)")]
    return of_frame(divergence.between(lm, SAMPLES, pairs))


PATHS: Mapping[str, PublicPath] = {
    **{f"scores-{name}": PublicPath(scores(*some), 9, 9) for name, some in CONDITIONS.items()},
    "scores-on-caches": PublicPath(scores("bare", "oracle", route="cache"), 9, 9),
    "scores-one-pass": PublicPath(scores("oracle"), 9, 9),
    "scores-padded": PublicPath(padded, 9, 9),
    "scores-one-base": PublicPath(one_base, 9, 9),
    "ranking": PublicPath(ranked, 9, 9),
    "divergence": PublicPath(diverging, 9, 9),
    "generation": PublicPath(written, 9, 9),
    "surrogates": PublicPath(surrogates, 9, 9),
    "dynamics": PublicPath(
        lambda lm, _: of_frame(hidden_states.dynamics(lm, TEXTS, parts=PARTS)), 9, 9
    ),
    "trace": PublicPath(lambda lm, _: of_frame(hidden_states.trace(lm, TEXTS, -1)), 9, 9),
    "capture": PublicPath(captured, 9, 9),
    "switch": PublicPath(lambda lm, _: of_frame(context_switch.follow(lm, GIVEN[:2], WAYS)), 9, 9),
    "shares": PublicPath(
        lambda lm, _: of_frame(
            context_switch.follow(lm, GIVEN[:2], ("oracle", "injection"), attention=True)
        ), 9, 9
    ),
    "free": PublicPath(
        lambda lm, _: of_frame(
            context_switch.generate_after_switch(lm, GIVEN[:2], WAYS, max_new_tokens=4)
        ), 9, 9
    ),
    "explain": PublicPath(explained, 99, 99),
}  # fmt: skip
