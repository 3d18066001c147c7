"""Word overlap: does priming help because the prefix is about the passage?"""

from claims.cells import claim
from claims.harness.estimands.ranking import overlap_trend
from kvcore.verdict import Published, helps, negligible

SOURCE = "priming project summary, semantic signal (first version)"
LEGACY = Published(0.034, None, "nll_tail", legacy=True, text="r 0.034 (legacy)")


@claim("a-semantic-signal-exists", family="overlap", source=SOURCE, slow=True,
       needs=("random", "oracle"), predicts=helps(delta=0.034, effect=0.034, unit="r"),
       published=LEGACY)
def test_a_semantic_signal_exists(rows, judge):
    """The more words query and passage share, the more the query gains on a random prefix."""
    judge(overlap_trend(rows("random"), rows("oracle")))


@claim("the-semantic-signal-is-tiny", family="overlap", source=SOURCE, slow=True,
       needs=("random", "oracle"), predicts=negligible(delta=0.1, effect=0.034, unit="r"),
       published=LEGACY)
def test_the_semantic_signal_is_tiny(rows, judge):
    """What the query gains on a random prefix has next to nothing to do with shared words."""
    judge(overlap_trend(rows("random"), rows("oracle")))


@claim("overlap-does-not-drive-the-benefit", family="overlap", source=SOURCE, slow=True,
       needs=("bare", "oracle"), predicts=negligible(delta=0.1, unit="r"))
def test_word_overlap_does_not_drive_the_benefit(rows, judge):
    """What the real query gains on no prefix has next to nothing to do with shared words."""
    judge(overlap_trend(rows("bare"), rows("oracle")))
