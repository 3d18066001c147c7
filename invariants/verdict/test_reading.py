"""An interval has one outcome, by the table, and each prediction the verdict that follows from it.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from invariants.support.verdicts import PREDICTIONS, WITH_MARGIN, interval, name_of
from kvcore import verdict
from kvcore.verdict import (
    OUTCOMES,
    Outcome,
    Prediction,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    judging,
    negligible,
    reading,
)

INF = math.inf
quick = settings(max_examples=200, deadline=None)
EDGES = [-INF, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, INF]
ends = st.sampled_from(EDGES) | st.floats(-0.5, 0.5)
spans = st.tuples(ends, ends).map(sorted).filter(lambda pair: pair[0] < INF and pair[1] > -INF)


def verdict_on(low: float, high: float, prediction: Prediction, floor: float = 0.0) -> str:
    return verdict.judge(interval(low, high), prediction, floor).verdict


# --- the table -----------------------------------------------------------------------------------

S, R, OPEN = "supported", "refuted", "inconclusive"
# low, high, outcome; verdict of helps, does_not_help, negligible, differs; delta is 0.1 throughout
TABLE: list[tuple[float, float, Outcome, tuple[str, str, str, str]]] = [
    (-0.05, 0.05, "negligible", (R, S, S, R)),
    (-0.099, 0.099, "negligible", (R, S, S, R)),
    (0.0, 0.0, "negligible", (R, S, S, R)),
    (0.01, 0.05, "negligible", (R, S, S, R)),
    (-0.05, -0.01, "negligible", (R, S, S, R)),
    (0.1, 0.1, "beyond-margin", (S, R, R, S)),
    (0.1, 0.2, "beyond-margin", (S, R, R, S)),
    (0.2, INF, "beyond-margin", (S, R, R, S)),
    (0.01, 0.1, "direction-only", (S, OPEN, OPEN, S)),
    (0.099, 0.2, "direction-only", (S, OPEN, OPEN, S)),
    (0.01, INF, "direction-only", (S, OPEN, OPEN, S)),
    (-0.2, -0.01, "reversed", (R, S, OPEN, S)),
    (-0.1, -0.05, "reversed", (R, S, OPEN, S)),
    (-0.2, -0.099, "reversed", (R, S, OPEN, S)),
    (-0.2, -0.1, "reversed", (R, S, R, S)),
    (-0.1, -0.1, "reversed", (R, S, R, S)),
    (-INF, -0.2, "reversed", (R, S, R, S)),
    (-0.2, 0.0, "short-of-margin", (R, S, OPEN, OPEN)),
    (-0.1, 0.05, "short-of-margin", (R, S, OPEN, OPEN)),
    (-INF, 0.099, "short-of-margin", (R, S, OPEN, OPEN)),
    (-0.2, 0.1, "open", (OPEN, OPEN, OPEN, OPEN)),
    (0.0, 0.1, "open", (OPEN, OPEN, OPEN, OPEN)),
    (0.0, 0.2, "open", (OPEN, OPEN, OPEN, OPEN)),
    (-INF, INF, "open", (OPEN, OPEN, OPEN, OPEN)),
]
COLUMNS = (helps, does_not_help, negligible, differs)
# at_least(0.8): low, high, outcome, verdict
BOUNDED: list[tuple[float, float, Outcome, str]] = [
    (0.8, 0.9, "reached", S),
    (0.8, INF, "reached", S),
    (0.7, 0.8, "open", OPEN),
    (0.7, 0.79, "missed", R),
    (-INF, 0.79, "missed", R),
    (-INF, INF, "open", OPEN),
]


def check_table() -> None:
    for low, high, outcome, verdicts in TABLE:
        for make, expected in zip(COLUMNS, verdicts, strict=True):
            judged = verdict.judge(interval(low, high), make(0.1))
            assert (judged.outcome, judged.verdict) == (outcome, expected), f"{make} {low} {high}"
        mirrored = verdict.judge(interval(-high, -low), hurts(0.1))
        assert (mirrored.outcome, mirrored.verdict) == (outcome, verdicts[0]), f"{low} {high}"
    for low, high, outcome, expected in BOUNDED:
        judged = verdict.judge(interval(low, high), at_least(0.8))
        assert (judged.outcome, judged.verdict) == (outcome, expected), f"at least {low} {high}"
        mirrored = verdict.judge(interval(-high, -low), at_most(-0.8))
        assert (mirrored.outcome, mirrored.verdict) == (outcome, expected), f"at most {low} {high}"


def test_the_table_of_outcomes_and_verdicts() -> None:
    """A bound that is open taken for closed, a row out of order, or a side not mirrored."""
    check_table()


def old_rule(low: float, high: float, prediction: Prediction) -> Outcome:
    """The sign before the size: an interval inside (0, delta) counts as a direction."""
    right = reading.read(low, high, prediction)
    sign = low if prediction.direction > 0 else -high
    return "direction-only" if right == "negligible" and sign > 0 else right


def closed_edges(low: float, high: float, prediction: Prediction) -> Outcome:
    """Open ends taken for closed ones."""
    return reading.read(math.nextafter(low, INF), math.nextafter(high, -INF), prediction)


def open_edges(low: float, high: float, prediction: Prediction) -> Outcome:
    """Closed ends taken for open ones."""
    return reading.read(math.nextafter(low, -INF), math.nextafter(high, INF), prediction)


def not_mirrored(low: float, high: float, prediction: Prediction) -> Outcome:
    """`hurts` and `at_most` read from the wrong side."""
    return (
        reading.read(-high, -low, prediction)
        if prediction.direction < 0
        else reading.read(low, high, prediction)
    )


BROKEN = [old_rule, closed_edges, open_edges, not_mirrored]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda f: f.__name__.replace("_", "-"))
def test_twin_table_sees_a_broken_rule(
    broken: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of verdicts that a broken rule passes."""
    monkeypatch.setattr(judging, "read", broken)
    with pytest.raises(AssertionError):
        check_table()


def rows_of_the_docstring() -> dict[str, list[str]]:
    """The cells of the table in the module's docstring, by outcome; folded lines joined."""
    lines = (reading.__doc__ or "").splitlines()
    borders = [i for i, line in enumerate(lines) if line.startswith("====")]
    starts = [0]
    for width in map(len, lines[borders[0]].split()):
        starts.append(starts[-1] + width + 1)
    rows: dict[str, list[str]] = {}
    last = ""
    for line in lines[borders[1] + 1 : borders[2]]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)][:6]
        last = cells[0] or last
        before = rows.get(last, [""] * 5)
        rows[last] = [f"{old} {new}".strip() for old, new in zip(before, cells[1:], strict=True)]
    return rows


def test_the_docstring_shows_the_table_that_holds() -> None:
    """A table for people that is not the one by which claims are judged.

    1. the module's docstring; 2. the table of this file.
    """
    rows = rows_of_the_docstring()
    said = {"supported": S, "refuted": R, "open": OPEN, "refuted where U <= -delta": R}
    outcomes = {outcome for _, _, outcome, _ in TABLE}
    assert set(rows) == outcomes
    for low, high, outcome, verdicts in TABLE:
        cells = [said[cell] for cell in rows[outcome][1:]]
        if outcome == "reversed" and not high <= -0.1:
            cells[2] = OPEN
        assert tuple(cells) == verdicts, f"{outcome} [{low}, {high}]"


@pytest.mark.parametrize(
    ("prediction", "low", "high", "floor", "outcome", "expected"),
    [
        (helps(0.1), 0.03, 0.2, 0.02, "direction-only", S),
        (helps(0.1), 0.02, 0.2, 0.02, "open", OPEN),
        (helps(0.1), 0.01, 0.05, 0.02, "negligible", R),
        (helps(0.1), -0.01, 0.05, 0.1, "open", OPEN),
        (helps(0.1), -0.2, -0.1, 0.1, "short-of-margin", R),
        (helps(0.1), -0.3, -0.2, 0.1, "reversed", R),
        (helps(0.1), -0.3, 9.0, INF, "open", OPEN),
        (hurts(0.1), -0.05, -0.01, 0.02, "negligible", R),
        (hurts(0.1), -0.2, -0.03, 0.02, "direction-only", S),
        (hurts(0.1), 0.2, 0.3, 0.1, "reversed", R),
        (hurts(0.1), 0.0, 0.3, 0.1, "open", OPEN),
        (does_not_help(0.1), -0.05, 0.05, 0.04, "negligible", S),
        (does_not_help(0.1), -0.05, 0.05, 0.05, "open", OPEN),
        (does_not_help(0.1), -0.5, -0.2, 0.1, "reversed", S),
        (does_not_help(0.1), 0.2, 0.3, 0.11, "direction-only", OPEN),
        (does_not_help(0.1), 0.25, 0.3, 0.125, "beyond-margin", R),
        (negligible(0.1), -0.05, 0.05, 0.1, "open", OPEN),
        (negligible(0.1), 0.11, 0.2, 0.12, "open", OPEN),
        (negligible(0.1), 0.25, 0.3, 0.125, "beyond-margin", R),
        (negligible(0.1), -0.3, -0.25, 0.125, "reversed", R),
        (differs(0.1), -0.3, -0.2, 0.1, "reversed", S),
        (differs(0.1), 0.05, 0.2, 0.1, "open", OPEN),
        (at_least(0.8), 0.82, 0.9, 0.01, "reached", S),
        (at_least(0.8), 0.805, 0.9, 0.01, "open", OPEN),
        (at_least(0.8), 0.7, 0.795, 0.01, "open", OPEN),
        (at_least(0.8), 0.7, 0.78, 0.01, "missed", R),
        (at_most(0.8), 0.7, 0.795, 0.01, "open", OPEN),
        (at_most(0.8), 0.7, 0.78, 0.01, "reached", S),
        (at_most(0.8), 0.82, 0.9, 0.01, "missed", R),
    ],
    ids=name_of,
)
def test_a_floor_widens_the_interval(
    prediction: Prediction, low: float, high: float, floor: float, outcome: str, expected: str
) -> None:
    """A noise floor forgotten, taken on one side only, or taken off."""
    judged = verdict.judge(interval(low, high), prediction, floor)
    assert (judged.outcome, judged.verdict) == (outcome, expected)


# --- by sets -------------------------------------------------------------------------------------

Inside = Callable[[float], bool]


def every(inside: Inside, span: list[float]) -> bool:
    """Whether all points of an interval lie in a set: its ends, the edges and what is between."""
    low, high = span
    within = [low, *(edge for edge in EDGES if low < edge < high), high]
    between = [(a + b) / 2 for a, b in itertools.pairwise(within) if a + b == a + b]
    return all(map(inside, [*within, *between]))


def outcomes_by_sets(span: list[float], prediction: Prediction) -> set[Outcome]:
    """All outcomes that an interval has, each by the set in which it lies and those it avoids."""
    sign, delta = prediction.direction, prediction.delta

    def lies(inside: Inside) -> bool:
        return every(lambda x: inside(sign * x), span)

    if delta is None:
        bound = sign * prediction.bound
        reached, missed = lies(lambda x: x >= bound), lies(lambda x: x < bound)
        names = {"reached": reached, "missed": missed, "open": not (reached or missed)}
    else:
        small, far = lies(lambda x: abs(x) < delta), lies(lambda x: x >= delta)
        up, down, under = lies(lambda x: x > 0), lies(lambda x: x < 0), lies(lambda x: x < delta)
        names = {
            "negligible": small,
            "beyond-margin": far,
            "direction-only": up and not (small or far),
            "reversed": down and not small,
            "short-of-margin": under and not (small or up or down),
            "open": not (up or under),
        }
    return {name for name, holds in names.items() if holds}  # type: ignore[misc]


def verdict_by_sets(span: list[float], prediction: Prediction) -> str:
    """The verdict from what a claim says and denies, without any outcome."""
    sign, delta, bound = prediction.direction, prediction.margin, prediction.bound
    small = every(lambda x: abs(x) < delta, span)
    towards = every(lambda x: sign * x > 0, span)
    away = every(lambda x: sign * x < 0, span)
    beyond = every(lambda x: sign * x >= delta, span)
    short = every(lambda x: sign * x < delta, span)
    opposite = every(lambda x: sign * x <= -delta, span)
    supports, refutes = {
        "helps": (towards and not small, short),
        "hurts": (towards and not small, short),
        "does_not_help": (short, beyond),
        "negligible": (small, beyond or opposite),
        "differs": ((towards or away) and not small, small),
        "at_least": (every(lambda x: x >= bound, span), every(lambda x: x < bound, span)),
        "at_most": (every(lambda x: x <= bound, span), every(lambda x: x > bound, span)),
    }[prediction.name]
    assert not (supports and refutes)
    return S if supports else R if refutes else OPEN


def check_sets(span: list[float], prediction: Prediction) -> None:
    judged = verdict.judge(interval(span[0], span[1], value=0.0), prediction)
    assert outcomes_by_sets(span, prediction) == {judged.outcome}
    assert verdict_by_sets(span, prediction) == judged.verdict


def check_sets_between_edges() -> None:
    for prediction in PREDICTIONS:
        for low, high in itertools.combinations_with_replacement(EDGES[1:-1], 2):
            check_sets([low, high], prediction)


@quick
@given(span=spans, prediction=st.sampled_from(PREDICTIONS))
@example(span=[0.0, 0.1], prediction=helps(0.1))
@example(span=[-0.1, 0.1], prediction=negligible(0.1))
def test_every_interval_has_exactly_one_outcome(span: list[float], prediction: Prediction) -> None:
    """Two outcomes at once, none at all, or a verdict that its sets deny.

    1. the production code, first match wins; 2. the sets that all points of the interval lie in.
    """
    check_sets(span, prediction)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda f: f.__name__.replace("_", "-"))
def test_twin_sets_see_a_broken_rule(
    broken: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with sets that a broken rule passes."""
    monkeypatch.setattr(judging, "read", broken)
    with pytest.raises(AssertionError):
        check_sets_between_edges()


@quick
@given(span=spans)
def test_hurts_is_the_mirror_image_of_helps(span: list[float]) -> None:
    """A direction that is judged more strictly than the other."""
    low, high = span
    for one, two in ((helps(0.1), hurts(0.1)), (at_least(0.1), at_most(-0.1))):
        there = verdict.judge(interval(low, high, value=0.0), one)
        assert verdict.judge(interval(-high, -low, value=0.0), two) == there
    for make in (negligible, differs):
        judged = (verdict_on(a, b, make(0.1)) for a, b in ((low, high), (-high, -low)))
        assert len(set(judged)) == 1


def test_every_outcome_is_reached_and_named_once() -> None:
    """An outcome that no interval has, or that no name stands for."""
    reached = {outcome for _, _, outcome, *_ in [*TABLE, *BOUNDED]}
    assert reached == set(OUTCOMES)
    assert len(OUTCOMES) == len(set(OUTCOMES))


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
def test_nan_ends_settle_nothing(prediction: Prediction) -> None:
    """A verdict from no number, or from one end alone."""
    for known in (math.nan, -0.3, -0.05, 0.0, 0.05, 0.3):
        for low, high in ((math.nan, known), (known, math.nan)):
            assert verdict.read(low, high, prediction) == "open"
            judged = verdict.judge(interval(low, high, value=0.2), prediction)
            assert (judged.outcome, judged.verdict) == ("open", OPEN)


# --- order ---------------------------------------------------------------------------------------


def check_narrowing(prediction: Prediction, wide: list[float], floor: float) -> None:
    """A narrower interval, or a lower floor, leaves a refutation and unsettles no support."""
    low, high = wide
    third = (high - low) / 3
    before = verdict.judge(interval(low, high), prediction, floor)
    narrower = [
        verdict.judge(interval(low + third, high - third), prediction, floor),
        verdict.judge(interval(low, high), prediction, floor / 2),
    ]
    for after in narrower:
        if before.verdict == R or before.outcome in ("negligible", "beyond-margin", "reached"):
            assert after.verdict == before.verdict
        # A sign alone that turns out to be too small to matter is the one change of sides.
        elif before.verdict == S:
            assert after.verdict == S or after.outcome == "negligible"


@quick
@given(
    prediction=st.sampled_from(PREDICTIONS),
    wide=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)).map(sorted),
    floor=st.sampled_from([0.0, 0.02, 0.1, 0.2]),
)
def test_a_narrower_interval_or_lower_floor_never_unsettles(
    prediction: Prediction, wide: list[float], floor: float
) -> None:
    """A rule by which more data, or less noise, settles less."""
    check_narrowing(prediction, wide, floor)


def test_twin_narrowing_sees_narrow_intervals_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of widths that refusing narrow intervals passes."""
    right = reading.read
    monkeypatch.setattr(
        judging, "read", lambda low, high, p: right(low, high, p) if high - low > 0.15 else "open"
    )
    with pytest.raises(AssertionError):
        check_narrowing(helps(0.1), [0.1, 0.3], 0.0)


def check_margin(span: list[float], delta: float, wider: float) -> None:
    """More room for being too small to matter never takes a verdict of that away."""
    for make, stays in (
        (helps, R),
        (hurts, R),
        (does_not_help, S),
        (negligible, S),
        (differs, R),
    ):
        if verdict_on(span[0], span[1], make(delta)) == stays:
            assert verdict_on(span[0], span[1], make(delta + wider)) == stays, make
    if verdict_on(span[0], span[1], at_least(delta)) == S:
        assert verdict_on(span[0], span[1], at_least(delta - wider)) == S
    if verdict_on(span[0], span[1], at_most(delta)) == S:
        assert verdict_on(span[0], span[1], at_most(delta + wider)) == S


@quick
@given(
    span=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).map(sorted),
    delta=st.floats(0.01, 2),
    wider=st.floats(0, 2),
)
def test_a_wider_margin_never_loses_a_verdict(
    span: list[float], delta: float, wider: float
) -> None:
    """A rule by which more room for a claim supports it less."""
    check_margin(span, delta, wider)


def test_twin_margin_sees_wide_margins_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of margins that forgetting wide ones passes."""
    right = reading.read
    monkeypatch.setattr(
        judging, "read", lambda low, high, p: "open" if p.margin > 1 else right(low, high, p)
    )
    with pytest.raises(AssertionError):
        check_margin([0.1, 0.2], 0.5, 1.0)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
def test_every_true_value_settles_in_the_end(prediction: Prediction) -> None:
    """A claim that no number of samples settles, off its margins, or settles against its truth."""
    for x in (-0.3, -0.15, -0.05, 0.05, 0.15, 0.3):
        judged = verdict_on(x - 1e-9, x + 1e-9, prediction)
        assert judged in (S, R)
        if judged == S:
            assert any(region.low < x < region.high for region in prediction.holds_in)


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "needs"),
    [
        (helps(), "> 0, and not only below 0.09"),
        (hurts(), "< 0, and not only above -0.09"),
        (does_not_help(0.09), "< 0.09"),
        (negligible(0.09), "between -0.09 and 0.09"),
        (differs(0.09), "< 0 or > 0, and not only within 0.09 of it"),
        (at_least(0.8), "≥ 0.8"),
        (at_most(0.8), "≤ 0.8"),
    ],
    ids=name_of,
)
def test_predictions_say_what_they_need(prediction: Prediction, needs: str) -> None:
    """A claim that says it needs something else than it is judged by."""
    assert prediction.needs == needs


@pytest.mark.parametrize("make", WITH_MARGIN, ids=lambda make: make.__name__)
def test_predictions_know_their_effect_delta_and_unit(make: Callable[..., Prediction]) -> None:
    """A pre-registered effect, delta or unit that is not the one passed."""
    defaults = {helps: 0.2, hurts: -0.2, does_not_help: 0.0, negligible: 0.0, differs: 0.2}
    plain, other = make(0.2), make(0.2, 0.07, "r")
    assert (plain.name, plain.effect, plain.unit) == (make.__name__, defaults[make], "d")
    assert (other.delta, other.effect, other.unit, other.bound) == (0.2, 0.07, "r", 0.0)
    assert (plain.direction, plain.margin) == (-1 if make is hurts else 1, 0.2)
    for bounded, sign in ((at_least(0.3, 0.4, "r"), 1), (at_most(0.3, 0.4, "r"), -1)):
        assert (bounded.delta, bounded.bound, bounded.effect, bounded.unit) == (None, 0.3, 0.4, "r")
        assert (bounded.direction, bounded.margin) == (sign, 0.0)


WORDS: list[tuple[Prediction, bool, dict[Outcome, str]]] = [
    (
        helps(0.09),
        True,
        {
            "negligible": "too small to matter",
            "beyond-margin": "helps, and by at least 0.09",
            "direction-only": "helps, how much is open",
            "reversed": "the other way round: hurts",
            "short-of-margin": "does not help by 0.09 or more; whether it hurts is open",
            "open": "cannot tell yet",
        },
    ),
    (
        hurts(0.09),
        True,
        {
            "negligible": "too small to matter",
            "beyond-margin": "hurts, and by at least 0.09",
            "direction-only": "hurts, how much is open",
            "reversed": "the other way round: helps",
            "short-of-margin": "does not hurt by 0.09 or more; whether it helps is open",
            "open": "cannot tell yet",
        },
    ),
    (
        differs(0.09),
        False,
        {
            "negligible": "too small to matter",
            "beyond-margin": "is above 0, and by at least 0.09",
            "direction-only": "is above 0, how much is open",
            "reversed": "is below 0",
            "open": "cannot tell yet",
        },
    ),
    (does_not_help(0.09), True, {"reversed": "hurts"}),
    (hurts(0.09), False, {"direction-only": "is below 0, how much is open"}),
    (at_least(0.8), False, {"reached": "at least 0.8", "missed": "below 0.8"}),
    (at_most(0.8), True, {"reached": "at most 0.8", "missed": "above 0.8"}),
]


@pytest.mark.parametrize(("prediction", "benefit", "words"), WORDS, ids=name_of)
def test_outcomes_in_plain_words(
    prediction: Prediction, benefit: bool, words: dict[Outcome, str]
) -> None:
    """An outcome worded as another, on the wrong side, or a gain where none is measured."""
    for outcome, expected in words.items():
        assert verdict.outcome_words(outcome, prediction, benefit=benefit) == expected


@pytest.mark.parametrize("benefit", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
def test_no_two_outcomes_share_their_words(prediction: Prediction, benefit: bool) -> None:
    """An outcome that a reader cannot tell from another."""
    said = [verdict.outcome_words(o, prediction, benefit=benefit) for o in OUTCOMES]
    assert len(set(said)) == len(OUTCOMES)
    assert all(said)
