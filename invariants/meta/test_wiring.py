"""From stored rows to JUnit, results.json and the page: every number of an invented cell.

Two routes to each number:

1. rows in a store, a run of pytest on claims about them, and what its reports say;
2. `invariants.support.invented_cell`, which computes from the invented numbers themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claims.harness import hooks, judging, ledger
from claims.harness.claims import ClaimSpec
from claims.harness.options import Settings
from claims.harness.session import Session
from invariants.support import invented_cell
from invariants.support.claim_runs import ClaimRun
from invariants.support.invented_cell import EXPECTED, Expected
from invariants.support.invented_run import Judge, judge_invented_cell
from kvcore import verdict
from kvcore.analysis import IntervalSettings, paired_effect
from kvcore.store import pandas_line

Fault = Callable[[pytest.MonkeyPatch], None]
TOLERANCE = 1e-9
# Families count the claim that breaks, whose judgement was to be made too.
FAMILYWISE = 1 - (1 - invented_cell.CONFIDENCE) / invented_cell.JUDGED
SAID = (
    "verdict",
    "reading",
    "words",
    "verdict_beside",
    "required_n",
    "planning",
    "consistent",
    "ledger",
    "outcome",
    "conditions",
)
TESTS = {
    "random-helps": "test_random_helps",
    "framing-hurts": "test_framing_hurts",
    "oracle-helps-not": "test_oracle_does_not_help",
    "framing-helps-less": "test_framing_helps_less_than_random",
    "separator-helps": "test_the_separator_helps",
}


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return the function that judges the invented cell, with options."""
    return functools.partial(judge_invented_cell(tmp_path, monkeypatch), invented_cell.CLAIMS)


def case_of(expected: Expected) -> str:
    metric = expected.metric.replace("_", "-")
    return f"{TESTS[expected.claim]}[{invented_cell.MODEL}-{invented_cell.DATASET}-{metric}]"


def check_results(run: ClaimRun, confidence: float) -> None:
    """Compare every number of results.json."""
    judgements = {(j["claim"]["id"], j["cell"]["metric"]): j for j in run.results["judgements"]}
    assert judgements.keys() == {(e.claim, e.metric) for e in EXPECTED}
    verdicts = []
    for expected in EXPECTED:
        own, judgement = judged(expected, confidence), judgements[expected.claim, expected.metric]
        estimate = judgement["estimate"]
        assert judgement["cell"] == {
            "model": invented_cell.MODEL,
            "dataset": invented_cell.DATASET,
            "metric": expected.metric,
            "dtype": invented_cell.DTYPE,
        }
        assert (estimate["n"], estimate["clusters"]) == (invented_cell.N, invented_cell.CLUSTERS)
        for name in ("value", "ci_low", "ci_high", "confidence", "sd", "se", "effective", "df"):
            assert estimate[name] == pytest.approx(own[name], abs=TOLERANCE), (expected, name)
        assert (estimate["scale"], estimate["informative"]) == ("identity", invented_cell.CLUSTERS)
        beside = estimate["beside"]
        assert (beside["low"], beside["high"]) == pytest.approx(own["beside"], abs=TOLERANCE)
        for name in ("floor", "floor_nats", "p"):
            assert judgement[name] == pytest.approx(own[name], abs=TOLERANCE), (expected, name)
        for name in SAID:
            assert judgement[name] == own[name], (expected, name)
        assert (judgement["why_open"], judgement["benefit"]) == ("", True)
        check_sentence(expected, own, judgement["sentence"])
        published = judgement["published"]
        assert (published and published["value"]) == own["published"]
        assert judgement["details"] == pytest.approx(own["details"], abs=TOLERANCE)
        assert (judgement["seed"], judgement["store"]) == (invented_cell.SEED, "store")
        verdicts.append(own["verdict"])
    counts = {name: verdicts.count(name) for name in ("supported", "refuted", "inconclusive")}
    assert run.results["counts"] == counts
    check_q_values(run.results, confidence)


def check_rows(run: ClaimRun) -> None:
    """The line of pandas in results.json gives the rows that the judgements are computed from.

    1. The line itself, run in the working directory, and d of what it reads.
    2. The estimate of the judgement.
    """
    (cell,) = run.results["cells"]
    scope: dict[str, Any] = {}
    exec(cell["rows in pandas"], scope)
    rows = scope["rows"]
    assert set(rows["model"]) == {invented_cell.MODEL}
    wide = rows.pivot(index="sample_id", columns="condition", values="nll")
    assert len(wide) == invented_cell.N
    gain = wide["bare"] - wide["random"]
    by_claim = {(j["claim"]["id"], j["cell"]["metric"]): j for j in run.results["judgements"]}
    estimate = by_claim["random-helps", "nll"]["estimate"]["value"]
    assert gain.mean() / gain.std(ddof=1) == pytest.approx(estimate, abs=TOLERANCE)
    assert cell["rows"] == "store"


def check_q_values(results: dict[str, Any], confidence: float) -> None:
    """Compare the q-values and how many verdicts stand by them."""
    primary = [expected for expected in EXPECTED if expected.primary]
    every = [judged(expected, confidence) for expected in primary]
    qs = invented_cell.q_values([own["p"] for own in every])
    shown = {(j["claim"]["id"], j["cell"]["metric"]): j["q"] for j in results["judgements"]}
    assert [shown[e.claim, e.metric] for e in primary] == pytest.approx(qs, abs=TOLERANCE)
    assert [q for q in shown.values() if q is None] == [None] * (len(EXPECTED) - len(primary))
    settled = [q for own, q in zip(every, qs, strict=True) if own["verdict"] != "inconclusive"]
    standing = sum(q <= 0.05 for q in settled)
    assert results["q_values"] == {
        "level": 0.05,
        "primary": len(qs),
        "settled": len(settled),
        "standing": standing,
    }


def check_sentence(expected: Expected, own: dict[str, Any], sentence: str) -> None:
    """Compare what a judgement says in one line."""
    cell = f"{invented_cell.MODEL} × {invented_cell.DATASET} ({expected.metric})"
    numbers = "d {value:.3f} [{ci_low:.3f}, {ci_high:.3f}]".format(**own)
    assert sentence.startswith(
        f"{own['verdict']}: {own['claim']} on {cell}: {own['words']}; {numbers}"
    )
    assert f"n = {invented_cell.N} in {invented_cell.CLUSTERS} clusters" in sentence
    assert ("by the bootstrap" in sentence) == (own["verdict_beside"] != own["verdict"])
    assert bool(own["planning"]) == (own["verdict"] == "inconclusive"), "only where it is open"
    assert sentence.endswith(own["planning"])


def check_junit(run: ClaimRun, confidence: float) -> None:
    """Compare every property and outcome of the JUnit file."""
    cases = run.junit
    hashes = {
        (j["claim"]["id"], j["cell"]["metric"]): j["rows_hash"] for j in run.results["judgements"]
    }
    for expected in EXPECTED:
        case = cases[case_of(expected)]
        own = judged(expected, confidence)
        shown = {p.get("name"): p.get("value") for p in case.iter("property")}
        assert shown.pop("rows_hash") == hashes[expected.claim, expected.metric]
        properties = invented_cell.properties(expected, confidence)
        assert shown.keys() == properties.keys()
        for name, value in properties.items():
            if isinstance(value, float):
                assert float(str(shown[name])) == pytest.approx(value, abs=TOLERANCE), (
                    expected,
                    name,
                )
            else:
                assert shown[name] == str(value), (expected, name)
        kinds = {"passed": [], "failed": ["failure"]}.get(own["outcome"], ["skipped"])
        tags = [element.tag for element in case if element.tag != "properties"]
        assert tags == kinds, expected
        for element in case:
            if element.tag in ("failure", "skipped"):
                check_sentence(expected, own, str(element.get("message")))
        if own["outcome"] == "xfailed":
            assert "xfail" in str(next(case.iter("skipped")).get("type"))
    broken = next(case for name, case in cases.items() if name.startswith("test_this_one_breaks"))
    assert [element.tag for element in broken if element.tag != "properties"] == ["error"]
    assert "ZeroDivisionError: a crash in an estimand" in str(next(broken.iter("error")).text)


def check_page(run: ClaimRun, confidence: float) -> None:
    """Find every number of a claim on the page, beside its cell."""
    page = run.page
    for expected in EXPECTED:
        own = judged(expected, confidence)
        for text in on_the_page(own):
            assert text in page, (expected, text)
    assert "a crash in an estimand" in page


def on_the_page(own: dict[str, Any]) -> list[str]:
    """Return what the page must say of a judgement, rounded as readers see it."""

    def signed(x: float) -> str:
        return f"{x:+.3f}".replace("-", "−")

    low, high = signed(own["ci_low"]), signed(own["ci_high"])
    texts = [f"{signed(own['value'])} [{low}, {high}]", own["claim"], own["words"]]
    texts.append("[{}, {}] by BCa bootstrap".format(*map(signed, own["beside"])))
    if own["verdict_beside"] != own["verdict"]:
        texts.append(f"hangs on the method: {own['verdict_beside']} by the bootstrap")
    if own["required_n"] is not None and own["verdict"] == "inconclusive":
        texts.append(f"{own['required_n']:,}")
    if own["published"] is not None:
        agrees = {True: "consistent", False: "not consistent", None: "elsewhere"}
        texts.append(f"{signed(own['published'])}, n = ")
        texts.append(f"({agrees[own['consistent']]})")
    return texts


def judged(expected: Expected, confidence: float) -> dict[str, Any]:
    return invented_cell.judged(expected, confidence)


def check(run: ClaimRun, confidence: float = invented_cell.CONFIDENCE) -> None:
    assert run.status == 1  # one claim breaks
    check_results(run, confidence)
    check_junit(run, confidence)
    check_page(run, confidence)


def test_every_number_of_a_run_is_what_its_rows_say(invented: Any) -> None:
    """Anything that connects rows and reports: floor, level, power, ledger, published values."""
    check(invented())


def test_the_rows_are_a_line_of_pandas_away(invented: Any, tmp_path: Path) -> None:
    """A path that is not where the rows are, or a line that reads those of another cell."""
    invented_cell.write_store(tmp_path / "store", "another-model")
    run = invented()
    check_rows(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [("CELL", ("dtype",)), ("spelled", lambda folder: str(folder / "elsewhere"))],
)
def test_twin_a_line_that_reads_other_rows_is_seen(
    invented: Any, name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of the line that other rows or no rows pass."""
    invented_cell.write_store(tmp_path / "store", "another-model")
    monkeypatch.setattr(pandas_line, name, value)
    run = invented()
    with pytest.raises((AssertionError, FileNotFoundError)):
        check_rows(run)


def test_every_number_is_judged_at_its_familys_level(invented: Any) -> None:
    """A family counted wrongly, or a level that is not used everywhere."""
    check(invented("--kv-familywise"), FAMILYWISE)


def no_floor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judging, "noise_floor", lambda *_: 0.0)


def narrow_level(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "claims.harness.judging.IntervalSettings",
        lambda _, seed, **other: IntervalSettings(0.90, seed, **other),
    )


def low_power(patch: pytest.MonkeyPatch) -> None:
    right = functools.partial(verdict.plan, power=0.5)
    patch.setattr("claims.harness.judging.verdict.plan", right)


def bootstrap_judges(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "claims.harness.judging.IntervalSettings",
        lambda level, seed, **_: IntervalSettings(level, seed, method="bca", beside=True),
    )


def one_sided(patch: pytest.MonkeyPatch) -> None:
    right = verdict.p_value
    patch.setattr("claims.harness.judging.verdict.p_value", lambda *args: right(*args) / 2)


def exchanged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "claims.harness.estimands.paired.paired_effect",
        lambda a, b, *rest: paired_effect(b, a, *rest),
    )


def no_ledger(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "read", dict)


def published_elsewhere(patch: pytest.MonkeyPatch) -> None:
    def first(spec: ClaimSpec, cell: Any) -> Any:
        shown = next(iter(spec.published.values()), None)
        return (shown if shown and shown.metric == cell.metric else None), shown is not None

    patch.setattr(ClaimSpec, "published_for", first)


def crash_becomes(outcome: Callable[[str], Any]) -> Fault:
    def fault(patch: pytest.MonkeyPatch) -> None:
        right = hooks.judged

        def judged_or(request: Any, test: Any) -> Any:
            try:
                return right(request, test)
            except ZeroDivisionError as error:
                outcome(str(error))

        patch.setattr(hooks, "judged", judged_or)

    return fault


def one_family_for_all(patch: pytest.MonkeyPatch) -> None:
    right = Session.of

    def of(settings: Settings, tests: Any, declared: Any) -> Session:
        session = right(settings, tests, declared)
        session.families = dict.fromkeys(session.families, 1)
        return session

    patch.setattr(Session, "of", of)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(no_floor, id="noise floor 0"),
        pytest.param(narrow_level, id="confidence .90"),
        pytest.param(low_power, id="power .5"),
        pytest.param(bootstrap_judges, id="bootstrap in place of the jackknife"),
        pytest.param(one_sided, id="p of one side"),
        pytest.param(exchanged, id="baseline and condition exchanged"),
        pytest.param(no_ledger, id="ledger ignored"),
        pytest.param(published_elsewhere, id="published value of another cell"),
        pytest.param(crash_becomes(pytest.skip), id="crash skipped"),
        pytest.param(crash_becomes(pytest.xfail), id="crash expected"),
    ],
)
def test_twin_a_fault_in_the_wiring_is_seen(
    invented: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison above that compares nothing: each planted fault must fail it."""
    fault(monkeypatch)
    run = invented()
    with pytest.raises(AssertionError):
        check(run)


def test_twin_a_wrong_family_size_is_seen(invented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family level that the comparison does not look at."""
    one_family_for_all(monkeypatch)
    run = invented("--kv-familywise")
    with pytest.raises(AssertionError):
        check(run, FAMILYWISE)


def test_an_inconclusive_verdict_fails_where_that_is_asked_for(invented: Any) -> None:
    """--kv-strict that reaches nothing."""
    run = invented("--kv-strict")
    for expected in EXPECTED:
        if judged(expected, invented_cell.CONFIDENCE)["verdict"] == "inconclusive":
            assert run.junit[case_of(expected)].find("failure") is not None


def test_the_ledger_is_written_where_that_is_asked_for(invented: Any, tmp_path: Path) -> None:
    """--kv-record that loses entries, writes them under another key or rounds otherwise."""
    known = tmp_path / "known.toml"
    known.write_text("", encoding="utf-8")
    invented("--kv-record")
    (expected,) = (e for e in EXPECTED if e.known)
    own = judged(expected, invented_cell.CONFIDENCE)
    cell = ("nll", invented_cell.MODEL, "float32", invented_cell.DATASET)
    key = (expected.claim, 1, *cell, invented_cell.KNOWN_PREDICTION)
    assert list(ledger.read(known)) == [key]
    entry = ledger.read(known)[key]
    assert (entry.estimate, entry.ci_low, entry.ci_high, entry.n) == (
        round(own["value"], 6),
        round(own["ci_low"], 6),
        round(own["ci_high"], 6),
        invented_cell.N,
    )
