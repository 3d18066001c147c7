"""Word overlap: does priming help because the prefix is about the passage?"""

from claims.harness.claims import GEMMA_4B, claims_about
from claims.harness.estimands.ranking import overlap_trend
from kvcore.verdict import helps, negligible

SOURCE = "priming project summary, semantic signal (first version)"
LEGACY = "legacy-mistral-overlap-r"


topic = claims_about("overlap", source=SOURCE, slow=True, also_at=(GEMMA_4B,))


@topic.claim(
    "a-semantic-signal-exists",
    version=2,
    predicts=helps(delta=0.017, effect=0.034, unit="r"),
    published=LEGACY,
)
def test_a_semantic_signal_exists(judge):
    """The more words query and passage share, the more the query gains on a random prefix."""
    judge(overlap_trend("random", "oracle"))


@topic.claim(
    "the-semantic-signal-is-tiny",
    predicts=negligible(delta=0.1, effect=0.034, unit="r"),
    published=LEGACY,
)
def test_the_semantic_signal_is_tiny(judge):
    """What the query gains on a random prefix has next to nothing to do with shared words."""
    judge(overlap_trend("random", "oracle"))


@topic.claim(
    "overlap-does-not-drive-the-benefit",
    predicts=negligible(delta=0.1, unit="r"),
    published="exp06-mistral-overlap-r",
)
def test_word_overlap_does_not_drive_the_benefit(judge):
    """What the real query gains on no prefix has next to nothing to do with shared words."""
    judge(overlap_trend("bare", "oracle"))
