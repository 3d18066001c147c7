"""Seeing the prefix: full context, copies, and questions behind the document.

The notes call these comparisons needed and never made them cleanly; nothing was published, so the
predictions are this project's own.
"""

from claims.cells import claim
from claims.harness.estimands.paired import paired_benefit
from kvcore.verdict import does_not_help, helps, hurts, negligible

SOURCE = "lab notes: full context against truncation"
FIRST, LAST, NONE, ALL = (f"blocks(oracle,5,{see})" for see in ("first", "last", "none", "all"))


@claim("seeing-the-query-twice-helps", family="context", source=SOURCE, slow=True,
       needs=("oracle", "full_context(oracle)"), predicts=helps(delta=0.09))
def test_seeing_the_prefix_helps(rows, judge):
    """The real query as a prefix does better when it stays in sight than when it is dropped."""
    judge(paired_benefit(rows("oracle"), rows("full_context(oracle)")))


@claim("repeating-the-query-does-not-help", family="context", source=SOURCE, slow=True,
       needs=("oracle", "repeat(oracle,5)"), predicts=does_not_help(delta=0.09))
def test_repeating_the_query_does_not_help(rows, judge):
    """The real query five times over as a prefix does no better than once."""
    judge(paired_benefit(rows("oracle"), rows("repeat(oracle,5)")))


@claim("all-copies-do-not-beat-one", family="context", source=SOURCE, slow=True,
       needs=(FIRST, ALL), predicts=does_not_help(delta=0.09))
def test_all_copies_are_no_better_than_one(rows, judge):
    """Seeing all five copies of the query does no better than seeing the first."""
    judge(paired_benefit(rows(FIRST), rows(ALL)))


@claim("place-of-the-copy-does-not-matter", family="context", source=SOURCE, slow=True,
       needs=(FIRST, LAST), predicts=negligible(delta=0.09))
def test_the_place_of_the_copy_does_not_matter(rows, judge):
    """Seeing the first copy of the query or the last makes no difference."""
    judge(paired_benefit(rows(FIRST), rows(LAST)))


@claim("seeing-the-copies-hurts", family="context", source=SOURCE, slow=True,
       needs=(NONE, ALL), predicts=hurts(delta=0.09))
def test_seeing_the_copies_hurts(rows, judge):
    """Five copies of the query do worse in sight than out of sight."""
    judge(paired_benefit(rows(NONE), rows(ALL)))


@claim("a-question-behind-the-document-helps", family="context", source=SOURCE, slow=True,
       needs=("separator", "suffix(oracle)"), predicts=helps(delta=0.09))
def test_a_question_behind_the_document_helps(rows, judge):
    """The real query behind the document makes the answer easier than the separator alone."""
    judge(paired_benefit(rows("separator"), rows("suffix(oracle)")))


@claim("oracle-does-not-beat-random", family="context",
       source="priming project summary (first version); did not replicate",
       needs=("random", "oracle"), predicts=does_not_help(delta=0.09, effect=-0.051))
def test_the_truncated_query_does_not_beat_a_random_prefix(rows, judge):
    """The real query as a prefix does no better than random tokens (an early claim it did)."""
    judge(paired_benefit(rows("random"), rows("oracle")))
