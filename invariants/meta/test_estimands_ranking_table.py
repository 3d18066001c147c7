"""The ranking table: its cells are those of the claims about single conditions, and it adds up."""

from __future__ import annotations

import numpy as np
import pytest

from claims.harness.estimands import ranking_table as estimands
from claims.harness.estimands.base import Derived
from claims.harness.estimands.ranking import auc, score_table, scored
from claims.harness.rows import Rows
from invariants.support.comparing import must_see
from invariants.support.estimand_rows import computed, random_list_rows
from kvcore.analysis import ranking
from kvcore.errors import KvError

WITHOUT = random_list_rows(0.0, 9, "bos_only@lists")
LINES = (
    random_list_rows(2.0, 1),
    random_list_rows(0.5, 1, "qvi(0.5)@lists"),
    random_list_rows(0.1, 2, "bare@lists.qdoc"),
)


def areas() -> list[float]:
    """Return the AUC of PMI of every line."""
    return [ranking.auc(score_table(rows, WITHOUT)) for rows in LINES]


def scores(*rows: Rows) -> list[Derived]:
    """Return lines of a table as a claim spells them."""
    return [estimands.both_scores(each, WITHOUT) for each in rows]


def check_sums() -> None:
    """Demand the differences of means, computed from AUCs one by one."""
    bare, primed, other = areas()
    first = computed(estimands.others_against_first, *scores(*LINES[:2]))
    assert first.estimate.value == pytest.approx(primed - bare, abs=1e-12)
    assert first.estimate.ci_high < 0
    targets = computed(estimands.answer_against_other_targets, *scores(*LINES))
    assert targets.estimate.value == pytest.approx((bare + primed) / 2 - other, abs=1e-12)
    assert targets.estimate.ci_low > 0


def test_what_the_table_adds_up_to_is_a_difference_of_mean_aucs() -> None:
    """Weights of the wrong sign or size; a target taken for another."""
    check_sums()

    def unweighted(patch: pytest.MonkeyPatch) -> None:
        right = ranking.contrast
        patch.setattr(ranking, "contrast", lambda tables, w, **more: right(tables[::-1], w, **more))

    must_see(unweighted, check_sums)


def check_cells() -> None:
    """Demand of each line the AUC that its own claim has, with its interval, in both places."""
    table = computed(estimands.answer_against_other_targets, *scores(*LINES))
    for rows, name in zip(LINES, ("bare, answer", "qvi(0.5), answer", "bare, qdoc"), strict=True):
        alone = computed(auc, rows, WITHOUT).estimate
        assert table.details[f"AUC of PMI, {name}"] == pytest.approx(alone.value, abs=1e-12)
        assert table.details[f"AUC of PMI, {name}, CI low"] == pytest.approx(alone.ci_low)
        raw = ranking.value(score_table(rows), "d")
        assert table.details[f"d of -NLL, {name}"] == pytest.approx(raw, abs=1e-12)
        (line,) = (r for r in table.plot["rows"] if ", ".join(r[:2]) == name)
        assert f"{alone.value:.3f} [{alone.ci_low:.3f}, {alone.ci_high:.3f}]" in line


def test_every_line_of_the_table_is_what_its_own_claim_says() -> None:
    """A line under another condition's name, PMI exchanged with NLL, or the wrong interval."""
    check_cells()

    def exchanged(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            "claims.harness.estimands.ranking_table.score_table",
            lambda rows, without=None: score_table(rows, None if without else WITHOUT),
        )

    must_see(exchanged, check_cells)


def test_relevant_passages_lie_apart_in_sds_of_the_score() -> None:
    """A d of the wrong sign, or not in the pooled SD of both groups."""
    table = score_table(LINES[0])
    relevant, other = (table["score"][table["relevant"] == own].to_numpy() for own in (1, 0))
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in (relevant, other))
    expected = (relevant.mean() - other.mean()) / np.sqrt(squares / (len(table) - 2))
    outcome = computed(estimands.d_of_scores, scored(LINES[0]))
    assert outcome.estimate.value == pytest.approx(expected, abs=1e-12)
    assert outcome.estimate.unit == "d of groups"


def test_weights_that_do_not_compare_are_refused() -> None:
    """A sum that is no difference, or weights that are not those of the tables."""
    table = score_table(LINES[0])
    for weights in ([1.0, 1.0], [1.0]):
        with pytest.raises(KvError, match="weights must be one a table"):
            ranking.contrast([table, table], weights)
