"""A wrong declaration is one line that names file, claim and remedy; other claims are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from invariants.support.invented_run import Judge, judge_invented_cell

GOOD = '''
"""Claims of which one may be declared wrongly."""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import mean_benefit, paired_benefit
from kvcore.verdict import helps

topic = claims_about("invented", source="an invented source", min_n=10)


@topic.claim("random-helps", predicts=helps(delta=0.09, effect=0.5))
def test_random_helps(judge):
    """Random tokens help."""
    judge(paired_benefit("bare", "random"))


'''


def wrong(body: str, statement: str = '"""It is so."""', **fields: str) -> str:
    """Return a second claim, with fields of its own."""
    passed = {"predicts": "helps(delta=0.09)"} | fields
    arguments = ", ".join(f"{name}={value}" for name, value in passed.items())
    lines = [f'@topic.claim("wrong", {arguments})', "def test_wrong(judge):"]
    return "\n".join([*lines, *(f"    {line}" for line in (statement, body) if line), ""])


CASES = {
    "misspelt condition": (
        wrong('judge(paired_benefit("bare", "static_fcat"))'),
        "claim 'wrong': unknown condition 'static_fcat': did you mean 'static_fact'?",
    ),
    "unknown target": (
        wrong('judge(paired_benefit("bare", "bare@samples.answr"))'),
        "claim 'wrong': unknown target 'answr': did you mean 'answer'?",
    ),
    "unknown kind": (
        wrong('judge(paired_benefit("bare", "random"))', kind='"answer_nlls"'),
        "claim 'wrong': unknown kind of measurement 'answer_nlls': did you mean 'answer_nll'?",
    ),
    "misspelt source of text": (
        wrong('judge(paired_benefit("human", "gredy"))', kind='"hidden_states"'),
        "claim 'wrong': unknown source 'gredy': did you mean 'greedy'?",
    ),
    "misspelt pair": (
        wrong(
            'judge(mean_benefit("bare~randm", "bare~bare"))',
            kind='"divergence"',
            predicts='helps(unit="nats/token")',
        ),
        "claim 'wrong': unknown condition 'randm': did you mean 'random'?",
    ),
    "misspelt way to switch": (
        wrong('judge(paired_benefit("free:injecton", "noise"))', kind='"context_switch"'),
        "claim 'wrong': unknown way to switch 'injecton': did you mean 'injection'?",
    ),
    "unit that does not fit": (
        wrong('judge(mean_benefit("bare", "random"))'),
        "claim 'wrong': mean_benefit is in 'nats/token', the prediction in 'd': pass "
        "unit='nats/token' to the prediction.",
    ),
    "no statement": (
        wrong('judge(paired_benefit("bare", "random"))', statement=""),
        "claim 'wrong': no statement: write it as the test's docstring, which readers see.",
    ),
    "nothing judged": (
        wrong("pass"),
        "claim 'wrong': its test must call judge(...) once, with what an estimand returns.",
    ),
    "assertion": (wrong('assert 1 == 2, "no"'), "claim 'wrong': AssertionError: no"),
    "missing rows": (
        wrong('judge(paired_benefit("bare"))'),
        "claim 'wrong': TypeError: missing a required argument: 'condition'",
    ),
    "id twice": (
        wrong('judge(paired_benefit("bare", "random"))').replace('"wrong"', '"random-helps"'),
        "claim 'random-helps' is declared in claims/test_invented.py::test_random_helps too: "
        "rename one.",
    ),
}


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return the function that judges claims on the invented cell's rows."""
    return judge_invented_cell(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_declaration_is_one_line_and_spares_the_others(
    case: str, judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error for every cell, a line without the remedy, a run that ends well or judges none."""
    claim, line = CASES[case]
    run = judged(GOOD + claim)
    assert run.status == 1
    errors = [case for case in run.junit.values() if case.find("error") is not None]
    assert len(errors) == 1
    (error,) = errors[0].iter("error")
    text = str(error.text)
    assert text.startswith("claims/test_invented.py")
    assert line in text
    assert "\n" not in text.strip()
    assert capsys.readouterr().out.count(line) == 1
    verdicts = {(j["claim"]["id"], j["cell"]["metric"]) for j in run.results["judgements"]}
    assert {("random-helps", "nll"), ("random-helps", "nll_tail")} <= verdicts
    assert all(claim == "random-helps" for claim, _ in verdicts)
    assert line in run.page


def test_declarations_in_order_are_no_error(judged: Any) -> None:
    """The check above, were every run to have an error."""
    run = judged(GOOD)
    assert run.status == 0
    assert not [case for case in run.junit.values() if case.find("error") is not None]


def test_claims_for_each_value_of_a_parameter_are_claims_of_their_own(judged: Any) -> None:
    """Cases that share an id or a statement, or whose test gets another case's value."""
    cases = '''
@topic.claim_for_each(
    "condition",
    {"random": {"claim_id": "one-random", "min_n": 7}, "oracle": {"claim_id": "one-oracle"}},
    predicts=helps(),
    metrics=("nll",),
)
def test_each(judge, condition):
    """It is so of {condition}."""
    judge(paired_benefit("bare", condition))
'''
    judgements = {j["claim"]["id"]: j for j in judged(GOOD + cases).results["judgements"]}
    for name, least in (("random", 7), ("oracle", 10)):
        own = judgements[f"one-{name}"]
        assert own["claim"]["statement"] == f"It is so of {name}."
        assert own["conditions"] == ["bare", name]
        assert own["claim"]["min_n"] == least
