"""Choices: how much does a conclusion hang on wording, seed and score?

Each claim is judged by the smallest effect over all ways of measuring it: supported where every
way's interval is above 0, refuted where some way's is below the margin even when corrected for
having looked at all of them. The figure shows every way.
"""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import least_favourable
from kvcore.verdict import helps

WAYS = {
    "as judged": "",
    "Question/Answer wording": "@samples.answer_question",
    "no wording": "@samples.answer_plain",
    "next seed": "@seed1",
    "seed after": "@seed2",
}
EVERY_WAY = "Whatever the wording, seed and score, "
CASES = {
    ("bare", "random"): ("random-prefix-helps", "a random prefix helps."),
    ("bare", "static_fact"): ("static-prefix-helps", "a fixed question helps."),
    ("bare", "oracle"): ("oracle-helps", "the real query as a prefix helps."),
    ("oracle", "random"): ("oracle-worse-than-random", "random tokens beat the real query."),
}


topic = claims_about(
    "choices",
    source="own control: analytical choices",
    slow=True,
    metrics=("nll",),
    version=2,
)


@topic.claim_for_each(
    "pair",
    {
        pair: {"claim_id": f"{name}-however-measured", "statement": EVERY_WAY + statement}
        for pair, (name, statement) in CASES.items()
    },
    predicts=helps(delta=0.09),
)
def test_the_effect_is_there_however_it_is_measured(judge, pair):
    """See the statements above."""
    ways = {label: tuple(name + way for name in pair) for label, way in WAYS.items()}
    judge(least_favourable(ways))
