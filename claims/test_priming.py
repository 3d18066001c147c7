"""Priming: what a prefix does that is read before the document and dropped again."""

from claims.cells import GEMMA_4B, MISTRAL, claim
from claims.harness.estimands.paired import benefit_without_first_token, mean_of, paired_benefit
from kvcore.verdict import Published, does_not_help, helps, hurts, negligible

SOURCE = "priming notebook, experiment 01"


@claim("random-prefix-helps", family="priming", source=SOURCE, needs=("bare", "random"),
       predicts=helps(delta=0.09, effect=0.091),
       published={MISTRAL: Published(0.091, 2303, "nll_tail",
                                     text="d +0.091, win 59.5 %, p 1.3e-5"),
                  GEMMA_4B: Published(-0.109, 2174, "nll_tail", text="d -0.109, p 4e-7: hurts")})
def test_a_random_prefix_helps(rows, judge):
    """A random prefix, read before the document and dropped again, makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("random")))


@claim("oracle-does-not-help", family="priming", source=SOURCE, needs=("bare", "oracle"),
       predicts=does_not_help(delta=0.09, effect=0.023),
       published={MISTRAL: Published(0.023, 2303, "nll_tail",
                                     text="d +0.023, win 50.0 %, p 0.263"),
                  GEMMA_4B: Published(-0.020, 2174, "nll_tail", text="d -0.020, ns")})
def test_the_real_query_does_not_help(rows, judge):
    """Having read the real query before the document makes the answer no easier."""
    judge(paired_benefit(rows("bare"), rows("oracle")))


@claim("oracle-worse-than-random", family="priming", source=SOURCE, needs=("random", "oracle"),
       predicts=hurts(delta=0.09, effect=-0.051),
       published=Published(-0.051, 2303, "nll_tail", text="d -0.051, win 44.9 %, p 0.0154"))
def test_the_real_query_is_worse_than_a_random_prefix(rows, judge):
    """The real query as a prefix does worse than random tokens of the same length."""
    judge(paired_benefit(rows("random"), rows("oracle")))


@claim("first-token-does-not-matter", family="priming", source="scoring note of the notebook",
       needs=("random", "oracle"), metrics=("nll",),
       predicts=negligible(delta=0.09, unit="d difference"))
def test_leaving_out_the_first_answer_token_changes_nothing(rows, judge):
    """Leaving out the first answer token does not change how the query compares with random."""
    judge(benefit_without_first_token(rows("random"), rows("oracle")))


@claim("framing-hurts", family="priming", source="priming project summary (first version)",
       needs=("bare", "framed"), predicts=hurts(delta=0.09, effect=-0.45),
       published=Published(-0.45, None, "nll_tail", legacy=True, text="d -0.45 (legacy)"))
def test_framing_the_passage_hurts(rows, judge):
    """Writing "Document:" before the passage makes the answer harder."""
    judge(paired_benefit(rows("bare"), rows("framed")))


@claim("priming-hurts-on-average", family="priming", slow=True,
       source="priming project summary (first version)",
       needs=("bare", "random", "oracle", "static_fact"),
       predicts=hurts(delta=0.09, effect=-0.11),
       published=Published(-0.11, None, "nll_tail", legacy=True, text="d -0.11 (legacy)"))
def test_priming_hurts_on_average(rows, judge):
    """Over a random prefix, the real query and a fixed question, priming makes answers harder."""
    judge(paired_benefit(rows("bare"), mean_of(*map(rows, ("random", "oracle", "static_fact")))))


SURROGATES = "priming project summary, LLM-written surrogates (first version)"
LEGACY = Published(0.274, None, "nll_tail", legacy=True, text="d +0.274 (legacy)")


@claim("surrogate-keywords-help", family="surrogates", source=SURROGATES, slow=True,
       needs=("bare", "llm_surrogate(keyword)"), predicts=helps(delta=0.09, effect=0.274),
       published=LEGACY)
def test_written_keywords_help(rows, judge):
    """Keywords that the model itself writes for the passage make the answer easier as a prefix."""
    judge(paired_benefit(rows("bare"), rows("llm_surrogate(keyword)")))


@claim("surrogate-question-helps", family="surrogates", source=SURROGATES, slow=True,
       needs=("bare", "llm_surrogate(question)"), predicts=helps(delta=0.09, effect=0.274),
       published=LEGACY)
def test_a_written_question_helps(rows, judge):
    """A question that the model itself writes for the passage makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("llm_surrogate(question)")))


@claim("surrogate-need-helps", family="surrogates", source=SURROGATES, slow=True,
       needs=("bare", "llm_surrogate(need)"), predicts=helps(delta=0.09, effect=0.274),
       published=LEGACY)
def test_a_written_need_helps(rows, judge):
    """A reader's need that the model itself writes for the passage makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("llm_surrogate(need)")))


@claim("surrogate-beats-random", family="surrogates", source=SURROGATES, slow=True,
       needs=("random", "llm_surrogate(question)"), predicts=helps(delta=0.09))
def test_a_written_question_beats_a_random_prefix(rows, judge):
    """A question written for the passage does better as a prefix than random tokens."""
    judge(paired_benefit(rows("random"), rows("llm_surrogate(question)")))


@claim("past-queries-help", family="surrogates", slow=True,
       source="lab notes: the passage's nearest past query, five times over",
       needs=("bare", "click_history(5)"), predicts=helps(delta=0.09))
def test_past_queries_help(rows, judge):
    """The nearest past query of the passage, five times over, makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("click_history(5)")))


OTHERS = tuple(f"static({name})" for name in ("definition", "procedure", "quantity", "problem"))


@claim("any-static-question-does", family="priming", slow=True,
       source="priming project summary, static intents", needs=("static_fact", *OTHERS),
       predicts=negligible(delta=0.09))
def test_any_static_question_does(rows, judge):
    """Four other fixed questions do as well, on average, as the one about key facts."""
    judge(paired_benefit(rows("static_fact"), mean_of(*map(rows, OTHERS))))
