"""Ranking: does a passage's NLL rank it, and does priming change how well?

A list holds the passage that answers a query and up to nine that do not (hard ones of the same
module, or those the data names); the score is -NLL of the query's true answer, or PMI.
"""

from claims.harness.claims import GEMMA_4B, MISTRAL, claims_about
from claims.harness.estimands.paired import mean_of
from claims.harness.estimands.ranking import (
    auc,
    auc_at_equal_overlap,
    auc_change,
    auc_of_table,
    auc_over,
    benefit_scored,
    best_of,
    mrr_change,
    mrr_change_by_re_ranking,
    relevant_against_not,
    routed,
    scored,
)
from claims.harness.estimands.ranking_table import (
    answer_against_other_targets,
    both_scores,
    d_of_scores,
    others_against_first,
)
from kvcore.verdict import at_least, at_most, does_not_help, helps, hurts, negligible

SOURCE = "priming project summary, ranking"
STATIC = (
    "static_fact",
    *(f"static({name})" for name in ("definition", "procedure", "quantity", "problem")),
)
BARE, BOS, FULL = "bare@lists", "bos_only@lists", "full_context(oracle)@lists"
ORACLE, LOW = (f"values_early_layers(oracle,{share})@lists" for share in (0.47, 0.24))
EACH_INTENT = tuple(f"values_early_layers({name},0.47)@lists" for name in STATIC)
PRIMED = EACH_INTENT[0]
SHARES = (0.1, 0.25, 0.5)
CHANGE, MRR_CHANGE = "AUC difference", "MRR difference"
NO_BETTER = does_not_help(delta=0.01, unit=CHANGE)
# Half way between chance, 0.5, and what the answer target must reach, 0.8.
POORLY = 0.65


TARGETS = ("answer", "qdoc", "relevance")
THIRTEEN = (
    BARE,
    *EACH_INTENT,
    ORACLE,
    LOW,
    FULL,
    "interp(oracle,0.25)@lists",
    *(f"qvi({share})@lists" for share in SHARES),
)
"""The conditions of the published table, bare first."""


def by_target(condition, target):
    """Spell a condition on lists with another target than the answer."""
    return condition if target == "answer" else f"{condition}.{target}"


def pmi(condition):
    """Score passages by PMI under a condition."""
    return scored(condition, BOS)


def against_bare(condition):
    """AUC of PMI under a condition less that of bare."""
    return auc_change(pmi(BARE), pmi(condition))


def asks_by_name(cell):
    """Leave out data whose queries name nothing that a passage could be matched by."""
    own = cell.dataset == "docstrings"
    return "" if own else f"the queries of {cell.dataset} ask for nothing by name"


topic = claims_about("ranking", source=SOURCE, slow=True, min_n=300)


@topic.claim(
    "nll-alone-ranks",
    predicts=at_least(0.8, effect=0.828, unit="AUC"),
    published="exp22-gemma-nll-bare-auc",
)
def test_nll_alone_ranks(judge):
    """The answer's NLL over a passage tells the passage that answers the query from others."""
    judge(auc(BARE))


@topic.claim(
    "pmi-ranks-better-than-nll",
    version=2,
    predicts=helps(delta=0.0065, effect=0.013, unit=CHANGE),
    published="exp22-gemma-pmi-against-nll-auc",
)
def test_pmi_ranks_better_than_raw_nll(judge):
    """Subtracting the NLL from that without any document ranks better across queries."""
    judge(auc_change(scored(BARE), pmi(BARE)))


@topic.claim(
    "pmi-ranks-each-list-as-nll-does",
    source="arithmetic: within a query PMI adds a constant",
    predicts=negligible(delta=0.001, unit=MRR_CHANGE),
)
def test_pmi_ranks_each_list_as_raw_nll_does(judge):
    """Within each list PMI and NLL rank alike."""
    judge(mrr_change(scored(BARE), pmi(BARE)))


@topic.claim(
    "priming-does-not-improve-auc",
    predicts=NO_BETTER,
    published="exp22-gemma-pmi-priming-auc",
)
def test_priming_does_not_improve_ranking(judge):
    """Values primed by a fixed question in the lower layers rank no better than bare ones."""
    judge(against_bare(PRIMED))


@topic.claim(
    "priming-does-not-improve-auc-of-nll",
    predicts=NO_BETTER,
    published="exp22-gemma-nll-priming-auc",
)
def test_priming_does_not_improve_ranking_by_raw_nll(judge):
    """By the NLL itself, values primed by a fixed question in the lower layers rank no better."""
    judge(auc_change(scored(BARE), scored(PRIMED)))


@topic.claim(
    "priming-by-the-query-does-not-improve-auc",
    predicts=NO_BETTER,
    published="exp23-gemma-oracle-16-against-bare-auc",
)
def test_priming_by_the_query_does_not_improve_ranking(judge):
    """Values primed by the query itself in the lower half of the layers rank no better."""
    judge(against_bare(ORACLE))


@topic.claim(
    "priming-by-the-query-in-few-layers-does-not-improve-auc",
    predicts=NO_BETTER,
    published="exp23-gemma-oracle-8-against-bare-auc",
)
def test_priming_by_the_query_in_a_quarter_of_the_layers_does_not_improve_ranking(judge):
    """Values primed by the query itself in the lowest quarter of the layers rank no better."""
    judge(against_bare(LOW))


@topic.claim(
    "interpolated-values-do-not-improve-auc",
    predicts=NO_BETTER,
    published="exp23-gemma-interp-oracle-25-against-bare-auc",
)
def test_interpolated_values_do_not_improve_ranking(judge):
    """A quarter of the values primed by the query mixed into the bare ones ranks no better."""
    judge(against_bare("interp(oracle,0.25)@lists"))


@topic.claim(
    "full-context-does-not-improve-auc",
    predicts=NO_BETTER,
    published="exp23-gemma-full-context-oracle-against-bare-auc",
)
def test_seeing_the_query_twice_does_not_improve_ranking(judge):
    """The query before the document and in sight ranks no better than the document alone."""
    judge(against_bare(FULL))


@topic.claim(
    "qvi-hurts-ranking-the-more-the-more",
    version=2,
    predicts=hurts(delta=0.02, effect=-0.154, unit="AUC slope"),
    published="exp23-gemma-qvi-auc-slope",
)
def test_query_value_injection_hurts_ranking(judge):
    """The more of the query's mean value is mixed into the document's, the worse it ranks."""
    judge(auc_over({0.0: BARE} | {a: f"qvi({a})@lists" for a in SHARES}, BOS))


@topic.claim(
    "document-target-ranks-poorly",
    version=2,
    predicts=at_most(POORLY, effect=0.574, unit="AUC"),
    published="exp23-gemma-qdoc-bare-auc",
)
def test_asking_what_the_document_is_about_ranks_poorly(judge):
    """The query's NLL after "This document is about:" ranks poorly."""
    judge(auc("bare@lists.qdoc", "bos_only@lists.qdoc"))


@topic.claim(
    "relevance-target-ranks-poorly",
    version=2,
    predicts=at_most(POORLY, effect=0.451, unit="AUC"),
    published="exp23-gemma-relevance-bare-auc",
)
def test_asking_whether_the_document_is_relevant_ranks_poorly(judge):
    """The NLL of a sentence that calls the document relevant ranks poorly."""
    judge(auc("bare@lists.relevance", "bos_only@lists.relevance"))


@topic.claim(
    "best-of-five-intents-does-not-improve-auc",
    predicts=NO_BETTER,
    published="exp23-gemma-best-of-five-against-bare-auc",
)
def test_the_best_of_five_intents_does_not_improve_ranking(judge):
    """Each passage's best score over five fixed questions ranks no better than the bare one."""
    judge(auc_change(pmi(BARE), best_of({name: pmi(name) for name in EACH_INTENT})))


@topic.claim(
    "routing-hurts-ranking",
    version=2,
    predicts=hurts(delta=0.0065, effect=-0.013, unit=CHANGE),
    published="exp23-gemma-routing-against-bare-auc",
)
def test_choosing_the_intent_per_query_hurts_ranking(judge):
    """Choosing for each query the fixed question that looks best ranks worse than bare."""
    judge(auc_change(pmi(BARE), routed({name: pmi(name) for name in EACH_INTENT})))


@topic.claim(
    "two-stage-gains-little",
    predicts=does_not_help(delta=0.01, effect=0.006, unit=MRR_CHANGE),
    published="exp23-gemma-two-stages-3-against-bare-mrr",
)
def test_re_ranking_the_first_three_gains_little(judge):
    """Re-ranking the first three passages by values primed with the query gains little."""
    judge(mrr_change_by_re_ranking(BARE, ORACLE, BOS))


@topic.claim(
    "priming-changes-few-ranks",
    predicts=does_not_help(delta=0.01, effect=-0.007, unit=MRR_CHANGE),
    published="exp22-gemma-nll-priming-mrr",
)
def test_priming_improves_no_ranks(judge):
    """Primed values bring the relevant passage no further up its list."""
    judge(mrr_change(scored(BARE), scored(PRIMED)))


@topic.claim(
    "priming-helps-relevant-and-irrelevant-alike",
    predicts=negligible(delta=0.09, unit="d of groups"),
    also_at=(GEMMA_4B, MISTRAL),
)
def test_priming_helps_relevant_and_irrelevant_passages_alike(judge):
    """Primed values lower the NLL as much over passages that do not answer the query."""
    judge(relevant_against_not(BARE, PRIMED))


@topic.claim(
    "ranking-comes-from-word-overlap",
    predicts=hurts(delta=0.01, unit=CHANGE),
    also_at=(GEMMA_4B, MISTRAL),
)
def test_ranking_comes_from_the_words_shared_with_the_answer(judge):
    """Among passages that share as many words with the answer, NLL ranks worse."""
    judge(auc_at_equal_overlap(BARE, BOS))


@topic.claim(
    "nll-ranks-with-names-masked",
    source="own control: a list must not be ranked by matching names",
    applies=asks_by_name,
    predicts=at_least(0.8, effect=0.828, unit="AUC"),
)
def test_nll_ranks_with_names_masked(judge):
    """With every name replaced by a neutral word, the answer's NLL still ranks."""
    judge(auc("bare@masked"))


@topic.claim(
    "priming-does-not-improve-auc-with-names-masked",
    source="own control: a list must not be ranked by matching names",
    applies=asks_by_name,
    predicts=NO_BETTER,
)
def test_priming_does_not_improve_ranking_with_names_masked(judge):
    """With every name replaced by a neutral word, primed values rank no better either."""
    masked = (name.replace("@lists", "@masked") for name in (BARE, PRIMED))
    judge(auc_change(*(scored(name, "bos_only@masked") for name in masked)))


# --- the table of thirteen conditions ------------------------------------------------------------

PUBLISHED_AUC = tuple(
    f"exp23-gemma-{name}-auc"
    for name in (
        *("bare", "interp-oracle-25", "full-context-oracle", "qvi-10", "qvi-25", "qvi-50"),
        *("early-layers-oracle-8", "early-layers-oracle-16", "early-layers-static-fact-16"),
        *(
            f"early-layers-static-{intent}-16"
            for intent in ("definition", "procedure", "quantity", "problem")
        ),
    )
)
BY_OTHER_TARGETS = tuple(
    f"exp23-gemma-{name}-auc"
    for name in ("qdoc-bare", "qdoc-interp-oracle-25", "relevance-bare", "relevance-qvi-50")
)


@topic.claim(
    "twelve-conditions-rank-no-better-than-bare",
    predicts=does_not_help(delta=0.01, effect=-0.014, unit=CHANGE),
    also_at=(GEMMA_4B,),
    beside=PUBLISHED_AUC,
)
def test_twelve_conditions_rank_no_better_than_bare(judge):
    """On average over the twelve other conditions of the table, PMI ranks no better than bare's."""
    judge(others_against_first(*(both_scores(name, BOS) for name in THIRTEEN)))


@topic.claim(
    "the-answer-ranks-better-than-other-targets",
    predicts=helps(delta=0.1, effect=0.3, unit=CHANGE),
    also_at=(GEMMA_4B,),
    beside=BY_OTHER_TARGETS,
)
def test_the_answer_ranks_better_than_other_targets(judge):
    """In thirteen conditions the answer ranks better than the query or a sentence on relevance."""
    judge(
        answer_against_other_targets(
            *(
                both_scores(by_target(name, target), by_target(BOS, target))
                for target in TARGETS
                for name in THIRTEEN
            )
        )
    )


SEPARATED = {
    ("NLL", "bare"): {
        "claim_id": "nll-sets-relevant-passages-apart",
        "published": "exp22-gemma-nll-bare-d",
        "predicts": at_least(0.8, effect=1.201, unit="d of groups"),
        "statement": "By NLL relevant passages lie far from others, in SDs of the score.",
    },
    ("NLL", "primed"): {
        "claim_id": "nll-of-primed-values-sets-relevant-passages-apart",
        "published": "exp22-gemma-nll-early-layers-d",
        "predicts": at_least(0.8, effect=1.228, unit="d of groups"),
        "statement": "By the NLL of primed values relevant passages lie far from others.",
    },
    ("PMI", "bare"): {
        "claim_id": "pmi-sets-relevant-passages-apart",
        "published": "exp22-gemma-pmi-bare-d",
        "predicts": at_least(0.8, effect=1.647, unit="d of groups"),
        "statement": "By PMI relevant passages lie far from others, in SDs of the score.",
    },
    ("PMI", "primed"): {
        "claim_id": "pmi-of-primed-values-sets-relevant-passages-apart",
        "published": "exp22-gemma-pmi-early-layers-d",
        "predicts": at_least(0.8, effect=1.588, unit="d of groups"),
        "statement": "By the PMI of primed values relevant passages lie far from others.",
    },
}


@topic.claim_for_each("score", SEPARATED)
def test_relevant_passages_lie_apart(judge, score):
    """By {score} relevant passages lie far from others."""
    name, which = score
    condition = BARE if which == "bare" else PRIMED
    judge(d_of_scores(scored(condition) if name == "NLL" else pmi(condition)))


NOTES = "lab notes, experiments 14 and 15: other scores of a passage"


@topic.claim(
    "benefit-itself-ranks-worse",
    source=NOTES,
    predicts=hurts(delta=0.2, effect=-0.526, unit=MRR_CHANGE),
    published="exp14-mistral-benefit-as-score-mrr",
)
def test_benefit_itself_ranks_worse(judge):
    """What a fixed question gains on a passage ranks far worse than the bare NLL."""
    judge(mrr_change(scored(BARE), benefit_scored(BARE, "static_fact@lists")))


@topic.claim(
    "benefit-itself-does-not-rank",
    source=NOTES,
    predicts=at_most(0.5, effect=0.429, unit="AUC"),
    published="exp14-mistral-benefit-as-score-auc",
)
def test_benefit_itself_does_not_rank(judge):
    """What a fixed question gains on a passage does not tell the passage that answers the query."""
    judge(auc_of_table(benefit_scored(BARE, "static_fact@lists")))


@topic.claim(
    "mean-over-conditions-does-not-improve-ranks",
    source=NOTES,
    predicts=does_not_help(delta=0.01, effect=0.007, unit=MRR_CHANGE),
    published="exp15-mistral-mean-of-conditions-mrr",
)
def test_the_mean_over_conditions_ranks_no_better(judge):
    """The mean NLL of the bare, a static and a random prefix ranks no better than the bare one."""
    several = (BARE, "static_fact@lists", "random@lists")
    judge(mrr_change(scored(BARE), scored(mean_of(*several))))
