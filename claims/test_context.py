"""Seeing the prefix: full context, copies, and questions behind the document.

The notes call these comparisons needed and never made them cleanly; nothing was published, so the
predictions are this project's own.
"""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import paired_benefit
from kvcore.verdict import does_not_help, helps, hurts, negligible

SOURCE = "lab notes: full context against truncation"
FIRST, LAST, NONE, ALL = (f"blocks(oracle,5,{see})" for see in ("first", "last", "none", "all"))


topic = claims_about("context", source=SOURCE, slow=True)


@topic.claim("seeing-the-query-twice-helps", predicts=helps(delta=0.09))
def test_seeing_the_prefix_helps(judge):
    """The real query as a prefix does better when it stays in sight than when it is dropped."""
    judge(paired_benefit("oracle", "full_context(oracle)"))


@topic.claim("repeating-the-query-does-not-help", predicts=does_not_help(delta=0.09))
def test_repeating_the_query_does_not_help(judge):
    """The real query five times over as a prefix does no better than once."""
    judge(paired_benefit("oracle", "repeat(oracle,5)"))


@topic.claim("all-copies-do-not-beat-one", predicts=does_not_help(delta=0.09))
def test_all_copies_are_no_better_than_one(judge):
    """Seeing all five copies of the query does no better than seeing the first."""
    judge(paired_benefit(FIRST, ALL))


@topic.claim("place-of-the-copy-does-not-matter", predicts=negligible(delta=0.09))
def test_the_place_of_the_copy_does_not_matter(judge):
    """Seeing the first copy of the query or the last makes no difference."""
    judge(paired_benefit(FIRST, LAST))


@topic.claim("seeing-the-copies-hurts", predicts=hurts(delta=0.09))
def test_seeing_the_copies_hurts(judge):
    """Five copies of the query do worse in sight than out of sight."""
    judge(paired_benefit(NONE, ALL))


@topic.claim("a-question-behind-the-document-helps", predicts=helps(delta=0.09))
def test_a_question_behind_the_document_helps(judge):
    """The real query behind the document makes the answer easier than the separator alone."""
    judge(paired_benefit("separator", "suffix(oracle)"))


@topic.claim(
    "oracle-does-not-beat-random",
    source="priming project summary (first version); did not replicate",
    predicts=does_not_help(delta=0.09, effect=-0.051),
    slow=False,
)
def test_the_truncated_query_does_not_beat_a_random_prefix(judge):
    """The real query as a prefix does no better than random tokens (an early claim it did)."""
    judge(paired_benefit("random", "oracle"))
