"""The lab notes' other comparisons: further prefixes, what is read behind the document, and parts.

Each was published once, beside the comparisons that other topics are about. `static(cost)` and
`static(meaning)` are the notes' own wording of the questions about a quantity and a definition.
"""

import math

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import paired_benefit
from kvcore.verdict import does_not_help, helps, hurts

topic = claims_about("notes", source="lab notes", slow=True)
KEYWORD = "llm_surrogate(keyword)"
PAGE = 'literal("What is this page about?")'
DELTA = 0.09


def beyond(effect):
    """Predict the published direction, by the usual margin or half of a smaller effect."""
    direction = helps if effect > 0 else hurts
    return direction(delta=min(DELTA, math.floor(500 * abs(effect)) / 1000), effect=effect)


def no_benefit(effect):
    """Predict that there is no benefit of the usual margin."""
    return does_not_help(delta=DELTA, effect=effect)


def cases(*lines):
    """Return a case for each line: id, condition, prediction, published value, statement."""
    return {
        condition: {
            "claim_id": claim_id,
            "predicts": predicts,
            "published": published,
            "statement": statement,
        }
        for claim_id, condition, predicts, published, statement in lines
    }


PREFIXES = cases(
    (
        "static-cost-helps",
        "static(cost)",
        beyond(0.41),
        "exp07-mistral-static-quantity",
        "A fixed question about cost and duration makes the answer easier as a prefix.",
    ),
    (
        "static-page-helps",
        PAGE,
        beyond(0.342),
        "exp07-mistral-what-is-this-page-about",
        "The fixed question what the page is about makes the answer easier as a prefix.",
    ),
    (
        "static-meaning-helps",
        "static(meaning)",
        beyond(0.237),
        "exp07-mistral-static-definition",
        "A fixed question about meaning makes the answer easier as a prefix.",
    ),
    (
        "static-problem-helps",
        "static(problem)",
        beyond(0.215),
        "exp07-mistral-static-problem",
        "A fixed question about the problem solved makes the answer easier as a prefix.",
    ),
    (
        "static-procedure-helps",
        "static(procedure)",
        beyond(0.165),
        "exp07-mistral-static-procedure",
        "A fixed question about a procedure makes the answer easier as a prefix.",
    ),
    (
        "keywords-three-times-over-help",
        f"repeat({KEYWORD},3)",
        beyond(0.245),
        "exp08-mistral-repeat-keyword-3",
        "Keywords that the model writes, three times over, make the answer easier.",
    ),
    (
        "keywords-in-sight-help",
        f"full_context({KEYWORD})",
        beyond(0.11),
        "exp07-mistral-full-context-keyword",
        "Keywords that the model writes make the answer easier where the query sees them.",
    ),
)
BEHIND = cases(
    (
        "separator-helps",
        "separator",
        beyond(0.231),
        "exp07-mistral-separator",
        "A separator behind the document makes the answer easier.",
    ),
    (
        "static-cost-behind-helps",
        "suffix(static(cost))",
        beyond(0.335),
        "exp07-mistral-suffix-static-quantity",
        "A fixed question about cost and duration behind the document makes the answer easier.",
    ),
    (
        "static-problem-behind-helps",
        "suffix(static(problem))",
        beyond(0.245),
        "exp07-mistral-suffix-static-problem",
        "A fixed question about the problem solved behind the document makes the answer easier.",
    ),
    (
        "static-fact-behind-helps",
        "suffix(static_fact)",
        beyond(0.141),
        "exp07-mistral-suffix-static-fact",
        "The fixed question about key facts behind the document makes the answer easier.",
    ),
    (
        "keywords-behind-help",
        f"suffix({KEYWORD})",
        beyond(0.116),
        "exp07-mistral-suffix-keyword",
        "Keywords that the model writes, behind the document, make the answer easier.",
    ),
    (
        "static-meaning-behind-helps",
        "suffix(static(meaning))",
        beyond(0.057),
        "exp07-mistral-suffix-static-definition",
        "A fixed question about meaning behind the document makes the answer easier.",
    ),
    (
        "static-procedure-behind-hurts",
        "suffix(static(procedure))",
        beyond(-0.071),
        "exp07-mistral-suffix-static-procedure",
        "A fixed question about a procedure behind the document makes the answer harder.",
    ),
    (
        "random-behind-helps",
        "suffix(random)",
        beyond(0.294),
        "exp10-mistral-suffix-random",
        "Random tokens behind the document make the answer easier.",
    ),
)
PARTS = cases(
    (
        "values-primed-by-keywords-help",
        f"values_only({KEYWORD})",
        beyond(0.275),
        "exp08-mistral-values-only-keyword",
        "Values primed by keywords that the model writes make the answer easier.",
    ),
    (
        "values-primed-by-the-query-help",
        "values_only(oracle)",
        beyond(0.309),
        "exp09-mistral-values-only-oracle",
        "Values primed by the real query make the answer easier.",
    ),
    (
        "values-primed-by-random-tokens-help",
        "values_only(random)",
        beyond(0.31),
        "exp09-mistral-values-only-random",
        "Values primed by random tokens make the answer easier.",
    ),
    (
        "early-values-primed-by-random-tokens-help",
        "values_early_layers(random,0.47)",
        beyond(0.095),
        "exp24-gemma-early-layers-random-16",
        "Values primed by random tokens in the lower half of the layers make the answer easier.",
    ),
    (
        "early-values-primed-by-the-query-help",
        "values_early_layers(oracle,0.47)",
        beyond(0.23),
        "exp24-gemma-early-layers-oracle-16",
        "Values primed by the real query in the lower half of the layers make the answer easier.",
    ),
    *(
        (
            f"{name}-of-primed-values-help",
            f"interp({KEYWORD},{share})",
            beyond(effect),
            f"exp09-mistral-interp-keyword-{round(100 * share)}",
            f"{words} of the values primed by written keywords make the answer easier.",
        )
        for name, words, share, effect in (
            ("a-quarter", "A quarter", 0.25, 0.236),
            ("half", "Half", 0.5, 0.244),
            ("three-quarters", "Three quarters", 0.75, 0.262),
        )
    ),
)
LONG = cases(
    *(
        (
            f"static-prefix-{words}-does-not-help-on-long-pages",
            f"repeat(static_fact,{times})",
            no_benefit(effect),
            f"exp12-mistral-repeat-static-fact-{times}-nq",
            f"On long pages a static prefix {times} times over makes the answer no easier.",
        )
        for words, times, effect in (("five-times", 5, -0.017), ("twenty-times", 20, -0.026))
    ),
    (
        "early-values-do-not-help-on-long-pages",
        "values_early_layers(static_fact,0.5)",
        no_benefit(0.083),
        "exp12-mistral-early-layers-static-fact-50-nq",
        "On long pages primed values in the lower half of the layers make the answer no easier.",
    ),
    (
        "static-fact-behind-hurts-on-long-pages",
        "suffix(static_fact)",
        beyond(-0.196),
        "exp12-mistral-suffix-static-fact-nq",
        "On long pages the fixed question about key facts behind the page makes it harder.",
    ),
)


def long_pages(cell):
    """Leave out data without long pages."""
    own = cell.dataset == "natural_questions"
    return "" if own else "the claim is about long pages (natural_questions)"


@topic.claim_for_each("condition", PREFIXES, source="lab notes, experiments 07 and 08")
def test_further_prefixes(judge, condition):
    """{condition} makes the answer easier."""
    judge(paired_benefit("bare", condition))


@topic.claim_for_each("condition", BEHIND, source="lab notes, experiments 07 and 10")
def test_what_is_read_behind_the_document(judge, condition):
    """{condition} changes the answer's NLL."""
    judge(paired_benefit("bare", condition))


@topic.claim_for_each("condition", PARTS, source="lab notes, experiments 08, 09 and 24")
def test_parts_of_primed_values(judge, condition):
    """{condition} makes the answer easier."""
    judge(paired_benefit("bare", condition))


@topic.claim_for_each("condition", LONG, source="lab notes, experiment 12", applies=long_pages)
def test_what_does_not_help_on_long_pages(judge, condition):
    """{condition} does not make the answer easier on long pages."""
    judge(paired_benefit("bare", condition))


@topic.claim(
    "keywords-do-as-well-as-a-question",
    source="lab notes, experiment 06",
    predicts=does_not_help(delta=DELTA, effect=-0.018),
    published="exp06-mistral-keyword-against-question",
)
def test_keywords_do_no_better_than_a_question(judge):
    """Keywords that the model writes do no better as a prefix than a question that it writes."""
    judge(paired_benefit("llm_surrogate(question)", KEYWORD))


@topic.claim(
    "keywords-beat-random",
    source="lab notes, experiment 06",
    predicts=beyond(0.099),
    published="exp06-mistral-keyword-against-random",
)
def test_keywords_beat_random_tokens(judge):
    """Keywords that the model writes do better as a prefix than random tokens."""
    judge(paired_benefit("random", KEYWORD))


@topic.claim(
    "values-of-early-positions-do-worse-than-all",
    source="lab notes, experiment 19",
    predicts=beyond(-0.124),
    published="exp19-gemma-early-positions-static-fact-25-against-values-only-static-fact",
)
def test_values_of_the_first_positions_do_worse_than_all(judge):
    """Primed values on the first quarter of the document do worse than on all of it."""
    judge(paired_benefit("values_only(static_fact)", "values_early_positions(static_fact,0.25)"))
