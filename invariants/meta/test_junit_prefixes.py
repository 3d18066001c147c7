"""A JUnit file tells refuted, inconclusive and not judged apart by how its messages begin.

Two routes to each beginning:

1. a run of pytest on claims about invented rows, and the messages of its JUnit file;
2. the table of beginnings in docs/reading.md.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from claims.harness import judging, ledger
from invariants.support import invented_cell
from invariants.support.claim_runs import NO_PAGE, ROOT, ClaimRun
from invariants.support.invented_run import Judge, judge_invented_cell
from kvcore.verdict import Claim, helps

CLAIMS = '''
"""Claims about an invented cell, one for each way a test of a claim may end."""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import paired_benefit
from kvcore.verdict import does_not_help, helps, hurts

topic = claims_about("invented", source="an invented source", metrics=("nll",), min_n=10)


@topic.claim("holds", predicts=helps())
def test_supported(judge):
    """Random tokens help."""
    judge(paired_benefit("bare", "random"))


@topic.claim("does-not-hold", predicts=hurts())
def test_refuted(judge):
    """Random tokens hurt."""
    judge(paired_benefit("bare", "random"))


@topic.claim("framing-hurts", predicts=hurts(delta=0.09, effect=-0.4))
def test_known_refuted(judge):
    """Framing hurts, as the ledger knows not to be so."""
    judge(paired_benefit("bare", "framed"))


@topic.claim("is-open", predicts=does_not_help())
def test_inconclusive(judge):
    """The query does not help."""
    judge(paired_benefit("bare", "oracle"))


@topic.claim("was-not-measured", predicts=helps())
def test_no_resource(judge):
    """A prefix of which there are no rows helps."""
    judge(paired_benefit("bare", "static_fact"))


@topic.claim("has-no-meaning", predicts=helps(), applies=lambda cell: "another machine's")
def test_not_applicable(judge):
    """A claim that has no meaning here."""
    judge(paired_benefit("bare", "random"))
'''
ENDS = {
    "test_supported": None,
    "test_refuted": ("failure", "refuted: "),
    "test_known_refuted": ("skipped", "refuted: "),
    "test_inconclusive": ("skipped", "inconclusive: "),
    "test_no_resource": ("skipped", "no resource: "),
    "test_not_applicable": ("skipped", "not applicable: "),
}


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return the function that judges the invented cell, with options."""
    return functools.partial(judge_invented_cell(tmp_path, monkeypatch), CLAIMS, *NO_PAGE)


def beginnings(run: ClaimRun) -> dict[str, tuple[str, str] | None]:
    """Return how each test ended: the element of JUnit, and its message up to the first colon."""
    ends: dict[str, tuple[str, str] | None] = {}
    for name, case in run.junit.items():
        elements = [e for e in case if e.tag in ("failure", "error", "skipped")]
        ends[name.split("[")[0]] = next(
            ((e.tag, re.sub(r"(?s)(: ).*", r"\1", str(e.get("message")))) for e in elements), None
        )
    return ends


def documented() -> set[str]:
    """Return the beginnings that the README names."""
    return set(
        re.findall(r"^\| `([a-z ]+: )` \|", (ROOT / "docs" / "reading.md").read_text("utf-8"), re.M)
    )


def test_messages_begin_with_what_they_mean(judge: Any) -> None:
    """Catches a JUnit file in which refuted, inconclusive and not judged look alike."""
    assert beginnings(judge()) == ENDS
    assert {end[1] for end in ENDS.values() if end} | {"supported: "} == documented()


def test_strict_and_stale_failures_say_what_they_are(judge: Any, tmp_path: Path) -> None:
    """Catches --kv-strict, or an entry of the ledger that no longer holds, that reads refuted."""
    claim = Claim("holds", 1, "Random tokens help.", "a source", "invented", helps(), 10)
    entry = invented_cell.KNOWN.replace("framing-hurts", "holds")
    entry = entry.replace(invented_cell.KNOWN_PREDICTION, ledger.prediction_hash(claim))
    (tmp_path / "known.toml").write_text(entry, encoding="utf-8")
    ends = beginnings(judge("--kv-strict"))
    assert ends["test_inconclusive"] == ("failure", "inconclusive: ")
    assert ends["test_supported"] == ("failure", "supported: ")


@pytest.mark.parametrize("fault", ["sentence", "resource"])
def test_messages_twin(judge: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence without its verdict before it, and a skip without its reason's name, are seen."""
    if fault == "sentence":
        right = judging.conclusion
        monkeypatch.setattr(
            judging,
            "conclusion",
            lambda *args: right(*args)._replace(sentence="the interval lies elsewhere"),
        )
    else:
        skip = pytest.skip
        monkeypatch.setattr(pytest, "skip", lambda why: skip(why.removeprefix("no resource: ")))
    with pytest.raises(AssertionError):
        assert beginnings(judge()) == ENDS
