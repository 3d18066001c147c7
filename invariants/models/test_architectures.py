"""Every causal architecture is scored rightly or refused by name; the docs say which."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
import torch

from invariants.support import architectures
from invariants.support.architectures import MODEL_TYPES, REPRESENTATIVE, Outcome
from kvcore.engine import build


def check(model_type: str) -> None:
    """Demand what the table in the docs says of a type, and never a silent difference."""
    found = architectures.outcome(model_type)
    assert found.kind in architectures.ADMISSIBLE, found.detail
    said = architectures.read_table().get(model_type)
    assert said is None or found.kind == said.kind


@pytest.mark.parametrize("model_type", REPRESENTATIVE)
def test_a_dozen_architectures_are_right_or_refused(model_type: str) -> None:
    """Would catch a model that is scored wrongly without a word, or a table that is out of date.

    Routes: (1) one masked pass; (2) caches; (3) the stock model's own forward.
    """
    check(model_type)


@pytest.mark.nightly
@pytest.mark.parametrize("model_type", sorted(set(MODEL_TYPES) - set(REPRESENTATIVE)))
def test_every_architecture_is_right_or_refused(model_type: str) -> None:
    """The same of all others."""
    check(model_type)


def test_twin_a_route_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were caches to be built with keys that are turned too little."""
    right = build.query_input

    def broken(*arguments: object) -> object:
        step = right(*arguments)  # type: ignore[arg-type]
        return type(step)(step.ids, step.positions + 1, step.real, step.past, step.blocked)

    check("olmo2")
    monkeypatch.setattr("kvcore.gate.check", lambda _: None)
    monkeypatch.setattr(build, "query_input", broken)
    with pytest.raises(AssertionError):
        check("olmo2")


def test_the_docs_hide_no_difference() -> None:
    """Would catch a page that lacks types, or one that admits a fault."""
    listed = architectures.read_table()
    if listed:  # of the installed transformers
        assert set(listed) == set(MODEL_TYPES)
        assert {each.kind for each in listed.values()} <= set(architectures.ADMISSIBLE)


def test_a_type_that_hangs_is_given_up() -> None:
    """Would catch a table that is never finished."""

    def hang() -> None:
        with architectures.limited(1):
            while True:
                torch.zeros(1)

    with pytest.raises(TimeoutError):
        hang()


@pytest.mark.parametrize(
    ("act", "kind", "detail"),
    [
        (lambda: time.sleep(60), "not built", "took longer than 1 s"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crashed", "ended with status -9"),
    ],
    ids=["hangs", "dies"],
)
def test_a_type_that_hangs_or_dies_takes_no_other_with_it(
    act: Callable[[], None], kind: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a table that ends at the first type whose code does not return."""
    with monkeypatch.context() as patch:
        patch.setattr(architectures, "outcome", lambda _: act())
        lost = architectures.isolated_outcome("llama", seconds=1)
    assert (lost.kind, lost.detail.endswith(detail)) == (kind, True), lost
    monkeypatch.setattr(architectures, "outcome", lambda name: Outcome("agrees", name))
    assert architectures.isolated_outcome("llama") == Outcome("agrees", "llama")


def crash(*_: object) -> None:
    raise TypeError("no such thing")


def test_an_error_that_is_no_refusal_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback that the table takes for a refusal."""
    monkeypatch.setattr(architectures, "build", lambda *_: None)
    monkeypatch.setattr(architectures, "difference", crash)
    assert architectures.outcome("llama") == Outcome("crashed", "TypeError: no such thing")
    with pytest.raises(AssertionError, match="no such thing"):
        check("llama")
