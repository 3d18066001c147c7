"""Estimands of rankings have the sign that claims rest on."""

from __future__ import annotations

import numpy as np
import pytest

from claims.harness.estimands import ranking as estimands
from invariants.support.comparing import must_see
from invariants.support.estimand_rows import computed, list_rows, random_list_rows
from kvcore.analysis import ranking


def test_the_lower_the_nll_the_higher_the_rank() -> None:
    """A score of the wrong sign, or a passage taken for another query's."""
    table = estimands.score_table(list_rows({"a": [1.0, 2.0, 3.0], "b": [5.0, 4.0]}))
    assert table["relevant"].tolist() == [True, False, False, True, False]
    assert ranking.value(table, "mrr") == pytest.approx((1 + 1 / 2) / 2)


def check_pmi() -> None:
    bare, without = random_list_rows(1.0, 0), random_list_rows(0.0, 0, "bos_only@lists")
    table = estimands.score_table(bare, without)
    assert np.allclose(table["score"], without.values - bare.values)
    assert ranking.auc(table) == 1.0  # every relevant passage gains 1 nat, no other gains any


def test_pmi_is_the_nll_without_the_document_less_the_nll_with_it() -> None:
    """PMI of the wrong sign; the twin turns it round."""
    check_pmi()

    def turned(patch: pytest.MonkeyPatch) -> None:
        right = ranking.pmi
        patch.setattr(ranking, "pmi", lambda a, b: right(b, a))

    must_see(turned, check_pmi)


def test_a_better_score_changes_the_auc_upwards() -> None:
    """A change taken first less second, or wins counted for the wrong score."""
    worse, better = random_list_rows(0.2, 1), random_list_rows(2.0, 1, "p@lists")
    tables = estimands.scored(worse), estimands.scored(better)
    up = computed(estimands.auc_change, *tables)
    assert up.estimate.ci_low > 0
    assert computed(estimands.auc_change, *tables[::-1]).estimate.ci_high < 0
    wins = up.plot["figures"][1]
    assert wins["wins"] > wins["losses"]
    assert wins["wins"] + wins["ties"] + wins["losses"] == len(wins["differences"]) == 40
    assert computed(estimands.mrr_change, *tables).estimate.ci_low > 0


def test_a_falling_auc_has_a_negative_slope() -> None:
    """A slope that is not least squares over the AUCs, or of the wrong sign."""
    sources = {a: random_list_rows(2 - 3 * a, 2) for a in (0.0, 0.25, 0.5)}
    without = random_list_rows(0.0, 5, "bos_only@lists")
    tables = {a: estimands.score_table(rows, without) for a, rows in sources.items()}
    outcome = computed(estimands.auc_over, sources, without)
    assert outcome.estimate.ci_high < 0
    line = np.polyfit(list(tables), [ranking.auc(t) for t in tables.values()], 1)
    assert outcome.estimate.value == pytest.approx(line[0], abs=1e-12)


def test_a_benefit_for_relevant_passages_alone_is_seen() -> None:
    """Groups exchanged, or a benefit for all taken for one of the relevant passages."""
    bare = random_list_rows(1.0, 3)
    both, relevant = random_list_rows(1.0, 3, add=-0.5), random_list_rows(1.5, 3)
    alike = computed(estimands.relevant_against_not, bare, both)
    apart = computed(estimands.relevant_against_not, bare, relevant)
    assert alike.details["difference (nats/token)"] == pytest.approx(0, abs=1e-9)
    assert apart.details["difference (nats/token)"] == pytest.approx(0.5, abs=1e-9)
    assert apart.estimate.unit == "d of groups"
