"""The trained models end to end: the engine against the plain procedure, one sample at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from invariants.oracle import plain
from kvcore import loading
from kvcore.conditions.parse import condition
from kvcore.conditions.registry import QUERY
from kvcore.data.datasets import load_corpus
from kvcore.data.sample import Sample, choose_samples
from kvcore.engine import rope_probe
from kvcore.engine.prepared import prepare_one
from kvcore.measurements import answer_nll
from kvcore.models.registry import REGISTRY, installed

INSTALLED = [
    name
    for name, entry in REGISTRY.items()
    if entry.source.startswith("wheel:") and installed(name)
]
# float32 over up to 30 layers and 300 tokens: 1e-5 seen at most, ten times that allowed
TOLERANCE = 1e-4


def on_every_run(name: str) -> Any:
    """Return the model as a parameter: the default one always, the others nightly."""
    return name if name == "smollm2-135m" else pytest.param(name, marks=pytest.mark.nightly)


@pytest.fixture(scope="module", params=map(on_every_run, INSTALLED))
def lm(request: pytest.FixtureRequest) -> Any:
    return loading.load(request.param, device="cpu")


CONDITIONS = ("bare", "oracle", "random")


def chosen() -> tuple[Sample, ...]:
    return choose_samples(load_corpus("docstrings").samples, 2, seed=1)


@pytest.fixture(scope="module")
def scored(lm: Any) -> pd.DataFrame:
    """The engine's scores by both of its routes, each with unlike samples in one batch."""
    return pd.concat(
        [
            answer_nll.score(lm, chosen(), CONDITIONS, seed=1, route=route)
            for route in ("auto", "cache")
        ]
    )


def worst_difference(
    lm: Any,
    scored: pd.DataFrame,
    plainly: Callable[..., list[float]],
    conditions: Iterable[str] = CONDITIONS,
) -> float:
    """Largest difference in nats between the engine and a plain route, over a few samples."""
    worst = 0.0
    for sample, name in itertools.product(chosen(), conditions):
        one = prepare_one(lm, sample, condition(name), seed=1)
        prefix = one.prefixes[condition(name).prefixes()[0]]
        read = one.tokens
        wanted = plainly(
            lm.model,
            lm.bos_id,
            list(prefix),
            list(read.document),
            list(read.prompt),
            list(read.answer),
        )
        found = scored[(scored.sample_id == sample.id) & (scored.condition == name)].nll
        worst = max(worst, float((found - np.mean(wanted)).abs().max()))
    return worst


def test_the_default_model_is_installed() -> None:
    """Without it the tests below would judge nothing."""
    assert "smollm2-135m" in INSTALLED


@pytest.mark.parametrize("route", [plain.truncated_nlls, plain.one_pass_nlls, plain.shifted_nlls])
def test_engine_equals_the_plain_routes(
    lm: Any, scored: pd.DataFrame, route: Callable[..., list[float]]
) -> None:
    """Rotation, one masked pass and shifted positions give the number of both engine routes."""
    assert len(scored) == 2 * 2 * len(CONDITIONS)
    assert worst_difference(lm, scored, route) <= TOLERANCE


def test_primed_values_equal_the_plain_route(lm: Any) -> None:
    """A hybrid of two caches, lower half of the layers only, is that of a plain DynamicCache."""
    given = condition("values_early_layers(oracle,0.5)")
    sample = chosen()[0]
    one = prepare_one(lm, sample, given, seed=1)
    read = one.tokens
    wanted = plain.mixed_nlls(
        lm.model,
        lm.bos_id,
        one.prefixes[QUERY],
        read.document,
        read.prompt,
        read.answer,
        layers=range(lm.config.num_hidden_layers // 2),
        tokens=len(read.document),
        weight=1.0,
    )
    found = answer_nll.score(lm, [sample], [given, "bare"], seed=1).nll
    assert abs(found[0] - float(np.mean(wanted))) <= TOLERANCE
    assert abs(found[0] - found[1]) > TOLERANCE, "the values changed nothing"


def test_twin_a_key_left_unturned_is_seen(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotating nothing is far outside the tolerance on a trained model."""
    rope_probe.rope_plan(lm)
    monkeypatch.setattr("kvcore.cache.rope.rotate", lambda keys, *_: keys)
    broken = answer_nll.score(lm, chosen(), ["random"], seed=1, route="cache")
    assert worst_difference(lm, broken, plain.one_pass_nlls, ["random"]) > TOLERANCE
