"""Latencies are those found by hand, and what never happens is censored, not dropped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from invariants.support.comparing import Fault, must_see, replaced
from kvcore.analysis import latency
from kvcore.analysis.latency import Latency
from kvcore.errors import KvError

NUMBERS = st.lists(st.floats(0, 9, width=16), min_size=1, max_size=30)


def first_of(tokens: Sequence[int], followed: int) -> Latency:
    """Return the first token, counted from 1, or how many went by without one."""
    return Latency(tokens[0] + 1, True) if tokens else Latency(followed, False)


def check_detection(values: list[float], limit: float) -> None:
    expected = first_of([i for i, x in enumerate(values) if x > limit], len(values))
    assert latency.detection(values, limit) == expected


@given(NUMBERS, st.floats(0, 9))
def test_detection(values: list[float], limit: float) -> None:
    """A detection counted from 0, or where the threshold is reached but not exceeded."""
    check_detection(values, limit)


def check_adaptation(oracle: list[float], ignore: list[float], run: int) -> None:
    starts = [
        i
        for i in range(len(oracle))
        if i + run <= len(oracle)
        and all(a < b for a, b in zip(oracle[i : i + run], ignore[i : i + run], strict=True))
    ]
    possible = max(len(oracle) - run + 1, 0)
    assert latency.adaptation(oracle, ignore, run) == first_of(starts, possible)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20),
    st.integers(1, 6),
)
def test_adaptation(pairs: list[tuple[int, int]], run: int) -> None:
    """A run cut short, or one that begins at another token."""
    oracle, ignore = (list(map(float, x)) for x in zip(*pairs, strict=True))
    check_adaptation(oracle, ignore, run)


@pytest.mark.parametrize(
    ("nearer", "expected"),
    [
        ("11111", Latency(1, True)),
        ("0111110", Latency(2, True)),
        ("1111", Latency(0, False)),
        ("1111011111", Latency(6, True)),
        ("00000", Latency(1, False)),
        ("0000000", Latency(3, False)),
    ],
)
def test_adaptation_by_hand(nearer: str, expected: Latency) -> None:
    """Four tokens in a row taken for five, or the last of them counted."""
    oracle = [0.0 if x == "1" else 1.0 for x in nearer]
    assert latency.adaptation(oracle, [0.5] * len(nearer)) == expected


def test_equally_near_is_not_adapted() -> None:
    """A tie taken for nearer: on an identical pair both references are one."""
    assert latency.adaptation([0.2] * 9, [0.2] * 9) == Latency(5, False)


def check_ratio() -> None:
    """Two definitions: every token's own ratio, whatever the two distributions are like."""
    assert latency.adaptation_by_ratio([-1, 1, 1, 1, 1, 1, -1]) == Latency(2, True)
    assert latency.adaptation_by_ratio([0.0] * 9) == Latency(5, False)
    assert latency.adaptation_by_ratio([1, 1, 1, 1, -1, 1, 1, 1, 1]) == Latency(5, False)
    assert latency.adaptation_by_ratio([0.1, 0.1, -3, 0.1], run=2) == Latency(1, True)
    assert latency.adaptation_by_ratio([1, 1]) == Latency(0, False)


def test_adaptation_by_ratio() -> None:
    """Catches a ratio of exactly 1 that counts, a run cut short, or censoring at a wrong token."""
    check_ratio()


def check_correction() -> None:
    classes = ["mixed", "original", "injected", "neither", "injected"]
    assert latency.correction([1, 1, 1, 1, 1], classes) == Latency(3, True)
    assert latency.correction([1, 1, -1, 1, 1], classes) == Latency(5, True)
    assert latency.correction([1, 1, -1, 1, 0], classes) == Latency(5, False)
    assert latency.correction([], []) == Latency(0, False)


def test_correction() -> None:
    """A token counted that is not the new context's choice alone."""
    check_correction()


def check_stabilisation() -> None:
    still, wild = [0.5] * 6, [0.0, 5.0, 0.0, 5.0]
    assert latency.stabilisation(still) == Latency(1, True)
    assert latency.stabilisation([*wild, *still]) == Latency(5, True)
    assert latency.stabilisation([*still, *wild]) == Latency(6, False)
    assert latency.stabilisation(still[:4]) == Latency(0, False)


def test_stabilisation() -> None:
    """A window that ends at the token, or a calm that does not last."""
    check_stabilisation()


def check_gaps() -> None:
    x = np.arange(1.0, 31.0)
    assert latency.gaps(x) == (3.0, 13.0, 25.5)
    assert latency.gaps(x[:6])[:2] == (3.0, 6.0)
    assert math.isnan(latency.gaps(x[:6])[2])


def test_gaps() -> None:
    """Spans that begin at 0, or a number where no token lies."""
    check_gaps()


def check_threshold() -> None:
    """The 95th percentile is of maxima over sequences, not of tokens."""
    controls = [[0.0] * 60 + [float(i)] for i in range(101)]
    assert latency.threshold(controls) == 95.0
    exceeding = sum(latency.detection(c, latency.threshold(controls)).happened for c in controls)
    assert exceeding == 5


def test_threshold() -> None:
    """A percentile of tokens in place of sequences."""
    check_threshold()


def check_cross_fitted() -> None:
    """What a sequence itself did has no part in the threshold that judges it."""
    draw = np.random.default_rng(0)
    ids, controls = [f"pair-{i}" for i in range(40)], list(draw.exponential(size=(40, 12)))
    limits = latency.cross_fitted(ids, controls)
    assert len(set(limits.tolist())) == latency.FOLDS
    moved = 0
    for i in range(len(ids)):
        changed = [*controls[:i], controls[i] + 1000, *controls[i + 1 :]]
        again = latency.cross_fitted(ids, changed)
        assert again[i] == limits[i], f"{ids[i]} is judged by itself"
        moved += int((again != limits).sum())
    assert moved > len(ids), "and yet it counts for the others"
    order = draw.permutation(40)
    shuffled = latency.cross_fitted([ids[i] for i in order], [controls[i] for i in order])
    assert (shuffled == limits[order]).all()


def test_cross_fitted() -> None:
    """A sequence judged by a threshold that it is itself part of."""
    check_cross_fitted()


def test_cross_fitted_detects_a_twentieth_of_its_controls() -> None:
    """Thresholds by which controls "detect" more, or less, often than in 5 % of sequences."""
    draw = np.random.default_rng(1)
    n = 2000
    ids, controls = [f"pair-{i}" for i in range(n)], list(draw.exponential(size=(n, 8)))
    limits = latency.cross_fitted(ids, controls)
    share = sum(latency.detection(c, t).happened for c, t in zip(controls, limits, strict=True)) / n
    spread = math.sqrt(0.05 * 0.95 / n + 0.05 * 0.95 / (n * 0.8))  # of the share, and of thresholds
    assert abs(share - 0.05) <= 3.5 * spread


def check_survival() -> None:
    """Kaplan-Meier by its product: of those still waiting, how many got there."""
    draw = np.random.default_rng(2)
    for n in (1, 7, 60):
        data = [
            Latency(int(t), bool(h))
            for t, h in zip(draw.integers(1, 12, n), draw.random(n) < 0.7, strict=True)
        ]
        share, expected = 1.0, {}
        for t in range(1, 13):
            waiting = sum(x.tokens >= t for x in data)
            came = sum(x.tokens == t and x.happened for x in data)
            share *= 1 - came / waiting if waiting else 1
            expected[t] = share
        made = latency.survival(data)
        assert np.allclose(made.share, [expected[int(t)] for t in made.tokens], atol=1e-12)
        half = next((t for t, s in expected.items() if s <= 0.5 + 1e-12), math.inf)
        assert made.median == half


def test_survival() -> None:
    """Censored sequences dropped or counted as arrived.

    1. SciPy's Kaplan-Meier estimate; 2. its product, written out.
    """
    check_survival()


def test_survival_keeps_the_censored() -> None:
    """Censored sequences dropped: the median would be 2 instead of 4."""
    data = [Latency(t, True) for t in (1, 2, 4)] + [Latency(9, False)] * 2
    assert latency.survival(data).median == 4
    assert latency.survival([Latency(9, False)] * 3).median == math.inf


def check_half() -> None:
    """Where just half get there, the median is the last of them, however shares are rounded."""
    for half in range(1, 101):
        data = [Latency(t, True) for t in range(1, half + 1)] + [Latency(999, False)] * half
        assert latency.survival(data).median == half
        assert latency.survival([*data, Latency(999, False)]).median == math.inf


def test_half() -> None:
    """A half that rounding makes more than a half."""
    check_half()


def check_share() -> None:
    """Kaplan-Meier's share by a token, and its jackknife, one cluster after another left out."""
    draw = np.random.default_rng(4)
    data = [
        Latency(int(t), bool(h))
        for t, h in zip(draw.integers(1, 12, 60), draw.random(60) < 0.7, strict=True)
    ]
    labels = np.repeat(np.arange(20), 3)

    def by_hand(some: Sequence[Latency]) -> float:
        curve = latency.survival(some)
        steps = np.flatnonzero(curve.tokens <= 8)
        return 1 - float(curve.share[steps[-1]])

    made = latency.share_by(data, 8, labels)
    assert made.value == pytest.approx(by_hand(data))
    rest = [
        by_hand([x for x, label in zip(data, labels, strict=True) if label != out])
        for out in range(20)
    ]
    error = math.sqrt(19 / 20 * sum((x - made.value) ** 2 for x in rest))
    half = float(sps.t.ppf(0.975, 19)) * error
    assert (made.ci_low, made.ci_high) == pytest.approx((made.value - half, made.value + half))
    assert (made.n, made.clusters, made.unit) == (60, 20, "proportion")


def test_share() -> None:
    """Censored sequences that count as failures, or as arrived.

    1. Counts by cluster; 2. SciPy's Kaplan-Meier of the sequences, those of a cluster left out.
    """
    check_share()


def check_share_of_followed() -> None:
    data = [Latency(t, True) for t in range(1, 13)] + [Latency(9, False)] * 8
    made = latency.share_by(data, 9)
    exact = sps.binomtest(9, 20).proportion_ci(method="exact")
    assert (made.value, made.ci_low, made.ci_high) == (9 / 20, exact.low, exact.high)
    none = latency.share_by([Latency(20, False)] * 9 + [Latency(3, False)] * 5, 12)
    assert (none.value, none.ci_high) == (0, sps.binomtest(0, 9).proportion_ci(method="exact").high)
    lost = latency.share_by([Latency(2, True), Latency(3, False)], 5)
    assert (math.isnan(lost.value), lost.ci_low, lost.ci_high) == (True, 0.0, 1.0)


def test_share_of_followed() -> None:
    """Another number than the plain share where all were followed, or certainty from silence."""
    check_share_of_followed()


def uncensored(real: Callable[..., object], latencies: Sequence[Latency], *rest: object) -> object:
    return real([x for x in latencies if x.happened] or latencies, *rest)


def failing(
    real: Callable[..., object], some: Sequence[Latency], tokens: int, *how: object
) -> object:
    return real([x if x.happened else Latency(999, False) for x in some], tokens, *how)


def in_sample(
    _real: object, ids: Sequence[str], controls: Sequence[Sequence[float]], *_: object
) -> object:
    return np.array(
        [
            latency.threshold(
                [c for c, j in zip(controls, ids, strict=True) if hash(j) % 5 == hash(i) % 5]
            )
            for i in ids
        ]
    )


TWINS: dict[str, tuple[Fault, Callable[..., None], tuple[object, ...]]] = {
    "detection-one-early": (
        replaced(latency, "first_latency", lambda real, tokens, n: real(tokens - 1, n)),
        check_detection,
        ([0.0, 0.0, 3.0], 1.0),
    ),
    "equal-is-nearer": (
        replaced(latency, "adaptation", lambda real, o, i, run: real(np.array(o) - 1, i, run)),
        check_adaptation,
        ([1.0] * 6, [1.0] * 6, 5),
    ),
    "a-ratio-of-1-counts": (
        replaced(
            latency, "adaptation_by_ratio", lambda real, x, **k: real(np.array(x) + 1e-9, **k)
        ),
        check_ratio,
        (),
    ),
    "ratio-of-the-mean": (
        replaced(
            latency,
            "adaptation_by_ratio",
            lambda real, x, **k: real(np.cumsum(np.array(x, dtype=float)), **k),
        ),
        check_ratio,
        (),
    ),
    "any-class-corrects": (
        replaced(latency, "correction", lambda real, x, names: real(x, ["injected"] * len(names))),
        check_correction,
        (),
    ),
    "window-ends-at-the-token": (
        replaced(latency, "stabilisation", lambda real, x: real([*x[:1], *x[:-1]])),
        check_stabilisation,
        (),
    ),
    "windows-from-0": (
        lambda patch: patch.setattr(latency, "SPANS", ((0, 4), (5, 19), (20, math.inf))),
        check_gaps,
        (),
    ),
    "percentile-of-tokens": (
        replaced(
            latency,
            "threshold",
            lambda _real, controls: float(np.quantile(list(itertools.chain(*controls)), 0.95)),
        ),
        check_threshold,
        (),
    ),
    "judged-by-itself": (replaced(latency, "cross_fitted", in_sample), check_cross_fitted, ()),
    "half-is-rounded": (lambda patch: patch.setattr(latency, "ROUNDING", 0.0), check_half, ()),
    "censored-dropped": (replaced(latency, "survival", uncensored), check_survival, ()),
    "censored-fail": (replaced(latency, "share_by", failing), check_share, ()),
    "share-one-early": (
        replaced(latency, "share_by", lambda real, x, t, *how: real(x, t - 1, *how)),
        check_share_of_followed,
        (),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_twin(name: str) -> None:
    """Checks of latencies that each of these faults passes."""
    fault, check, arguments = TWINS[name]
    must_see(fault, check, *arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latency.threshold([]), "got no control sequence"),
        (lambda: latency.cross_fitted(["a"], [[1.0]]), "two folds or more; got 1 in one"),
        (lambda: latency.survival([]), "got no latencies"),
        (lambda: latency.share_by([Latency(1, True)], 0), "tokens must be 1 or more; got tokens=0"),
        (
            lambda: latency.survival([Latency(1, True)], 95),
            r"confidence must be in \(0, 1\); got 95",
        ),
        (lambda: latency.adaptation_by_ratio([1.0], -1), "1 or more tokens; got run=-1"),
        (lambda: latency.adaptation([1.0], [1.0], 0), "run must be 1 or more tokens; got run=0"),
        (lambda: latency.adaptation([1.0], [1.0, 2.0]), "got 1 and 2 divergences"),
        (lambda: latency.detection([math.nan], 1), "none of them NaN"),
    ],
)
def test_one_clear_line(call: Callable[[], object], message: str) -> None:
    """Bad input that is computed with, or an error that does not say what was passed."""
    with pytest.raises(KvError, match=message):
        call()
