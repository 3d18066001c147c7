"""Claims, cells and judgements say what they are in one line, and survive JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariants.support.intervals import strict_json
from invariants.support.verdicts import PREDICTIONS, interval
from kvcore import verdict
from kvcore.analysis import estimate
from kvcore.analysis.estimate import NON_FINITE, Beside, from_plain
from kvcore.analysis.jackknife import Scale
from kvcore.errors import KvError
from kvcore.verdict import (
    Cell,
    Claim,
    Judgement,
    Published,
    Region,
    Verdict,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    negligible,
)

INF = math.inf
quick = settings(max_examples=60, deadline=None)


def claim(**changes: object) -> Claim:
    plain = Claim(
        "random-prefix-lowers-nll",
        1,
        "A random prefix helps.",
        "notebook",
        "priming",
        helps(0.09),
        300,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: claim(id="Random prefix"),
            "claim id must be a slug .a-z, 0-9, '.', '-'.; got 'Random prefix'",
        ),
        (lambda: claim(id=""), "claim id must be a slug .*; got ''"),
        (lambda: claim(id="a\n"), r"claim id must be a slug .*; got 'a\\n'"),
        (lambda: claim(family="ms_marco"), "claim family must be a slug .*; got 'ms_marco'"),
        (lambda: helps(0.0), "delta must be a number > 0; got delta=0.0"),
        (lambda: helps(-1.0, effect=1.0), "delta=-1.0"),
        (lambda: hurts(math.nan), "delta=nan"),
        (lambda: negligible(INF), "delta=inf"),
        (lambda: does_not_help(-0.1), "delta=-0.1"),
        (lambda: Region(1.0, 1.0), "low must be below high; got low=1.0 and high=1.0"),
        (lambda: at_least(math.nan), "x must be a finite number; got x=nan"),
        (lambda: at_most(INF), "x must be a finite number; got x=inf"),
        (lambda: differs(0.0), "delta=0.0"),
        (
            lambda: verdict.judge(interval(0, 1), helps(), -0.1),
            "floor must be a number >= 0; got floor=-0.1",
        ),
        (lambda: verdict.judge(interval(0, 1), helps(), math.nan), "floor=nan"),
        (lambda: verdict.judge(interval(0, 1, unit="r"), helps()), "pass unit='r'"),
        (
            lambda: verdict.plan(interval(0, 1), helps(), 1.0),
            r"power must be in \(0, 1\); got power=1.0",
        ),
        (lambda: verdict.familywise(95, 3), r"confidence must be in \(0, 1\); got 95"),
        (lambda: verdict.familywise(0.95, 0), "m must be 1 or more intervals; got m=0"),
        (lambda: judgement(verdict="maybe"), "verdict must be one of .*; got 'maybe'"),
        (lambda: judgement(reading="maybe"), "reading must be one of .*; got 'maybe'"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], message: str) -> None:
    """Bad input that is computed with, or an error that does not say what was passed."""
    with pytest.raises(KvError, match=message):
        call()


@quick
@given(text=st.text())
def test_any_name_has_a_slug(text: str) -> None:
    """A name whose slug cannot stand in a test id."""
    assert verdict.check_slug("name", verdict.slugify(text)) == verdict.slugify(text)


def test_cells_have_slugs_that_can_stand_in_a_test_id() -> None:
    """Two cells of one test id, or an id that pytest cannot select."""
    default = Cell("smollm2-135m", "docstrings", "nll", "float32")
    assert default.slug == "smollm2-135m-docstrings-nll"
    other = Cell("google/gemma-3-4b-it", "ms_marco", "nll_tail", "bfloat16")
    assert other.slug == "google-gemma-3-4b-it-ms-marco-nll-tail"
    assert str(other) == "google/gemma-3-4b-it \u00d7 ms_marco (nll_tail)"


# --- judgements --------------------------------------------------------------------------------


def judgement(**changes: object) -> Judgement:
    plain = Judgement(
        claim=claim(),
        cell=Cell("gemma3-270m", "docstrings", "nll", "float32"),
        estimate=interval(-0.041, -0.019, n=400, value=-0.03),
        verdict="refuted",
        reading="reversed",
        why_open="",
        benefit=True,
        p=0.001,
        verdict_beside=None,
        floor=0.0,
        floor_nats=None,
        required_n=None,
        planning="no n is known to settle it",
        published=None,
        consistent=None,
        conditions=("bare", "random"),
        seed=0,
        store="store",
        rows_hash="ab",
        model_revision="r",
        ledger="",
        outcome="failed",
        details={},
        plot={"kind": "none"},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_judgement_is_one_sentence() -> None:
    """A sentence that leaves out the outcome, the interval, the n or what the claim needs."""
    start = "refuted: random-prefix-lowers-nll on gemma3-270m \u00d7 docstrings (nll): "
    outcome = "the other way round: hurts; "
    need = "; the claim needs > 0, and not only below 0.09"
    assert judgement().sentence() == (
        f"{start}{outcome}d -0.030 [-0.041, -0.019] (95 %, n = 400){need}"
    )
    nats = interval(-4e-5, 0.012, unit="nats/token", n=40, clusters=12, confidence=0.995)
    said = judgement(estimate=nats, reading="negligible", floor=0.001).sentence()
    assert said == (
        f"{start}too small to matter; "
        f"benefit 0.006 nats/token [-4.0e-05, 0.012] (99.5 %, n = 40 in 12 clusters){need}"
    )
    plain = judgement(benefit=False)
    assert plain.words == "the other way round: is below 0"
    assert "is below 0; d -0.030" in plain.sentence()


def test_a_judgement_that_hangs_on_the_method_says_so() -> None:
    """Two methods that disagree, and a report that shows the verdict of one alone."""
    beside = interval(
        -0.041, -0.019, n=400, value=-0.03, beside=Beside(-0.05, 0.1, "BCa bootstrap, seed 0")
    )
    apart = judgement(estimate=beside, verdict_beside="inconclusive")
    assert apart.hangs_on_method
    assert apart.sentence().endswith("; by the bootstrap interval it would be inconclusive")
    for same in (None, "refuted"):
        agreed = judgement(estimate=beside, verdict_beside=same)
        assert not agreed.hangs_on_method
        assert "would be" not in agreed.sentence()


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (
            {"planning": "about 1,234 samples would settle it"},
            "about 1,234 samples would settle it",
        ),
        ({}, "no n is known to settle it"),
        ({"why_open": "no verdict below 20 clusters; there are 4"}, "clusters; there are 4"),
    ],
    ids=["some-n", "no-n", "few-units"],
)
def test_an_inconclusive_judgement_says_what_it_would_take(
    changes: dict[str, object], end: str
) -> None:
    """An inconclusive claim that does not say what it would take, or a settled one that does."""
    undecided = judgement(verdict="inconclusive", reading="open", **changes)
    assert undecided.sentence().endswith(end)
    assert "cannot tell yet" in undecided.sentence()
    assert not judgement(**changes).sentence().endswith(end)


any_float = st.floats(allow_nan=True, allow_infinity=True)
words = st.text(max_size=8).filter(lambda t: t not in NON_FINITE)
plots = st.recursive(
    any_float | st.integers() | words | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    low, high = sorted(draw(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))))
    values = st.builds(
        Published, any_float, st.none() | st.integers(1), words, st.booleans(), words
    )
    return judgement(
        claim=claim(statement=draw(words), prediction=draw(st.sampled_from(PREDICTIONS))),
        estimate=interval(
            low,
            high,
            value=draw(any_float),
            se=draw(st.none() | any_float),
            scale=draw(st.sampled_from(get_args(Scale))),
            informative=draw(st.none() | st.integers(0)),
            effective=draw(st.none() | any_float),
            beside=draw(st.none() | st.builds(Beside, any_float, any_float, words)),
        ),
        verdict=draw(st.sampled_from(get_args(Verdict))),
        reading=draw(st.sampled_from(verdict.OUTCOMES)),
        why_open=draw(words),
        benefit=draw(st.booleans()),
        p=draw(st.floats(0, 1) | st.just(math.nan)),
        verdict_beside=draw(st.none() | st.sampled_from(get_args(Verdict))),
        floor=draw(st.floats(min_value=0)),
        floor_nats=draw(st.none() | any_float),
        required_n=draw(st.none() | st.integers(1)),
        planning=draw(words),
        published=draw(st.none() | values),
        consistent=draw(st.none() | st.booleans()),
        conditions=tuple(draw(st.lists(words, max_size=3))),
        ledger=draw(words),
        details=draw(st.dictionaries(words, any_float | words, max_size=3)),
        plot=draw(st.dictionaries(words, plots, max_size=3)),
    )


def check_round_trip(written: Judgement) -> None:
    back = Judgement.from_dict(json.loads(strict_json(written.to_dict())))
    assert repr(back) == repr(written)
    assert back.sentence() == written.sentence()


@quick
@given(written=judgements())
def test_a_judgement_survives_json(written: Judgement) -> None:
    """A field lost, or NaN and the infinities turned into text."""
    check_round_trip(written)


def test_numpy_numbers_become_plain_ones() -> None:
    """NumPy scalars that strict JSON, or a parallel run, cannot carry."""
    plot = {"kind": "paired", "differences": np.array([1.0, np.nan]), "n": np.int64(3)}
    plain = judgement(plot=plot, details={"t": np.float64(-INF)}).to_dict()
    assert plain["plot"] == {"kind": "paired", "differences": [1.0, "NaN"], "n": 3}
    assert plain["details"] == {"t": "-Infinity"}
    assert type(plain["plot"]["n"]) is int


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("to_plain", asdict),
        ("from_plain", lambda value: value if isinstance(value, dict) else from_plain(value)),
    ],
)
def test_twin_round_trip_sees_infinities_left_alone(
    name: str, broken: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round trip that infinities pass, which strict JSON lacks."""
    monkeypatch.setattr(estimate, name, broken)
    with pytest.raises(AssertionError):
        check_round_trip(judgement(details={"t": INF}))
