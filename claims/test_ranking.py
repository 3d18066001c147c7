"""Ranking: does a passage's NLL rank it, and does priming change how well?

A list holds the passage that answers a query and up to nine that do not (hard ones of the same
module, or those the data names); the score is -NLL of the query's true answer, or PMI.
"""

from claims.cells import GEMMA_4B, claim
from claims.harness.estimands.ranking import (
    auc,
    auc_at_equal_overlap,
    auc_change,
    auc_over,
    mrr_change,
    relevant_against_not,
    scored,
)
from kvcore.analysis import ranking
from kvcore.verdict import Published, at_least, at_most, does_not_help, helps, hurts, negligible

SOURCE = "priming project summary, ranking"
STATIC = ("static_fact", *(f"static({name})" for name in (
    "definition", "procedure", "quantity", "problem")))
BARE, BOS, FULL = "bare@lists", "bos_only@lists", "full_context(oracle)@lists"
ORACLE, LOW = (f"values_early_layers(oracle,{share})@lists" for share in (0.47, 0.24))
EACH_INTENT = tuple(f"values_early_layers({name},0.47)@lists" for name in STATIC)
PRIMED = EACH_INTENT[0]
SHARES = (0.1, 0.25, 0.5)
CHANGE, MRR_CHANGE = "AUC difference", "MRR difference"
NO_BETTER = does_not_help(delta=0.01, unit=CHANGE)
# Half way between chance, 0.5, and what the answer target must reach, 0.8.
POORLY = 0.65


def published(value: float, text: str) -> dict[tuple[str, str], Published]:
    """Return a value published for Gemma 3 4B on 200 queries of MS MARCO: its sign and size."""
    return {GEMMA_4B: Published(value, 200, "nll_tail", text=text)}


@claim("nll-alone-ranks", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE,), predicts=at_least(0.8, effect=0.828, unit="AUC"),
       published=published(0.828, "AUC 0.828, MRR@10 0.860"))
def test_nll_alone_ranks(rows, judge):
    """The answer's NLL over a passage tells the passage that answers the query from others."""
    judge(auc(rows(BARE)))


@claim("pmi-ranks-better-than-nll", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE, BOS), predicts=helps(delta=0.01, effect=0.013, unit=CHANGE),
       published=published(0.013, "AUC 0.841 against 0.828"))
def test_pmi_ranks_better_than_raw_nll(rows, judge):
    """Subtracting the NLL from that without any document ranks better across queries."""
    raw, pmi = scored(rows(BARE)), scored(rows(BARE), rows(BOS))
    judge(auc_change(raw, pmi, "PMI against NLL", rows(BARE), rows(BOS)))


@claim("pmi-ranks-each-list-as-nll-does", family="ranking", slow=True, min_n=300,
       source="arithmetic: within a query PMI adds a constant", needs=(BARE, BOS),
       predicts=negligible(delta=0.001, unit=MRR_CHANGE))
def test_pmi_ranks_each_list_as_raw_nll_does(rows, judge):
    """Within each list PMI and NLL rank alike."""
    raw, pmi = scored(rows(BARE)), scored(rows(BARE), rows(BOS))
    judge(mrr_change(raw, pmi, "PMI against NLL", rows(BARE), rows(BOS)))


@claim("priming-does-not-improve-auc", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE, PRIMED, BOS), predicts=NO_BETTER,
       published=published(-0.009, "AUC of PMI 0.832 against 0.841"))
def test_priming_does_not_improve_ranking(rows, judge):
    """Values primed by a fixed question in the lower layers rank no better than bare ones."""
    judge(against_bare(rows, PRIMED))


@claim("priming-does-not-improve-auc-of-nll", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, PRIMED), predicts=NO_BETTER,
       published=published(0.001, "AUC of NLL 0.829 against 0.828"))
def test_priming_does_not_improve_ranking_by_raw_nll(rows, judge):
    """By the NLL itself, values primed by a fixed question in the lower layers rank no better."""
    bare, primed = rows(BARE), rows(PRIMED)
    judge(auc_change(scored(bare), scored(primed), "primed against bare NLL", bare, primed))


@claim("priming-by-the-query-does-not-improve-auc", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, ORACLE, BOS), predicts=NO_BETTER,
       published=published(-0.010, "AUC of PMI 0.831 against 0.841 (lab notes)"))
def test_priming_by_the_query_does_not_improve_ranking(rows, judge):
    """Values primed by the query itself in the lower half of the layers rank no better."""
    judge(against_bare(rows, ORACLE))


@claim("priming-by-the-query-in-few-layers-does-not-improve-auc", family="ranking", source=SOURCE,
       slow=True, min_n=300, needs=(BARE, LOW, BOS), predicts=NO_BETTER,
       published=published(0.0, "AUC of PMI 0.841 against 0.841"))
def test_priming_by_the_query_in_a_quarter_of_the_layers_does_not_improve_ranking(rows, judge):
    """Values primed by the query itself in the lowest quarter of the layers rank no better."""
    judge(against_bare(rows, LOW))


@claim("interpolated-values-do-not-improve-auc", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, "interp(oracle,0.25)@lists", BOS), predicts=NO_BETTER,
       published=published(0.001, "AUC of PMI 0.842 against 0.841"))
def test_interpolated_values_do_not_improve_ranking(rows, judge):
    """A quarter of the values primed by the query mixed into the bare ones ranks no better."""
    judge(against_bare(rows, "interp(oracle,0.25)@lists"))


@claim("full-context-does-not-improve-auc", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, FULL, BOS), predicts=NO_BETTER,
       published=published(-0.004, "AUC of PMI 0.837 against 0.841 (lab notes)"))
def test_seeing_the_query_twice_does_not_improve_ranking(rows, judge):
    """The query before the document and in sight ranks no better than the document alone."""
    judge(against_bare(rows, FULL))


@claim("qvi-hurts-ranking-the-more-the-more", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, BOS, *(f"qvi({a})@lists" for a in SHARES)),
       predicts=hurts(delta=0.02, effect=-0.148, unit="AUC slope"),
       published=published(-0.148, "AUC of PMI 0.841, 0.836, 0.811, 0.767 at 0, .1, .25, .5"))
def test_query_value_injection_hurts_ranking(rows, judge):
    """The more of the query's mean value is mixed into the document's, the worse it ranks."""
    conditions = {0.0: rows(BARE)} | {a: rows(f"qvi({a})@lists") for a in SHARES}
    tables = {a: scored(found, rows(BOS)) for a, found in conditions.items()}
    judge(auc_over(tables, *conditions.values(), rows(BOS)))


@claim("document-target-ranks-poorly", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=("bare@lists.qdoc", "bos_only@lists.qdoc"),
       predicts=at_most(POORLY, effect=0.57, unit="AUC"),
       published=published(0.57, "AUC about .57"))
def test_asking_what_the_document_is_about_ranks_poorly(rows, judge):
    """The query's NLL after "This document is about:" ranks poorly."""
    judge(auc(rows("bare@lists.qdoc"), rows("bos_only@lists.qdoc")))


@claim("relevance-target-ranks-poorly", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=("bare@lists.relevance", "bos_only@lists.relevance"),
       predicts=at_most(POORLY, effect=0.475, unit="AUC"),
       published=published(0.475, "AUC .45 to .50"))
def test_asking_whether_the_document_is_relevant_ranks_poorly(rows, judge):
    """The NLL of a sentence that calls the document relevant ranks poorly."""
    judge(auc(rows("bare@lists.relevance"), rows("bos_only@lists.relevance")))


@claim("best-of-five-intents-does-not-improve-auc", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, BOS, *EACH_INTENT), predicts=NO_BETTER,
       published=published(-0.016, "AUC 0.825 against 0.841"))
def test_the_best_of_five_intents_does_not_improve_ranking(rows, judge):
    """Each passage's best score over five fixed questions ranks no better than the bare one."""
    best = ranking.best_of({name: scored(rows(name), rows(BOS)) for name in EACH_INTENT})
    judge(changed(rows, best, "best of five", EACH_INTENT))


@claim("routing-hurts-ranking", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE, BOS, *EACH_INTENT), predicts=hurts(delta=0.01, effect=-0.013, unit=CHANGE),
       published=published(-0.013, "AUC 0.828 against 0.841"))
def test_choosing_the_intent_per_query_hurts_ranking(rows, judge):
    """Choosing for each query the fixed question that looks best ranks worse than bare."""
    routed = ranking.route({name: scored(rows(name), rows(BOS)) for name in EACH_INTENT})
    judge(changed(rows, routed, "routing", EACH_INTENT))


@claim("two-stage-gains-little", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE, BOS, ORACLE),
       predicts=does_not_help(delta=0.01, effect=0.006, unit=MRR_CHANGE),
       published=published(0.006, "MRR 0.866 against 0.860"))
def test_re_ranking_the_first_three_gains_little(rows, judge):
    """Re-ranking the first three passages by values primed with the query gains little."""
    bare, primed = scored(rows(BARE), rows(BOS)), scored(rows(ORACLE), rows(BOS))
    judge(mrr_change(bare, ranking.two_stage(bare, primed), "two stages", rows(BARE),
                     rows(ORACLE), rows(BOS)))


@claim("priming-changes-few-ranks", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE, PRIMED), predicts=does_not_help(delta=0.01, effect=-0.007, unit=MRR_CHANGE),
       published=published(-0.007, "MRR 0.853 against 0.860: 6 wins, 185 ties, 9 losses"))
def test_priming_improves_no_ranks(rows, judge):
    """Primed values bring the relevant passage no further up its list."""
    judge(mrr_change(scored(rows(BARE)), scored(rows(PRIMED)), "primed", rows(BARE),
                     rows(PRIMED)))


@claim("priming-helps-relevant-and-irrelevant-alike", family="ranking", source=SOURCE, slow=True,
       min_n=300, needs=(BARE, PRIMED), predicts=negligible(delta=0.09, unit="d of groups"))
def test_priming_helps_relevant_and_irrelevant_passages_alike(rows, judge):
    """Primed values lower the NLL as much over passages that do not answer the query."""
    judge(relevant_against_not(rows(BARE), rows(PRIMED)))


@claim("ranking-comes-from-word-overlap", family="ranking", source=SOURCE, slow=True, min_n=300,
       needs=(BARE, BOS), predicts=hurts(delta=0.01, unit=CHANGE))
def test_ranking_comes_from_the_words_shared_with_the_answer(rows, judge):
    """Among passages that share as many words with the answer, NLL ranks worse."""
    judge(auc_at_equal_overlap(rows(BARE), rows(BOS)))


@claim("nll-ranks-with-names-masked", family="ranking", slow=True, min_n=300,
       source="own control: a list must not be ranked by matching names",
       needs=("bare@masked",), predicts=at_least(0.8, effect=0.828, unit="AUC"))
def test_nll_ranks_with_names_masked(rows, judge):
    """With every name replaced by a neutral word, the answer's NLL still ranks."""
    judge(auc(rows("bare@masked")))


@claim("priming-does-not-improve-auc-with-names-masked", family="ranking", slow=True, min_n=300,
       source="own control: a list must not be ranked by matching names", predicts=NO_BETTER,
       needs=("bare@masked", "bos_only@masked", PRIMED.replace("lists", "masked")))
def test_priming_does_not_improve_ranking_with_names_masked(rows, judge):
    """With every name replaced by a neutral word, primed values rank no better either."""
    bare, primed = (scored(rows(name), rows("bos_only@masked")) for name in (
        "bare@masked", PRIMED.replace("lists", "masked")))
    judge(auc_change(bare, primed, "masked", rows("bare@masked"), rows("bos_only@masked"),
                     rows(PRIMED.replace("lists", "masked"))))


def against_bare(rows, condition):
    """AUC of PMI under a condition less that of bare."""
    return changed(rows, scored(rows(condition), rows(BOS)), condition, (condition,))


def changed(rows, table, kind, conditions):
    """AUC of a table less that of bare PMI."""
    return auc_change(scored(rows(BARE), rows(BOS)), table, kind, rows(BARE), rows(BOS),
                      *map(rows, conditions))
