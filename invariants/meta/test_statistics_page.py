"""The page on judging is what its figures make, and its simulation errs when judging does."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import statistics_page, verdicts
from kvcore import analysis
from kvcore.analysis import IntervalSettings
from kvcore.verdict import helps


def check_page() -> None:
    """The page is written from the figures kept beside it."""
    figures = figures_beside_the_page()
    assert statistics_page.PAGE.read_text(encoding="utf-8") == statistics_page.page(figures)


def test_the_page_on_judging_is_written_from_its_figures() -> None:
    """Catches a figure, or a sentence, that was changed by hand."""
    check_page()


def test_twin_another_figure_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were a margin of the simulation another."""
    monkeypatch.setattr(verdicts, "MARGIN", 0.5)
    monkeypatch.setattr(verdicts, "WRONG", {0.0: "supported", 0.09: "refuted"})
    with pytest.raises(AssertionError):
        check_page()


def figures_beside_the_page() -> dict[str, Any]:
    own: dict[str, Any] = json.loads(statistics_page.FIGURES.read_text(encoding="utf-8"))
    return own


def check_population() -> None:
    """The simulation's population is the shipped rows, its published cells those declared."""
    figures = figures_beside_the_page()
    drawn_from = next(verdicts.measure(figures["replications"], figures["seed"]))
    assert {name: figures[name] for name in drawn_from} == drawn_from
    assert figures["published"] == list(verdicts.published())


def test_the_page_simulates_on_the_shipped_rows() -> None:
    """Catches rows, or a published value, that were shipped after the simulation."""
    check_population()


def test_twin_another_population_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were the rows of another corpus the population."""
    monkeypatch.setattr(verdicts, "DATASET", "service_manuals")
    with pytest.raises(AssertionError):
        check_population()


@pytest.mark.nightly
def test_looks_at_the_shipped_rows_save_what_the_page_says() -> None:
    """Catches verdicts, or savings, of rows that are no longer those shipped."""
    figures = figures_beside_the_page()
    assert figures["looked"] == pytest.approx(verdicts.saved(figures["seed"]))


def population() -> verdicts.Population:
    """150 clusters of two samples with a small part in common."""
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(size=150), 2)
    base = 2 + shared + rng.normal(size=300)
    columns = [base, base - 0.1 * shared - rng.normal(size=300), rng.normal(size=300)]
    return verdicts.Population.of(columns, [f"m{i // 2}" for i in range(300)])


def check_rates() -> None:
    """Rates near their nominal ones: 95 % covered, few false supports, few samples more than n."""
    own = population()
    rates = verdicts.covered(own, lambda b, c, _, k: analysis.effect_size(b - c, k), 200, 150, 0)
    assert 88 <= rates <= 99
    rng, shifted = np.random.default_rng(1), verdicts.with_d(own, 0.0)
    said = [verdicts.looked(shifted, helps(0.09), 200, 5, rng)[0] for _ in range(150)]
    assert said.count("supported") <= 12


def test_simulated_rates_are_near_their_nominal_ones() -> None:
    """Catches a population drawn sample by sample, or a truth that is not the population's."""
    check_rates()


def test_twin_narrow_intervals_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were intervals of 60 % taken for those of 95 %."""
    right = analysis.effect_size

    def narrow(x: Any, clusters: Any, _settings: Any = None) -> Any:
        return right(x, clusters, IntervalSettings(0.6))

    monkeypatch.setattr(analysis, "effect_size", narrow)
    with pytest.raises(AssertionError):
        check_rates()
