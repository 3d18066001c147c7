"""Every public path on a stand-in for a CUDA device: one device, the CPU's numbers, few waits.

Each path runs on the CPU and on `invariants.support.stand_in_device`, with the same weights and
the same batches. Both compute on the CPU, so what differs is what the code does for a device:
attention with packed heads, where tensors are made, what is copied. A wait makes the GPU idle
until the host has gone on; an upload is a copy to the device, which waits too unless it is pinned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
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
from kvcore.cache import masks
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
)
from kvcore.measurements.context_switch import passes
from kvcore.measurements.hidden_states import TokenText
from kvcore.models import tiny_configs
from kvcore.models.lm import LM

TOLERANCE = 1e-5  # relative where above 1: grouped heads round logs 2e-6 apart on some CPUs
SAMPLES = (LONG, SHORT, TINY)
Numbers = Mapping[str, Any]
Run = Callable[[LM, Path], Numbers]


@dataclass(frozen=True)
class PublicPath:
    """One thing that the instrument can be asked for.

    Attributes
    ----------
    run : callable
        Gets the model and a folder, and returns what was measured by name.
    waits : float
        Most waits per pass of the model.
    """

    run: Run
    waits: float


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


def scores(*names: str, route: answer_nll.Route = "auto") -> Run:
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
    listed = [
        Sample(LONG.query, passage, LONG.query, id=str(n)) for n, passage in enumerate(passages)
    ]
    return of_frame(answer_nll.score(lm, listed, ("bare", "random"), targets=("qdoc", "answer")))


def explained(lm: LM, _folder: Path) -> Numbers:
    """Explain conditions on a sample."""
    names = ("oracle", "values_only(static_fact)", "blocks(static_fact,2,last)")
    return {name: explain.explain(lm, LONG, name) for name in names}


def diverging(lm: LM, _folder: Path) -> Numbers:
    """Compare next-token distributions."""
    pairs = [("bare", "random"), ("bare", "values_only(random)")]
    return of_frame(divergence.between(lm, SAMPLES, pairs))


def followed(lm: LM, _folder: Path) -> Numbers:
    """Follow switches in every way along the same tokens."""
    return of_frame(context_switch.follow(lm, GIVEN[:1], WAYS, steps=4))


def with_shares(lm: LM, _folder: Path) -> Numbers:
    """Follow a switch, and where the tokens look."""
    ways = ("oracle", "injection")
    return of_frame(context_switch.follow(lm, GIVEN[:2], ways, attention=True))


def gone_on(lm: LM, _folder: Path) -> Numbers:
    """Go on freely behind a switch, by ways that prefill, append, inject and splice."""
    ways = ("oracle", "injection", "gradual(3,2)", "partial(3)")
    more: Any = {"max_new_tokens": 2}
    return of_frame(context_switch.generate_after_switch(lm, GIVEN[:1], ways, **more))


def dynamics(lm: LM, _folder: Path) -> Numbers:
    """Reduce every layer's hidden states, in three parts."""
    return of_frame(hidden_states.dynamics(lm, TEXTS, parts=PARTS))


def trace(lm: LM, _folder: Path) -> Numbers:
    """Follow the last layer's hidden states token by token."""
    return of_frame(hidden_states.trace(lm, TEXTS, -1))


# Waits of a pass that none of these does without: the NLLs or tokens; of a pass on caches also
# where the question begins and which rows are alike. Beside passes: one for each base by which keys
# are turned, and one for each slot choice that is made on the device.
PATHS: Mapping[str, PublicPath] = {
    **{f"scores-{name}": PublicPath(scores(*some), 3) for name, some in CONDITIONS.items()},
    "scores-on-caches": PublicPath(scores("bare", "oracle", route="cache"), 3),
    "scores-one-pass": PublicPath(scores("oracle"), 1),
    "scores-padded": PublicPath(padded, 3),
    "scores-one-base": PublicPath(one_base, 3),
    "ranking": PublicPath(ranked, 3),
    "divergence": PublicPath(diverging, 3),  # three arrays of a condition's distributions
    "generation": PublicPath(written, 1),
    "surrogates": PublicPath(surrogates, 1),
    "dynamics": PublicPath(dynamics, 4),  # statistics of three parts
    "trace": PublicPath(trace, 5),  # four series
    "capture": PublicPath(captured, 9),  # three parts of three layers: no more is held at once
    "follow": PublicPath(followed, 3),
    "attention-shares": PublicPath(with_shares, 3),
    "go-on": PublicPath(gone_on, 2),
    "explain": PublicPath(explained, 20),  # for a reader, on one sample
}
ALWAYS = ("scores-values", "scores-on-caches")
"""What runs with every model outside the nightly run; with the plainest, everything does."""
PLAINEST = "tiny-llama"
LONGROPE_WAIT = 1.0
"""A pass of longrope scaling looks at its largest position, in transformers' code."""


@functools.cache
def on_both(name: str) -> tuple[LM, LM]:
    """Load a model on the CPU and on the device."""
    on_cpu = loading.load(name, device="cpu")
    with stand_in_device():
        return on_cpu, loading.load(name, device="cuda")


@pytest.fixture(autouse=True)
def same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the device the CPU's batches: what they round apart is tested elsewhere."""
    for budgets in (
        limits.BATCH_TOKENS,
        limits.PASS_COST,
        generation.BATCH_TOKENS,
        hidden_states.LOGIT_BYTES,
        passes.LOGITS_AT_ONCE,
    ):
        monkeypatch.setitem(budgets, "cuda", budgets["cpu"])


def check_device(name: str, path: str, folder: Path) -> None:
    """Demand the CPU's numbers, no mixed devices and few waits of one path with one model."""
    on_cpu, on_device = on_both(name)
    asked = PATHS[path]
    expected = asked.run(on_cpu, folder)
    with stand_in_device() as counts, counts.counting_passes(on_device.model):
        measured = asked.run(on_device, folder)
    wrong = differences(measured, expected)
    assert not wrong, f"{path} with {name} is not the CPU's: {wrong[0]}"
    check_counts(counts, asked.waits + LONGROPE_WAIT * (name == "tiny-longrope"))


def check_counts(counts: Counts, most: float) -> None:
    """Demand few waits a pass, and no upload that waits."""
    waits = counts.waits.total() / max(1, counts.passes)
    assert waits <= most, (
        f"{waits:.1f} waits a pass, at most {most} allowed: {counts.worst(counts.waits)}"
    )
    assert not counts.uploads, f"uploads that wait: {counts.worst(counts.uploads)}"


def differences(measured: Numbers, expected: Numbers) -> list[str]:
    """Return in words where two paths' results differ by more than `TOLERANCE`."""
    if set(measured) != set(expected):
        return [f"measured alone or expected alone: {sorted(set(measured) ^ set(expected))}"]
    wrong = []
    for name, value in expected.items():
        ours, theirs = list(leaves(measured[name])), list(leaves(value))
        apart = [distance(a, b) for a, b in zip(ours, theirs, strict=False)]
        if len(ours) != len(theirs) or max(apart, default=0.0) > TOLERANCE:
            wrong.append(f"{name} is {measured[name]!r:.300}, on the CPU {value!r:.300}")
    return wrong


def leaves(value: Any) -> Iterator[Any]:
    """Yield every number and text of nested lists."""
    if isinstance(value, list | tuple | np.ndarray):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def distance(a: Any, b: Any) -> float:
    """Return how far two values lie apart, relative where they exceed 1; infinite for texts."""
    if isinstance(a, float) and isinstance(b, float):
        if math.isnan(a) or math.isnan(b):
            return 0.0 if math.isnan(a) and math.isnan(b) else math.inf
        return abs(a - b) / max(1.0, abs(b)) if a != b else 0.0
    return 0.0 if a == b else math.inf


@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_device(path: str, tmp_path: Path) -> None:
    """Would catch a path that mixes devices, waits too often or measures otherwise on a GPU."""
    check_device(PLAINEST, path, tmp_path)


@pytest.mark.parametrize("name", [n for n in tiny_configs.NAMES if n != PLAINEST])
@pytest.mark.parametrize("path", ALWAYS)
def test_every_model_on_the_device(name: str, path: str, tmp_path: Path) -> None:
    """Would catch a kind of layer, mask or rotation that mixes devices or waits too often."""
    check_device(name, path, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [n for n in tiny_configs.NAMES if n != PLAINEST])
@pytest.mark.parametrize("path", [path for path in PATHS if path not in ALWAYS])
def test_every_path_of_every_model_on_the_device(name: str, path: str, tmp_path: Path) -> None:
    """Would catch what only one path with one kind of model does on a device."""
    check_device(name, path, tmp_path)


# --- twins --------------------------------------------------------------------------------------


def must_see_on_device(fault: Fault, message: str, path: str, folder: Path) -> None:
    """Demand that a fault which is no fault on the CPU fails on the device, for that reason."""
    check_device(PLAINEST, path, folder)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        PATHS[path].run(on_both(PLAINEST)[0], folder)
        with pytest.raises(AssertionError, match=message):
            check_device(PLAINEST, path, folder)


def read_each_token(real: Callable[..., Any], logits: torch.Tensor, *more: Any) -> Any:
    """Look at every token's logits by itself."""
    for row in logits:
        row[0].item()
    return real(logits, *more)


def a_mask_of_the_host(real: Callable[..., Any], queries: torch.Tensor, *more: Any) -> Any:
    """Add to a mask what was built on the host."""
    mask = real(queries, *more)
    return mask & torch.ones(mask.shape, dtype=torch.bool)


def a_number_more(real: Callable[..., Any], logits: torch.Tensor, *more: Any) -> Any:
    """Measure a little more on a device than on the CPU."""
    return real(logits * (1 + 1e-4 * logits.is_cuda), *more)


FAULTS: Mapping[str, tuple[Fault, str, str]] = {
    "mask-of-the-host": (
        replaced(masks, "visible", a_mask_of_the_host),
        "got a tensor of the host.* in test_device.py|got a tensor of the host.* in masks.py",
        "scores-one-pass",
    ),
    "ids-of-the-host": (
        replaced(
            forward,
            "upload",
            lambda _real, data, _device, dtype=None: torch.as_tensor(data, dtype=dtype),
        ),
        "got a tensor of the host.* in forward.py",
        "scores-on-caches",
    ),
    "item-per-token": (
        replaced(answer_nll, "token_nlls", read_each_token),
        "waits a pass, at most .* a number is read in answer_nll.py",
        "scores-one-pass",
    ),
    "upload-that-waits": (
        replaced(
            forward,
            "upload",
            lambda _real, data, device, dtype=None: torch.tensor(
                data.tolist() if isinstance(data, torch.Tensor) else data,
                dtype=dtype,
                device=device,
            ),
        ),
        "uploads that wait: .* in forward.py",
        "scores-one-pass",
    ),
    "other-numbers": (
        replaced(answer_nll, "token_nlls", a_number_more),
        "is not the CPU's: ",
        "scores-one-pass",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_twin_device(fault: str, tmp_path: Path) -> None:
    """Would catch a stand-in that mixes devices unseen, or a check blind to waits or numbers."""
    must_see_on_device(*FAULTS[fault], tmp_path)


def test_what_cuda_allows_and_what_it_refuses() -> None:
    """Would catch a stand-in stricter or laxer than CUDA about operands of the host."""
    with stand_in_device() as counts:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        there[torch.tensor([0, 1])]
        there.copy_(here)
        there + torch.tensor(2.0)
        for refused in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: there.index_select(0, torch.tensor([0])),
            lambda: there.numpy(),
            lambda: torch.nn.functional.scaled_dot_product_attention(
                there.view(1, 1, 3), here.view(1, 1, 3), here.view(1, 1, 3)
            ),
        ):
            with pytest.raises(DevicesMixed):
                refused()
        assert not counts.waits
        assert counts.uploads.total() == 2


WAITING: Mapping[str, Callable[[torch.Tensor], object]] = {
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 0).all()),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy": lambda x: torch.zeros(3).copy_(x),
}


@pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING.keys())
def test_what_waits(waiting: Callable[[torch.Tensor], object]) -> None:
    """Would catch a stand-in that overlooks one of the ways to wait for a device."""
    with stand_in_device() as counts:
        x = torch.arange(3.0, device="cuda")
        counts.reset()
        waiting(x)
        assert counts.waits.total() == 1, counts.waits
        assert "test_device.py" in next(iter(counts.waits)).line
