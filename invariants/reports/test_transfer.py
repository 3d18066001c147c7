"""The pages written from a run: what transfers in sentences, every verdict in tables."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from invariants.support import invented
from invariants.support.comparing import must_see, replaced
from kvcore.analysis import Estimate, over_models
from kvcore.verdict import Cell, Judgement, Published, Verdict, negligible
from kvcore.verdict.reading import Outcome
from reports.markdown import outcomes, places, priming, sinks, spelling, transfer, verdicts

ANY = invented.judgements()[0]
VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "inconclusive")


def judged() -> list[Judgement]:
    """Return every pair of verdicts on two models, and a claim that only one was asked."""
    everywhere = [
        _judgement(f"claim-{a}-{b}", model, metric, verdict)
        for a, b in product(VERDICTS, VERDICTS)
        for model, verdict in (("m2", a), ("m1", b))
        for metric in ("nll", "nll_tail")
    ]
    return [*everywhere, _judgement("claim-lone", "m2", "nll", "refuted")]


def _judgement(claim: str, model: str, metric: str, verdict: Verdict) -> Judgement:
    return dataclasses.replace(
        ANY,
        claim=dataclasses.replace(ANY.claim, id=claim, family="topic"),
        cell=Cell(model, "data", metric, "float32"),
        published=None,
        verdict=verdict if metric == "nll" else "inconclusive",
        primary=metric == "nll",
    )


def check_counts() -> None:
    text = transfer.transfer(judged(), ())
    assert "- **m2**: 3 supported, 4 refuted, 3 open (n = 240 to 240)." in text
    assert "- **m1**: 3 supported, 3 refuted, 3 open (n = 240 to 240)." in text
    assert "9 claims were judged on two models or more." in text
    assert "1 claim is supported wherever it was judged." in text
    assert "1 claim is refuted wherever it was judged" in text
    assert "1 claim of other models was not judged here" in text


def test_counts() -> None:
    """Catches a claim that is missing, counted twice or under another verdict."""
    check_counts()


def test_twin_counts() -> None:
    """The last metric of a claim in place of the primary one is seen."""

    def reversed_order(real: Any, some: list[Judgement]) -> Any:
        return real([dataclasses.replace(j, primary=False) for j in some[::-1]])

    last = replaced(transfer, "by_place", reversed_order)
    must_see(last, check_counts)


def check_tables() -> None:
    text = verdicts.verdicts(judged())
    assert text.count("(n = ") == len(judged())
    assert "| m2 | data |" in text
    counts = next(x for x in text.splitlines() if x.startswith("| m2 "))
    assert counts.endswith("| 3 | 4 | 12 |")


def test_tables() -> None:
    """Catches an estimate that is missing and a verdict that is not counted."""
    check_tables()


def test_twin_tables() -> None:
    """A second metric that is left out is seen."""
    must_see(replaced(verdicts, "in_place", lambda real, *given: real(*given)[:1]), check_tables)


def test_written_from_the_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a missing run that is no clear error, and files that are not those of the run."""
    assert transfer.main(tmp_path) == 1
    assert "run `make reference` first" in capsys.readouterr().err
    (tmp_path / "out" / "latest").mkdir(parents=True)
    (tmp_path / "out" / "latest" / "results.json").write_text(
        json.dumps({"judgements": [j.to_dict() for j in judged()]})
    )
    assert transfer.main(tmp_path) == 0
    written = [Judgement.from_dict(j.to_dict() | {"plot": {"kind": "none"}}) for j in judged()]
    assert (tmp_path / "transfer.md").read_text() == transfer.transfer(
        written, priming.read_published(transfer.PUBLISHED)
    )
    assert (tmp_path / "verdicts.md").read_text() == verdicts.verdicts(written)


def test_a_bar_in_a_statement_stays_in_its_cell() -> None:
    """Catches a statement or a published text that adds a column to its table."""
    claim = dataclasses.replace(ANY.claim, statement="a | b")
    published = Published(0.1, 9, "nll", text="c | d")
    text = verdicts.verdicts([dataclasses.replace(ANY, claim=claim, published=published)])
    (line,) = (x for x in text.splitlines() if "a " in x and " b" in x and x.startswith("| a"))
    assert line.startswith("| a \\| b |")
    assert line.endswith("| c \\| d |")


def effects(by_model: dict[str, float], error: float) -> list[Judgement]:
    """Return one claim on several models, with an error and a normal interval."""
    return [
        dataclasses.replace(
            _judgement("claim", model, "nll", "supported"),
            estimate=Estimate(
                d, d - 1.96 * error, d + 1.96 * error, 0.95, "made up", 90, 30, "d", se=error
            ),
        )
        for model, d in by_model.items()
    ]


def row_of(judgements: list[Judgement]) -> list[str]:
    """Return the cells of the claim's line in the table of effects."""
    (line,) = (x for x in verdicts.verdicts(judgements).splitlines() if x.startswith("| claim | d"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def check_side_by_side() -> None:
    two = effects({"m2": 0.1, "m1": 0.7}, 0.1)
    reach = 1.95996 * 0.1 * math.sqrt(2)
    assert row_of(two) == [
        "claim",
        "d",
        "+0.100 [−0.096, +0.296]",
        "+0.700 [+0.504, +0.896]",
        f"+0.600 [+{0.6 - reach:.3f}, +{0.6 + reach:.3f}]",
        f"{math.sqrt(0.6**2 / 2 - 0.01):.3f}",
    ]
    text = verdicts.verdicts(two)
    assert "leaves out 0 in 1 of 1." in text
    assert "no pooled verdict" in text


def test_side_by_side() -> None:
    """Catches effects under another model, a difference turned round, and a pool of two.

    1. The table; 2. the difference of two independent effects, and tau from their variance.
    """
    check_side_by_side()


def test_twin_side_by_side() -> None:
    """A difference turned round, and a tau that leaves the errors in, are seen."""
    turned = replaced(over_models, "difference", lambda real, a, b: real(b, a))
    must_see(turned, check_side_by_side)
    exact = replaced(over_models, "standard_error", lambda real, e: real(e) / 10)
    must_see(exact, check_side_by_side)


def test_five_models_are_pooled() -> None:
    """Catches a pool of five that is not shown, or says that there is none."""
    models = {f"m{i}": 0.1 * i for i in range(5)}
    cells = row_of(effects(models, 0.05))
    pooled = over_models.pooled([j.estimate for j in effects(models, 0.05)])
    assert pooled is not None
    assert cells[-2] == spelling.interval_text(pooled.mean)
    assert cells[-2].startswith("+0.200")
    assert cells[-1] == f"[{pooled.low:+.3f}, {pooled.high:+.3f}]".replace("-", "−")
    assert "no pooled verdict" not in verdicts.verdicts(effects(models, 0.05))


# --- what transfers, in sentences ---------------------------------------------------------------


def cell_of(
    claim: str,
    place: tuple[str, str],
    interval: tuple[float, float],
    verdict: Verdict,
    reading: Outcome,
    **changed: Any,
) -> Judgement:
    """Return a judgement with a known interval; its value lies in the middle."""
    low, high = interval
    made = dataclasses.replace(
        _judgement(claim, place[0], changed.pop("metric", "nll"), verdict),
        estimate=Estimate(
            (low + high) / 2, low, high, 0.95, "made up", 90, 30, "d", se=(high - low) / 4
        ),
        verdict=verdict,
        reading=reading,
        primary=True,
        why_open="",
        required_n=None,
        **changed,
    )
    statement = changed.get("statement", f"Statement of {claim}.")
    return dataclasses.replace(
        made,
        cell=dataclasses.replace(made.cell, dataset=place[1]),
        claim=dataclasses.replace(made.claim, statement=statement),
    )


M2, M1, ELSEWHERE = ("m2", "data"), ("m1", "data"), ("m2", "other")
UP, DOWN, AROUND, TINY = (0.2, 0.4), (-0.4, -0.2), (-0.3, 0.5), (-0.01, 0.03)


def told() -> list[Judgement]:
    """Return claims of every outcome that a section is about."""
    return [
        cell_of("holds", M2, UP, "supported", "beyond-margin"),
        cell_of("holds", M1, (0.1, 0.3), "supported", "beyond-margin"),
        cell_of("fails", M2, DOWN, "refuted", "reversed"),
        cell_of("fails", M1, DOWN, "refuted", "reversed"),
        cell_of("turns", M2, UP, "supported", "beyond-margin"),
        cell_of("turns", M1, DOWN, "refuted", "reversed"),
        cell_of("small", M2, TINY, "supported", "negligible"),
        cell_of("small", M1, TINY, "supported", "negligible"),
        dataclasses.replace(
            cell_of("open", M2, AROUND, "inconclusive", "open"), required_n=outcomes.NEAR
        ),
        dataclasses.replace(cell_of("far", M2, AROUND, "inconclusive", "open"), required_n=2_000),
        cell_of("unplanned", M2, AROUND, "inconclusive", "open"),
        dataclasses.replace(
            cell_of("few", M2, AROUND, "inconclusive", "open"), why_open="too few clusters"
        ),
    ]


SENTENCES = (
    "- Statement of holds: d +0.300 [+0.200, +0.400] on m2, +0.200 [+0.100, +0.300] on m1.",
    "- Statement of fails: d −0.300 [−0.400, −0.200] on m2 (the other way round: hurts), "
    "−0.300 [−0.400, −0.200] on m1 (the other way round: hurts).",
    "- Statement of turns: d +0.300 [+0.200, +0.400] on m2, −0.300 [−0.400, −0.200] on m1.",
    "- Statement of small: d +0.010 [−0.010, +0.030] on m2, +0.010 [−0.010, +0.030] on m1.",
)


def check_sentences() -> None:
    """Demand each claim in its own section, in figures, and the open ones counted by need."""
    text = transfer.transfer(told(), ())
    holds, flips, small, open_ = (
        part.split("\n## ")[0]
        for part in (
            text.partition(heading)[2]
            for heading in ("What holds on", "What flips,", "What is too small", "What stays open")
        )
    )
    assert SENTENCES[0] in holds
    assert SENTENCES[1] in holds
    assert SENTENCES[2] in flips
    assert SENTENCES[3] in small
    assert [sum(s in part for s in SENTENCES) for part in (holds, flips, small)] == [2, 1, 1]
    assert "**m2**: 4 of 8 are open. 1 would take up to 1,500 samples" in open_
    assert "1 up to 10,000, 0 more; for 1 no number is named" in open_
    assert "For 1 too few clusters" in open_
    assert "Statement of open: d +0.100 [−0.300, +0.500] on m2, n = 90; about 1,500" in open_
    assert "**m1**: nothing is open, of 4 judged." in open_


def test_sentences() -> None:
    """Catches a claim in another section than its intervals put it, or with other figures."""
    check_sentences()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("above", lambda _real, j: j.estimate.value > 10),
        ("is_small", lambda _real, _own: False),
        ("on_several_models", lambda real, judged: dict(list(real(judged).items())[1:])),
        ("place_names", lambda real, own: real(own)[::-1]),
        ("NEAR", None),
        ("open_on", lambda real, model, own, n: real(model, own[1:], n)),
    ],
)
def test_twin_sentences(name: str, wrong: Any) -> None:
    """A flip that is not seen, a place misnamed and an open claim not counted are seen."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        if wrong is None:
            patch.setattr(outcomes, name, 1)
        else:
            replaced(outcomes, name, wrong)(patch)

    must_see(break_it, check_sentences)


def test_the_rest_of_a_section_is_named() -> None:
    """Catches a claim beyond the first few that a section swallows."""
    many = [
        cell_of(f"claim-{i}", place, UP, "supported", "beyond-margin")
        for i in range(outcomes.SHOWN + 2)
        for place in (M2, M1)
    ]
    text = transfer.transfer(many, ())
    assert f"{outcomes.SHOWN + 2} claims are supported" in text
    assert "- And 2 more: `claim-" in text
    assert all(f"claim-{i}" in text for i in range(outcomes.SHOWN + 2))


# --- whether the sink explains it ---------------------------------------------------------------


def sink_rows(
    dropped: tuple[float, float],
    kept: tuple[float, float],
    gain: tuple[float, float],
    share: tuple[float, float] = (0.0, 0.02),
    inside: float = 1.0,
) -> list[Judgement]:
    """Return what the topic of sinks says of the query as a prefix, on a model."""

    def of(claim: str, interval: tuple[float, float], *conditions: str) -> Judgement:
        made = cell_of(claim, M2, interval, "supported", "beyond-margin", conditions=conditions)
        return dataclasses.replace(made, claim=dataclasses.replace(made.claim, family="sinks"))

    bare_over_kept = (-kept[1], -kept[0])
    return [
        of(sinks.SHARE_OF_BOS, share, "bare"),
        of("sink-in-the-prefix-oracle", (inside, inside), "oracle", "bare"),
        of("losing", dropped, "bare", "oracle"),
        of("helps", gain, "oracle", "keep_sink(oracle)", "bare"),
        of("undoes", bare_over_kept, "keep_sink(oracle)", "bare"),
        of("tokens", kept, "bare", "keep_first(oracle,4)"),
        of("alone", DOWN, "keep_first(oracle,4)", "keep_sink(oracle)"),
    ]


ENOUGH = "One slot, the sink, is enough to undo the harm"
EASIER = "Whether what is then gained over the bare document is the prefix's doing"
EXPLAINED = {
    f"{ENOUGH}: none that is seen is left": (DOWN, AROUND, UP),
    f"{ENOUGH}: answers are then easier than the bare document's": (DOWN, UP, UP),
    "Keeping the sink undoes a part of the harm": ((-0.9, -0.7), DOWN, UP),
    "Keeping it does not undo the harm": (DOWN, DOWN, AROUND),
    "Truncation does no harm that is seen": (AROUND, UP, UP),
}


def check_explained() -> None:
    """Demand of each outcome of keeping the sink what it tells, and the count of both."""
    for words, intervals in EXPLAINED.items():
        text = transfer.transfer(sink_rows(*intervals), ())
        assert f". {words}" in text, words
        counted = f"keeping the sink undoes {int(words.startswith(ENOUGH))}"
        assert (counted in text) is (intervals[0][1] < 0), words
        assert (EASIER in text) is words.endswith("the bare document's"), words
    gained = cell_of(sinks.BY_NONE["oracle"], M2, UP, "supported", "beyond-margin")
    both = transfer.transfer([*sink_rows(DOWN, UP, UP), gained], ())
    assert EASIER not in both
    assert "forms (the query r +0.300 [+0.200, +0.400]): it looks like a sink's doing" in both
    none = transfer.transfer(sink_rows(DOWN, DOWN, (0.0, 0.0), inside=0.0), ())
    assert (
        ". No sink is found in it halfway up the layers, so that none is kept, and keeping it does"
        in none
    )
    text = transfer.transfer(sink_rows(DOWN, (0.1, 0.3), UP), ())
    assert (
        "The query (the sink is in it in 100 % of the samples): dropped −0.300 [−0.400, −0.200], "
        "with the sink kept +0.200 [+0.100, +0.300]; keeping it gains +0.300 [+0.200, +0.400], "
        "over keeping the first four tokens −0.300 [−0.400, −0.200] (n = 90)"
    ) in text


def without_a_sink(
    share: float, in_sight: tuple[float, float], late: tuple[float, float]
) -> list[Judgement]:
    """Return what the topic of sinks says of a fixed question in which no sink is found."""
    own = [
        dataclasses.replace(
            j,
            claim=dataclasses.replace(j.claim, id=j.claim.id.replace("oracle", "static-fact")),
            conditions=tuple(c.replace("oracle", "static_fact") for c in j.conditions),
        )
        for j in sink_rows(DOWN, DOWN, (0.0, 0.0), inside=0.0)
    ]
    parts = (f"values_positions(static_fact,{part})" for part in ("0,0.25", "0.25,1"))
    more: dict[str, tuple[tuple[float, float], tuple[str, ...]]] = {
        "no-sink-behind-a-fixed-question": ((share, share), ("static_fact", "bare")),
        "in-sight": (in_sight, ("bare", "full_context(static_fact)")),
        "values": (UP, ("values_only(static_fact)", "bare")),
        "where": (late, (*parts, "bare")),
    }
    for claim, (interval, conditions) in more.items():
        made = cell_of(claim, M2, interval, "supported", "beyond-margin", conditions=conditions)
        own.append(dataclasses.replace(made, claim=dataclasses.replace(made.claim, family="sinks")))
    return own


FORMS_NONE = "it does not hurt by being dropped; a missing sink would explain both"
BY_THE_FIRST_QUARTER = (
    "Values on the document's first quarter, in which the bare keys have the sink"
)


def check_sinks_that_do_not_form() -> None:
    """Demand the harm in sight and the samples without a sink both, before it is put down so."""
    text = transfer.transfer(without_a_sink(0.95, DOWN, UP), ())
    in_sight_too = "and it hurts in sight as well (−0.300 [−0.400, −0.200])"
    assert f"behind it in 95 % of the samples, {in_sight_too}: {FORMS_NONE}" in text
    assert "undoes 0; behind 1 no sink forms (a fixed question on m2)." in text
    assert BY_THE_FIRST_QUARTER in text
    assert "than those on it, for a fixed question by +0.300 [+0.200, +0.400]." in text
    where = cell_of(sinks.BY_NONE["static_fact"], M2, UP, "supported", "beyond-margin")
    less = transfer.transfer([*without_a_sink(0.95, DOWN, UP), where], ())
    assert "It costs less where the bare pass has none: r +0.300 [+0.200, +0.400]." in less
    assert "It costs less" not in text
    nearly_all = transfer.transfer(without_a_sink(0.9967, DOWN, UP), ())
    assert "behind it in 99.7 % of the samples" in nearly_all
    for share, in_sight in ((0.5, DOWN), (0.95, AROUND), (0.95, UP)):
        other = transfer.transfer(without_a_sink(share, in_sight, AROUND), ())
        assert FORMS_NONE not in other
        assert "undoes 0; it does not undo a fixed question on m2." in other
        assert BY_THE_FIRST_QUARTER not in other


def test_a_sink_that_does_not_form() -> None:
    """Catches a harm put down to a missing sink where one forms, or without harm in sight."""
    check_sinks_that_do_not_form()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda self: self.harms and self.without >= sinks.MOSTLY, id="by share"),
        pytest.param(lambda self: self.harms and self.in_sight.ci_high < 0, id="by harm"),
        pytest.param(lambda _self: False, id="never"),
    ],
)
def test_twin_a_sink_that_does_not_form(wrong: Callable[[Any], bool]) -> None:
    """A rule that asks for half of the evidence, and one that is never met, are seen."""
    must_see(
        lambda patch: patch.setattr(sinks.Prefix, "keeps_sinks_away", property(wrong)),
        check_sinks_that_do_not_form,
    )


def test_what_the_sink_explains() -> None:
    """Catches a harm put down to the sink that keeping it does not undo, or a sign turned round."""
    check_explained()


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (sinks, "turned", lambda _real, estimate: estimate),
        (sinks.Prefix, "undone", property(lambda self: self.harms)),
        (sinks.Prefix, "harms", property(lambda _self: True)),
    ],
)
def test_twin_what_the_sink_explains(owner: Any, name: str, wrong: Any) -> None:
    """A benefit not turned round, and every harm put down to the sink, are seen."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        if isinstance(wrong, property):
            patch.setattr(owner, name, wrong)
        else:
            replaced(owner, name, wrong)(patch)

    must_see(break_it, check_explained)


def test_where_bos_is_the_sink_it_explains_nothing() -> None:
    """Catches a flip between two models on which BOS is the sink, put down to a lost sink."""
    on_bos = sink_rows(UP, UP, UP, share=(0.3, 0.4))
    other = [
        dataclasses.replace(j, cell=dataclasses.replace(j.cell, model="m1"))
        for j in sink_rows(DOWN, DOWN, UP, share=(0.3, 0.4))
    ]
    text = transfer.transfer([*on_bos, *other], ())
    assert "**m2**: BOS has 0.350 of the attention and is the sink" in text
    assert "with its first four tokens kept +0.300 [+0.200, +0.400] (n = 90)." in text
    assert "harms of truncation" not in text


def flipping() -> list[Judgement]:
    """Return three claims that flip: between BOS models alone, with a third there, against it."""
    on_bos = [
        dataclasses.replace(j, cell=dataclasses.replace(j.cell, model=model))
        for model, share in (("m1", 0.4), ("m2", 0.4), ("m3", 0.0))
        for j in sink_rows(AROUND, AROUND, AROUND, share=(share, share))[:1]
    ]
    elsewhere = ("m3", "data")
    judged = {
        "between": {M1: UP, M2: DOWN},
        "with-a-third": {M1: UP, M2: DOWN, elsewhere: AROUND},
        "against": {M1: UP, M2: UP, elsewhere: DOWN},
    }
    return on_bos + [
        cell_of(claim, place, interval, "refuted", "reversed")
        for claim, own in judged.items()
        for place, interval in own.items()
    ]


def check_flips_by_sink() -> None:
    """Demand the flips counted that no lost sink can be behind, whoever else was judged."""
    text = transfer.transfer(flipping(), ())
    assert "Of 3 claims that flip, 2 do so between places whose models have their sink in" in text
    assert "The other 1 set a model with its sink elsewhere against them" in text


def test_flips_are_counted_by_the_sink() -> None:
    """Catches a flip between BOS models that is put down to the sink, as a third was judged too."""
    check_flips_by_sink()


def test_twin_flips_are_counted_by_the_sink() -> None:
    """Flips counted by all the places of a claim are seen."""
    must_see(replaced(sinks, "turns", lambda _real, _own: True), check_flips_by_sink)


def test_a_claim_that_holds_everywhere_does_not_flip() -> None:
    """Catches a prediction of no sign, supported on both sides of 0, among the flips."""
    on_both = [
        cell_of("differs", place, interval, "supported", "beyond-margin")
        for place, interval in ((M1, UP), (M2, DOWN))
    ]
    assert not outcomes.flips(places.by_place(on_both))
    assert outcomes.flips(
        places.by_place([on_both[0], cell_of("differs", M2, DOWN, "refuted", "reversed")])
    )


def check_controls() -> None:
    """Demand an identity that is exact to a thousandth apart from a small effect."""
    exact = negligible(outcomes.CONTROL, unit="nats/token")
    small, identity = (
        cell_of(n, M2, TINY, "supported", "negligible") for n in ("small", "identity")
    )
    claim = dataclasses.replace(identity.claim, prediction=exact)
    told_of = [small, dataclasses.replace(identity, claim=claim)]
    section = transfer.transfer(told_of, ()).partition("## What is too small")[2]
    assert "1 claim has an interval within the margin" in section
    assert "1 control, that two ways to the same numbers agree" in section
    assert "held everywhere: `identity`." in section


def test_controls_are_named_apart() -> None:
    """Catches an identity of caches that is shown as a finding of a small effect."""
    check_controls()


def test_twin_controls_are_named_apart() -> None:
    """A page on which nothing is a control is seen."""
    must_see(replaced(outcomes, "is_control", lambda _real, _own: False), check_controls)


# --- the priming family -------------------------------------------------------------------------

VALUES = (
    {
        "model": "big",
        "dataset": "web",
        "metric": "nll",
        "unit": "d",
        "baseline": "bare",
        "condition": "random",
        "effect": 0.091,
        "n": 2303,
    },
    {
        "model": "big",
        "dataset": "old",
        "metric": "nll",
        "unit": "d",
        "baseline": "bare",
        "condition": "random",
        "effect": -0.45,
        "legacy": True,
    },
    {
        "model": "m2",
        "dataset": "data",
        "metric": "nll",
        "unit": "d",
        "baseline": "bare",
        "condition": "random",
        "effect": 0.777,
    },
    {
        "model": "big",
        "dataset": "web",
        "metric": "nll",
        "unit": "r",
        "baseline": "bare",
        "condition": "random",
        "effect": 0.888,
    },
)


def primed() -> list[Judgement]:
    """Return a claim of the priming family on two corpora of a model and on another model."""
    made = [
        cell_of("random", M2, UP, "supported", "beyond-margin", conditions=("bare", "random")),
        cell_of("random", ELSEWHERE, DOWN, "refuted", "reversed", conditions=("bare", "random")),
        cell_of("random", M1, AROUND, "inconclusive", "open", conditions=("bare", "random")),
        cell_of("same", M2, UP, "supported", "beyond-margin", conditions=("bare", "oracle")),
        cell_of("same", ELSEWHERE, UP, "supported", "beyond-margin", conditions=("bare", "oracle")),
    ]
    open_ = cell_of("open", ELSEWHERE, AROUND, "inconclusive", "open", conditions=("bare", "two"))
    made += [
        cell_of("open", M2, UP, "supported", "beyond-margin", conditions=("bare", "two")),
        dataclasses.replace(open_, required_n=400),
    ]
    return [
        dataclasses.replace(j, claim=dataclasses.replace(j.claim, family="priming")) for j in made
    ]


def check_priming_table() -> None:
    """Demand a column for each place and each published one, and what the second corpus says."""
    text = transfer.transfer(primed(), VALUES)
    assert (
        "| claim | metric | m2 × data | m2 × other | m1 × data | published: big × web | "
        "published: big × old |"
    ) in text
    assert (
        "| Statement of random. | `nll` | +0.300 [+0.200, +0.400] **S** (n = 90) | "
        "−0.300 [−0.400, −0.200] **R** (n = 90) | +0.100 [−0.300, +0.500] ? (n = 90) | "
        "+0.091, n = 2,303 | −0.450 ‡ |"
    ) in text
    assert "0.777" not in text
    assert "0.888" not in text
    assert "On other, m2 gives the verdict that it gives on data in 1 of the 2 claims" in text
    assert "decided on both, not in `random`." in text
    assert "Open: `open` (on other with n = 90; about 400 are needed)." in text
    flips = text.partition("## What flips")[2]
    assert "+0.300 [+0.200, +0.400] on m2, −0.300 [−0.400, −0.200] on m2 × other" in flips


def test_priming_table() -> None:
    """Catches a corpus put under another, a published value of something else, or one left out."""
    check_priming_table()


def test_twin_priming_table() -> None:
    """Places in one column, and published values of any pair, are seen."""
    one = replaced(places, "place_of", lambda _real, j: (j.cell.model, "data"))
    must_see(one, check_priming_table)
    first = replaced(priming, "published_of", lambda real, j, values: real(j, values[:1]))
    must_see(first, check_priming_table)
    merged = replaced(priming, "columns", lambda real, own, models: real(own, models)[:2])
    must_see(merged, check_priming_table)


def test_every_verdict_has_a_column_for_each_corpus() -> None:
    """Catches verdicts of two corpora in one cell of the page of every verdict."""
    text = verdicts.verdicts(primed())
    assert "| claim | m2 | m2 × other | m1 | published |" in text
    (line,) = (x for x in text.splitlines() if x.startswith("| Statement of random"))
    assert [("**S**" in c, "**R**" in c) for c in line.split("|")[2:4]] == [
        (True, False),
        (False, True),
    ]
