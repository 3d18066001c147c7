"""Priming: what a prefix does that is read before the document and dropped again."""

from claims.harness.claims import (
    GEMMA_PASSAGES,
    LONG_PAGES,
    MANUALS,
    MANUALS_OF_ALL,
    Instead,
    claims_about,
)
from claims.harness.estimands.paired import benefit_without_first_token, mean_of, paired_benefit
from kvcore.verdict import does_not_help, helps, hurts, negligible

SOURCE = "priming notebook, experiment 01"


def levels(*conditions: str) -> tuple[str, ...]:
    """Return the ids of what was published of the NLL of some conditions."""
    names = ("mean-nll", "sd-of-nll", "median-nll")
    return tuple(f"exp01-mistral-{name}-{c}" for c in conditions for name in names)


topic = claims_about("priming", source=SOURCE, also_stored_at=MANUALS_OF_ALL)


@topic.claim(
    "random-prefix-helps",
    version=2,
    predicts=helps(delta=0.045, effect=0.091),
    published=("exp01-mistral-random", "exp16-gemma-random", "exp11-mistral-random-nq"),
    beside=levels("bare", "random"),
    instead={
        GEMMA_PASSAGES: Instead(
            hurts(delta=0.054, effect=-0.109),
            "With random tokens of each query's length shown beside it, one unrelated sentence, "
            "read before every passage and dropped again, makes the answer harder.",
        ),
        LONG_PAGES: Instead(
            does_not_help(delta=0.09, effect=-0.034),
            "On long pages a random prefix, read before them and dropped again, makes the answer "
            "no easier.",
        ),
    },
)
def test_a_random_prefix_helps(judge, cell):
    """A random prefix, read before the document and dropped again, makes the answer easier."""
    if (cell.model, cell.dataset) == GEMMA_PASSAGES:
        judge(paired_benefit("bare", "unrelated", "random"))
    else:
        judge(paired_benefit("bare", "random"))


@topic.claim(
    "oracle-does-not-help",
    predicts=does_not_help(delta=0.09, effect=0.023),
    published=("exp01-mistral-oracle", "exp16-gemma-oracle", "exp11-mistral-oracle-nq"),
    beside=levels("bare", "oracle"),
)
def test_the_real_query_does_not_help(judge):
    """Having read the real query before the document makes the answer no easier."""
    judge(paired_benefit("bare", "oracle"))


@topic.claim(
    "oracle-worse-than-random",
    version=2,
    predicts=hurts(delta=0.025, effect=-0.051),
    published="exp01-mistral-oracle-against-random",
    beside=levels("random", "oracle"),
)
def test_the_real_query_is_worse_than_a_random_prefix(judge):
    """The real query as a prefix does worse than random tokens of the same length."""
    judge(paired_benefit("random", "oracle"))


@topic.claim(
    "first-token-does-not-matter",
    source="scoring note of the notebook",
    metrics=("nll",),
    predicts=negligible(delta=0.09, unit="d difference"),
)
def test_leaving_out_the_first_answer_token_changes_nothing(judge):
    """Leaving out the first answer token does not change how the query compares with random."""
    judge(benefit_without_first_token("random", "oracle"))


@topic.claim(
    "framing-hurts",
    source="priming project summary (first version)",
    predicts=hurts(delta=0.09, effect=-0.45),
    published="legacy-mistral-framed",
)
def test_framing_the_passage_hurts(judge):
    """Writing "Document:" before the passage makes the answer harder."""
    judge(paired_benefit("bare", "framed"))


@topic.claim(
    "priming-hurts-on-average",
    slow=True,
    source="priming project summary (first version), which measured it for the real query",
    version=2,
    predicts=hurts(delta=0.09),
)
def test_priming_hurts_on_average(judge):
    """Over a random prefix, the real query and a fixed question, priming makes answers harder."""
    judge(paired_benefit("bare", mean_of("random", "oracle", "static_fact")))


SURROGATES = "lab notes, experiment 06: LLM-written surrogates"
surrogates = claims_about("surrogates", source=SURROGATES, slow=True)


@surrogates.claim(
    "surrogate-keywords-help",
    version=2,
    predicts=helps(delta=0.09, effect=0.234),
    published=("exp06-mistral-keyword", "exp11-mistral-keyword-nq"),
    instead={
        LONG_PAGES: Instead(
            hurts(delta=0.06, effect=-0.120),
            "On long pages, keywords that the model itself writes make the answer harder as a "
            "prefix.",
        ),
    },
)
def test_written_keywords_help(judge):
    """Keywords that the model itself writes for the passage make the answer easier as a prefix."""
    judge(paired_benefit("bare", "llm_surrogate(keyword)"))


@surrogates.claim(
    "surrogate-question-helps",
    version=2,
    predicts=helps(delta=0.09, effect=0.200),
    published="exp06-mistral-question",
)
def test_a_written_question_helps(judge):
    """A question that the model itself writes for the passage makes the answer easier."""
    judge(paired_benefit("bare", "llm_surrogate(question)"))


@surrogates.claim(
    "surrogate-need-helps",
    version=2,
    predicts=helps(delta=0.09, effect=0.252),
    published="exp06-mistral-need",
)
def test_a_written_need_helps(judge):
    """A reader's need that the model itself writes for the passage makes the answer easier."""
    judge(paired_benefit("bare", "llm_surrogate(need)"))


@surrogates.claim(
    "repeated-surrogate-keywords-help",
    source="lab notes, experiment 08",
    predicts=helps(delta=0.09, effect=0.208),
    published="exp08-mistral-repeat-keyword-5",
)
def test_written_keywords_five_times_over_help(judge):
    """Keywords that the model itself writes, five times over, make the answer easier."""
    judge(paired_benefit("bare", "repeat(llm_surrogate(keyword),5)"))


@surrogates.claim(
    "surrogate-beats-random",
    predicts=helps(delta=0.09),
)
def test_a_written_question_beats_a_random_prefix(judge):
    """A question written for the passage does better as a prefix than random tokens."""
    judge(paired_benefit("random", "llm_surrogate(question)"))


@surrogates.claim(
    "past-queries-help",
    source="lab notes: the passage's nearest past query, five times over",
    predicts=helps(delta=0.09),
    also_at=tuple(("mistral-7b", name) for name in ("squad_v2", "narrativeqa")),  # have some
)
def test_past_queries_help(judge):
    """The nearest past query of the passage, five times over, makes the answer easier."""
    judge(paired_benefit("bare", "click_history(5)"))


WORDS = "lab notes, experiment 06: what of a surrogate matters"
PREFIXES = {
    ("bare", "keywords(query)"): {
        "claim_id": "keywords-of-the-query-help",
        "predicts": helps(delta=0.04, effect=0.098),
        "published": "exp06-mistral-oracle-as-keywords",
        "statement": "The content words of the query make the answer easier as a prefix.",
    },
    ("oracle", "keywords(query)"): {
        "claim_id": "keywords-of-the-query-beat-the-query",
        "predicts": helps(delta=0.04, effect=0.092),
        "published": "exp06-mistral-oracle-as-keywords-against-oracle",
        "statement": "The content words of the query do better as a prefix than the query.",
    },
    ("bare", "keywords(passage)"): {
        "claim_id": "keywords-of-the-passage-help",
        "predicts": helps(delta=0.05, effect=0.101),
        "published": "exp06-mistral-tf-idf-keywords-of-the-passage",
        "statement": "The passage's words of largest TF-IDF make the answer easier as a prefix.",
    },
    ("bare", "keywords(another)"): {
        "claim_id": "keywords-of-another-passage-help",
        "predicts": helps(delta=0.07, effect=0.142),
        "published": "exp06-mistral-keywords-of-another-passage",
        "statement": "Another passage's words of largest TF-IDF make the answer easier.",
    },
    ("bare", "first_sentence"): {
        "claim_id": "first-sentence-does-not-help",
        "predicts": does_not_help(delta=0.09, effect=0.007),
        "published": "exp06-mistral-first-sentence-of-the-passage",
        "statement": "The passage's own first sentence makes the answer no easier as a prefix.",
    },
    ("bare", "shuffled_surrogate(keyword)"): {
        "claim_id": "shuffled-keywords-help",
        "predicts": helps(delta=0.05, effect=0.115),
        "published": "exp06-mistral-keyword-words-shuffled",
        "statement": "Keywords that the model writes for the passage help also when shuffled.",
    },
    ("shuffled_surrogate(keyword)", "llm_surrogate(keyword)"): {
        "claim_id": "order-of-keywords-matters",
        "predicts": helps(delta=0.07, effect=0.15),
        "published": "exp06-mistral-keyword-against-shuffled-keywords",
        "statement": "Keywords that the model writes do better in their own order than shuffled.",
    },
    ("bare", "surrogate_of_another(keyword)"): {
        "claim_id": "keywords-written-for-another-passage-help",
        "source": "lab notes, experiment 10: what of a surrogate matters",
        "predicts": helps(delta=0.09, effect=0.239),
        "published": "exp10-mistral-keyword-of-another-passage",
        "statement": "Keywords that the model writes for another passage make the answer easier.",
    },
    ("bare", "with_separator(llm_surrogate(keyword))"): {
        "claim_id": "keywords-and-separator-help",
        "predicts": helps(delta=0.09, effect=0.297),
        "published": "exp06-mistral-keyword-as-prefix-separator-behind-the-document",
        "statement": "Written keywords as a prefix and a separator behind the passage help.",
    },
    ("bare", "suffix(keywords(passage))"): {
        "claim_id": "keywords-behind-the-passage-help",
        "source": "lab notes, experiment 10: what of a surrogate matters",
        "predicts": helps(delta=0.09, effect=0.349),
        "published": "exp10-mistral-suffix-tf-idf-keywords",
        "statement": "The passage's words of largest TF-IDF, read behind it, help.",
    },
}


@surrogates.claim_for_each("pair", PREFIXES, source=WORDS)
def test_words_as_a_prefix(judge, pair):
    """The second of {pair} helps over the first."""
    judge(paired_benefit(*pair))


OTHERS = tuple(f"static({name})" for name in ("definition", "procedure", "quantity", "problem"))


@topic.claim(
    "any-static-question-does",
    slow=True,
    source="priming project summary, static intents",
    predicts=negligible(delta=0.09),
    also_stored_at=(MANUALS,),
)
def test_any_static_question_does(judge):
    """Four other fixed questions do as well, on average, as the one about key facts."""
    judge(paired_benefit("static_fact", mean_of(*OTHERS)))
