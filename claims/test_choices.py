"""Choices: how much does a conclusion hang on wording, seed, score and sample size?

Each claim is judged where it is measured least favourably; the figure shows every way.
"""

from claims.cells import claim
from claims.harness.estimands.paired import least_favourable
from kvcore.verdict import helps

SOURCE = "own control: analytical choices"
WAYS = {"as judged": "", "Question/Answer wording": "@samples.answer_question",
        "no wording": "@samples.answer_plain", "next seed": "@seed1", "seed after": "@seed2"}
LIMITS = (50, 100, 200)


def ways(*conditions: str) -> tuple[str, ...]:
    """Name conditions under every way of measuring."""
    return tuple(condition + way for way in WAYS.values() for condition in conditions)


def measured(rows, baseline, condition):
    """Return the pair of rows under every way of measuring."""
    return {label: (rows(baseline + way), rows(condition + way)) for label, way in WAYS.items()}


@claim("random-prefix-helps-however-measured", family="choices", source=SOURCE, slow=True,
       needs=ways("bare", "random"), metrics=("nll",), min_n=40, predicts=helps(delta=0.09))
def test_a_random_prefix_helps_however_it_is_measured(rows, judge):
    """Whatever the wording, seed, score and sample size, a random prefix helps."""
    judge(least_favourable(measured(rows, "bare", "random"), LIMITS))


@claim("static-prefix-helps-however-measured", family="choices", source=SOURCE, slow=True,
       needs=ways("bare", "static_fact"), metrics=("nll",), min_n=40, predicts=helps(delta=0.09))
def test_a_static_question_helps_however_it_is_measured(rows, judge):
    """Whatever the wording, seed, score and sample size, a fixed question helps."""
    judge(least_favourable(measured(rows, "bare", "static_fact"), LIMITS))


@claim("oracle-helps-however-measured", family="choices", source=SOURCE, slow=True,
       needs=ways("bare", "oracle"), metrics=("nll",), min_n=40, predicts=helps(delta=0.09))
def test_the_real_query_helps_however_it_is_measured(rows, judge):
    """Whatever the wording, seed, score and sample size, the real query as a prefix helps."""
    judge(least_favourable(measured(rows, "bare", "oracle"), LIMITS))


@claim("oracle-worse-than-random-however-measured", family="choices", source=SOURCE, slow=True,
       needs=ways("random", "oracle"), metrics=("nll",), min_n=40, predicts=helps(delta=0.09))
def test_a_random_prefix_beats_the_query_however_it_is_measured(rows, judge):
    """Whatever the wording, seed, score and sample size, random tokens beat the real query."""
    judge(least_favourable(measured(rows, "oracle", "random"), LIMITS))
