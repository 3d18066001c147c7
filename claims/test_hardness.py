"""Hardness: do harder samples gain more, once the arithmetic coupling is taken out?

Benefit contains bare NLL, so the published correlation is positive without any effect. It is
shown in each block; judged are Oldham's correlation and two hardnesses measured elsewhere.
"""

from claims.harness.claims import LONG_PAGES, claims_about
from claims.harness.estimands.paired import (
    benefit_in_quartile,
    odd_even_benefit_in_quartile,
    odd_even_trend,
    oldham_trend,
    trend_with_hardness,
    trend_with_hardness_by_length,
)
from kvcore.verdict import helps, hurts

SOURCE = "priming notebook, experiment 01: hardness"
QUARTER = 25  # of at least 100 samples
LEGACY = "legacy-mistral-r-with-bare-nll"
# By Oldham's formula from the published SDs; what was published itself is coupled by arithmetic.
RANDOM_GROWS = helps(delta=0.047, effect=0.094, unit="r")
ORACLE_GROWS = helps(delta=0.02, effect=0.040, unit="r")


def quarters(condition: str) -> tuple[str, ...]:
    """Return the ids of what was published for a condition by quarters of bare NLL."""
    names = (condition, "bare-nll")
    return tuple(f"exp01-mistral-quarter-{n}-{name}" for n in (1, 2, 3, 4) for name in names)


topic = claims_about("hardness", source=SOURCE)


@topic.claim(
    "random-gains-with-hardness",
    version=2,
    predicts=RANDOM_GROWS,
    published=LEGACY,
    beside=quarters("random"),
)
def test_harder_samples_gain_more_from_a_random_prefix(judge):
    """Answers that are hard without the document gain more from a random prefix."""
    judge(trend_with_hardness("bare", "random", "bos_only"))


@topic.claim(
    "oracle-gains-with-hardness",
    version=2,
    predicts=ORACLE_GROWS,
    published=LEGACY,
    beside=quarters("oracle"),
)
def test_harder_samples_gain_more_from_the_real_query(judge):
    """Answers that are hard without the document gain more from the real query as prefix."""
    judge(trend_with_hardness("bare", "oracle", "bos_only"))


@topic.claim(
    "random-gains-with-hardness-oldham",
    version=2,
    predicts=RANDOM_GROWS,
    published="exp01-mistral-random-r-with-bare-nll",
    beside=quarters("random"),
)
def test_harder_samples_gain_more_from_a_random_prefix_by_oldham(judge):
    """Harder samples gain more from a random prefix, by Oldham's correlation."""
    judge(oldham_trend("bare", "random"))


@topic.claim(
    "oracle-gains-with-hardness-oldham",
    version=2,
    predicts=ORACLE_GROWS,
    published="exp01-mistral-oracle-r-with-bare-nll",
    beside=quarters("oracle"),
)
def test_harder_samples_gain_more_from_the_real_query_by_oldham(judge):
    """Harder samples gain more from the real query as prefix, by Oldham's correlation."""
    judge(oldham_trend("bare", "oracle"))


@topic.claim("random-gains-with-hardness-odd-even", version=2, predicts=RANDOM_GROWS)
def test_harder_answers_gain_more_from_a_random_prefix_by_odd_tokens(judge):
    """Where the odd answer tokens are hard, the even ones gain more from a random prefix."""
    judge(odd_even_trend("bare", "random"))


@topic.claim("oracle-gains-with-hardness-odd-even", version=2, predicts=ORACLE_GROWS)
def test_harder_answers_gain_more_from_the_real_query_by_odd_tokens(judge):
    """Where the odd answer tokens are hard, the even ones gain more from the real query."""
    judge(odd_even_trend("bare", "oracle"))


@topic.claim(
    "oracle-hurts-the-easy-quarter",
    min_n=QUARTER,
    predicts=hurts(delta=0.09, effect=-0.195),
    published="exp01-mistral-quarter-1-oracle",
    beside=quarters("oracle"),
)
def test_the_real_query_hurts_the_easy_quarter(judge):
    """The real query hurts the quarter of answers that is easiest without the document."""
    judge(benefit_in_quartile("bare", "oracle", "bos_only", quartile=1))


@topic.claim(
    "oracle-helps-the-hard-quarter",
    min_n=QUARTER,
    version=2,
    predicts=helps(delta=0.06, effect=0.121),
    published="exp01-mistral-quarter-4-oracle",
    beside=quarters("oracle"),
)
def test_the_real_query_helps_the_hard_quarter(judge):
    """The real query helps the quarter of answers that is hardest without the document."""
    judge(benefit_in_quartile("bare", "oracle", "bos_only", quartile=4))


@topic.claim(
    "oracle-hurts-the-easy-quarter-odd-even",
    min_n=QUARTER,
    predicts=hurts(delta=0.09, effect=-0.195),
)
def test_the_real_query_hurts_the_easy_quarter_by_odd_tokens(judge):
    """Where the odd answer tokens are easiest, the real query hurts the even ones."""
    judge(odd_even_benefit_in_quartile("bare", "oracle", quartile=1))


@topic.claim(
    "oracle-helps-the-hard-quarter-odd-even",
    min_n=QUARTER,
    version=2,
    predicts=helps(delta=0.06, effect=0.121),
)
def test_the_real_query_helps_the_hard_quarter_by_odd_tokens(judge):
    """Where the odd answer tokens are hardest, the real query helps the even ones."""
    judge(odd_even_benefit_in_quartile("bare", "oracle", quartile=4))


@topic.claim(
    "static-prefix-helps-the-hard-quarter",
    min_n=QUARTER,
    slow=True,
    source="priming project summary, datasets (first version)",
    predicts=helps(delta=0.09, effect=0.19),
    published="legacy-mistral-hard-samples-static-fact",
)
def test_a_static_question_helps_the_hard_quarter(judge):
    """A fixed question helps the quarter of answers that is hardest without the document."""
    judge(benefit_in_quartile("bare", "static_fact", "bos_only", quartile=4))


def only_long_pages(cell):
    """The finding is one about long documents."""
    return "" if cell.dataset == LONG_PAGES[1] else f"the claim is about {LONG_PAGES[1]}"


@topic.claim(
    "hardness-is-inverted-on-long-pages",
    source="priming project summary (first version): inverted on some datasets",
    slow=True,
    applies=only_long_pages,
    predicts=hurts(delta=0.05, unit="r"),
    also_at=(LONG_PAGES,),
)
def test_harder_samples_gain_less_on_long_pages(judge):
    """On long pages answers that are hard without the document gain less from a static prefix."""
    judge(trend_with_hardness_by_length("bare", "static_fact", "bos_only", bins=3))
