"""Divergence: does priming move the next-token distribution, and is its interval to be trusted?

Jensen-Shannon divergence of the distribution behind the question, in nats, against two nulls:
the same condition in other batches, and keys turned forth and back. `kl` is Kullback-Leibler's.
"""

from claims.harness.claims import claims_about
from claims.harness.estimands.divergence import (
    DRAWS,
    beyond_the_null,
    difference_of_divergence,
    intervals_that_hold_their_mean,
    mean_divergence,
    ratio_of_widths,
    slope_of_widths,
)
from kvcore.verdict import at_least, differs, helps, negligible

SOURCE = "differential testing with a confidence interval"
NULLS = ("bare~bare_again", "bare~rope_roundtrip(random)")
NATS, BOTH = "nats/token", ("js", "kl")
# A thousandth of a nat: what a probability of one half becomes when it moves by two hundredths.
SMALLEST = 0.001


topic = claims_about(
    "divergence", kind="divergence", source=SOURCE, slow=True, metrics=BOTH, min_n=50
)


@topic.claim("a-random-prefix-moves-the-next-token", predicts=helps(delta=SMALLEST, unit=NATS))
def test_a_random_prefix_moves_the_next_token(judge):
    """A random prefix moves the next-token distribution further than measuring alone does."""
    judge(beyond_the_null("bare~random", *NULLS))


@topic.claim("the-query-moves-the-next-token", predicts=helps(delta=SMALLEST, unit=NATS))
def test_the_real_query_moves_the_next_token(judge):
    """The real query as a prefix moves it further than measuring alone does."""
    judge(beyond_the_null("bare~oracle", *NULLS))


@topic.claim("random-and-oracle-move-it-unequally", predicts=differs(delta=SMALLEST, unit=NATS))
def test_random_and_oracle_move_it_by_different_amounts(judge):
    """Random tokens and the real query move the distribution by different amounts."""
    judge(difference_of_divergence("bare~random", "bare~oracle"))


@topic.claim("a-view-does-not-diverge-from-itself", predicts=negligible(delta=1e-12, unit=NATS))
def test_a_view_does_not_diverge_from_itself(judge):
    """A view against itself has divergence 0, with an interval of no width."""
    judge(mean_divergence("bare~bare"))


@topic.claim(
    "intervals-hold-their-mean",
    metrics=("js",),
    min_n=64,
    version=2,
    predicts=at_least(0.9, effect=0.95, unit="proportion"),
)
def test_intervals_hold_their_mean(judge):
    """Of 32 samples, the interval of the mean divergence holds the mean of all of the cell."""
    judge(intervals_that_hold_their_mean("bare~random"))


@topic.claim(
    "more-samples-narrow-the-interval",
    metrics=("js",),
    min_n=DRAWS,  # n of a claim about widths is the number of draws
    predicts=at_least(1.5, effect=2.83, unit="ratio"),
)
def test_more_samples_narrow_the_interval(judge):
    """At 32 samples the interval is at most two thirds as wide as at 4, on average."""
    judge(ratio_of_widths("bare~random"))


@topic.claim(
    "widths-follow-the-square-root",
    metrics=("js",),
    min_n=DRAWS,
    version=2,
    predicts=negligible(delta=0.1, unit="log-log slope"),
)
def test_widths_fall_with_the_square_root_of_n(judge):
    """Over 4 to 256 samples the width falls as n to the power -1/2, give or take a tenth."""
    judge(slope_of_widths("bare~random"))
