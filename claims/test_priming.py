"""Priming: what a prefix does that is read before the document and dropped again."""

from claims.cells import claim
from claims.estimands import benefit_without_first_token, paired_benefit
from kvcore.verdict import Published, does_not_help, helps, hurts, negligible

SOURCE = "priming notebook, experiment 01"


@claim("random-prefix-helps", family="priming", source=SOURCE, needs=("bare", "random"),
       predicts=helps(delta=0.09, effect=0.091),
       published=Published(0.091, 2303, "nll_tail", text="d +0.091, win 59.5 %, p 1.3e-5"))
def test_a_random_prefix_helps(rows, judge):
    """A random prefix, read before the document and dropped again, makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("random")))


@claim("oracle-does-not-help", family="priming", source=SOURCE, needs=("bare", "oracle"),
       predicts=does_not_help(delta=0.09, effect=0.023),
       published=Published(0.023, 2303, "nll_tail", text="d +0.023, win 50.0 %, p 0.263"))
def test_the_real_query_does_not_help(rows, judge):
    """Having read the real query before the document makes the answer no easier."""
    judge(paired_benefit(rows("bare"), rows("oracle")))


@claim("oracle-worse-than-random", family="priming", source=SOURCE, needs=("random", "oracle"),
       predicts=hurts(delta=0.09, effect=-0.051),
       published=Published(-0.051, 2303, "nll_tail", text="d -0.051, win 44.9 %, p 0.0154"))
def test_the_real_query_is_worse_than_a_random_prefix(rows, judge):
    """The real query as a prefix does worse than random tokens of the same length."""
    judge(paired_benefit(rows("random"), rows("oracle")))


@claim("first-token-does-not-matter", family="priming", source="scoring note of the notebook",
       needs=("random", "oracle"), metrics=("nll",),
       predicts=negligible(delta=0.09, unit="d difference"))
def test_leaving_out_the_first_answer_token_changes_nothing(rows, judge):
    """Leaving out the first answer token does not change how the query compares with random."""
    judge(benefit_without_first_token(rows("random"), rows("oracle")))


@claim("framing-hurts", family="priming", source="priming project summary (first version)",
       needs=("bare", "framed"), predicts=hurts(delta=0.09, effect=-0.45),
       published=Published(-0.45, None, "nll_tail", legacy=True, text="d -0.45 (legacy)"))
def test_framing_the_passage_hurts(rows, judge):
    """Writing "Document:" before the passage makes the answer harder."""
    judge(paired_benefit(rows("bare"), rows("framed")))
