"""How long a page is, what it folds, and what of it leads where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from invariants.support import check_axe, check_page, invented
from invariants.support.comparing import must_see
from kvcore.verdict import Judgement
from reports import multiple, plugin
from reports.html import page, templates

TALLEST = 12_000
"""CSS pixels."""


def many(claims: int = 180) -> list[Judgement]:
    """Return invented judgements of so many claims of several topics, without pictures."""
    drawn = [j for j in invented.judgements() if j.primary]
    return [
        dataclasses.replace(
            judgement,
            claim=dataclasses.replace(judgement.claim, id=f"claim-{i}", family=f"topic-{i % 12}"),
            plot={"kind": "none"},
        )
        for i in range(claims)
        for judgement in [drawn[i % len(drawn)]]
    ]


def shown(judgements: list[Judgement], **facts: object) -> str:
    return str(page.page(judgements, [], {}, {}, **facts))  # type: ignore[arg-type]


def assert_low(folder: Path, chromium: str) -> None:
    whole = page.document(f"<html><head></head><body>{shown(many())}</body></html>")
    path = folder / "report.html"
    path.write_text(whole, encoding="utf-8")
    for width in (1280, 400):
        assert 500 < check_page.height(path, chromium, width) <= TALLEST


def test_many_claims_are_folded(tmp_path: Path) -> None:
    """Catches a page of 180 claims that is taller than 12,000 px on a screen or a phone."""
    assert_low(tmp_path, check_axe.browser())


def test_twin_what_is_not_folded_is_tall(tmp_path: Path) -> None:
    """Claims and verdicts that are unfolded from the start are seen."""

    def unfolded(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(page, "FOLDED_FROM", 10_000)

    must_see(unfolded, assert_low, tmp_path, check_axe.browser())


def assert_topics_lead_to_their_claims() -> None:
    text = shown(many())
    for index in range(12):
        assert f'href="#kv-topic-{index}"' in text
        _, _, fold = text.partition(f'id="kv-topic-{index}"')
        inside = fold.partition('<details class="kv-fold"')[0]
        assert inside.count('<details class="kv-claim"') == 15
        assert inside.count(f'data-topic="{index}"') == 15
    few = shown(many(20))
    assert 'href="#kv-topic-' not in few
    assert 'href="#kv-claims"' in few


def test_topics_lead_to_their_claims() -> None:
    """Catches a topic of the story that leads nowhere, and a claim under another topic."""
    assert_topics_lead_to_their_claims()


def test_topics_twin() -> None:
    """Claims that are folded under the topics in another order are seen."""

    def reversed_topics(patch: pytest.MonkeyPatch) -> None:
        real = templates.render

        def turned(template: str, **values: object) -> object:
            if template == "claims.html":
                values["topics"] = list(values["topics"])[::-1]  # type: ignore[call-overload]
            return real(template, **values)

        patch.setattr("reports.html.page.render", turned)

    must_see(reversed_topics, assert_topics_lead_to_their_claims)


def assert_unjudged_stand_under_their_reason() -> None:
    unjudged = {"no stored rows": ["a.py::test_x[1]"], "no GPU": ["b.py::y", "b.py::z"]}
    text = shown(many(3), unjudged=unjudged)
    assert "Why 3 tests gave no verdict" in text
    assert -1 < text.find("no GPU") < text.find("no stored rows")
    assert "b.py::y, b.py::z" in text
    assert "kv-unjudged" not in shown(many(3))


def test_unjudged_tests_stand_under_their_reason() -> None:
    """Catches a test without a verdict that the page does not tell of."""
    assert_unjudged_stand_under_their_reason()


def test_unjudged_twin() -> None:
    """A page that leaves them out is seen."""
    must_see(
        lambda patch: patch.setattr(page, "by_frequency", lambda _: []),
        assert_unjudged_stand_under_their_reason,
    )


def test_a_claim_leads_to_the_line_of_its_test() -> None:
    """Catches a link from a claim to another file or line than its test's."""
    (judgement,) = many(1)
    place = plugin.code_place(("../lib/claims/test_priming.py", 44, "test_x"))
    assert place == "claims/test_priming.py:45"
    links = page.Links(code={multiple.key_of(judgement): place})
    text = shown([judgement], links=links)
    assert "blob/main/claims/test_priming.py#L45" in text
    assert plugin.code_place(("tests/test_other.py", 3, "test_x")) == ""
