"""The second corpus among the claims: where it is judged, and that the page says what is so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from claims.harness import cells, registry
from claims.harness.claims import GEMMA_MANUALS, MANUALS, MANUALS_OF_ALL, ClaimSpec
from invariants.support import markdown
from invariants.support.settings import settings
from kvcore.data.datasets import load_corpus
from kvcore.data.sample import Corpus
from kvcore.data.service_manuals import load

PAGE = (Path(__file__).parents[2] / "docs" / "service_manuals.md").read_text("utf-8")
MODEL, NAME = MANUALS


def spec_of(claim_id: str) -> ClaimSpec:
    """Return a claim of the project by its id."""
    return next(spec for spec in registry.all_specs() if spec.claim.id == claim_id)


def check_places() -> None:
    """Demand the second corpus where stored rows alone are judged, or where it is asked for."""
    spec = spec_of("random-prefix-helps")
    none = {"models": (), "datasets": ()}
    assert MANUALS in cells.places(spec, settings(**none, no_measure=True))
    assert MANUALS not in cells.places(spec, settings(**none))
    both = settings(models=(MODEL, "gemma3-270m"), datasets=(), no_measure=True)
    assert cells.places(spec, both) == (
        (MODEL, "docstrings"),
        ("gemma3-270m", "docstrings"),
        MANUALS,
        GEMMA_MANUALS,
    )
    other = settings(models=("gemma3-270m",), datasets=(), no_measure=True)
    of_the_default_model = spec_of("any-static-question-does")
    assert cells.places(of_the_default_model, other) == (("gemma3-270m", "docstrings"),)
    named = settings(models=(), datasets=("docstrings",), no_measure=True)
    assert cells.places(spec, named) == ((MODEL, "docstrings"),)
    assert cells.places(spec, settings(models=(MODEL,), datasets=(NAME,))) == (MANUALS,)
    elsewhere = spec_of("random-gains-with-hardness")
    assert MANUALS not in cells.places(elsewhere, settings(**none, no_measure=True))


def test_stored_rows_of_the_second_corpus_are_judged() -> None:
    """Catches a second corpus that every run measures, or that no run of stored rows judges."""
    check_places()


@pytest.mark.parametrize("no_measure", [True, False])
def test_twin_a_corpus_judged_always_or_never_is_seen(
    no_measure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches nothing of its own: rows judged always, or never, must fail the check above."""
    right = cells.places

    def wrong(spec: ClaimSpec, chosen: object) -> object:
        del chosen
        return right(spec, settings(models=(), datasets=(), no_measure=no_measure))

    monkeypatch.setattr(cells, "places", wrong)
    with pytest.raises(AssertionError):
        check_places()


def check_expected(page: str) -> None:
    """Demand a verdict for each claim, model and metric that is judged on the corpus."""
    rows = markdown.table_rows(page, "## What is expected there")
    specs = {spec.claim.id: spec for spec in registry.all_specs()}
    assert all({*row[1:]} != {"–"} for row in rows)
    for column, place in enumerate(MANUALS_OF_ALL, 1):
        expected = [(row[0].strip("`"), row[column]) for row in rows if row[column] != "–"]
        judged = [name for name, spec in specs.items() if place in spec.declared.also_stored_at]
        assert sorted(claim_id for claim_id, _ in expected) == sorted(judged)
        for claim_id, verdicts in expected:
            spec = specs[claim_id]
            assert len(verdicts.split(", ")) == len(spec.declared.metrics)
            assert set(verdicts.split(", ")) <= {"S", "R", "?"}
            assert spec.at(place).claim == spec.claim  # the prediction of the docstrings


def test_what_is_expected_is_written_down() -> None:
    """Catches a claim on the corpus of which nothing was said, or that predicts otherwise there."""
    check_expected(PAGE)


def test_twin_a_claim_that_is_not_on_the_page_is_seen() -> None:
    """Catches nothing of its own: a page without a line must fail the check above."""
    line = "| `random-prefix-helps` | S, S | R, R | R, R |\n"
    assert line in PAGE
    with pytest.raises(AssertionError):
        check_expected(PAGE.replace(line, ""))


def check_counts(page: str, corpus: Corpus) -> None:
    """Demand the counts of the corpus on the page."""
    rows = markdown.table_rows(page, "# A second corpus: manuals of web services")
    short = corpus.dropped["fewer than 40 words of prose"]
    dropped, kept = sum(corpus.dropped.values()), len(corpus.samples)
    families = Counter(sample.cluster for sample in corpus.samples)
    counts = (
        dropped + kept,
        short,
        dropped - short,
        kept,
        len(families),
        max(families.values()),
    )
    assert [row[1] for row in rows] == [f"{count:,}" for count in counts]


def test_counts_are_those_of_the_corpus() -> None:
    """Catches counts on the page that the corpus of the version it names does not have."""
    corpus = load_corpus(NAME)
    if f"botocore {load.version()} |" in PAGE:
        check_counts(PAGE, corpus)
    fewer = replace(corpus, samples=corpus.samples[1:])
    with pytest.raises(AssertionError):
        check_counts(PAGE, fewer)
