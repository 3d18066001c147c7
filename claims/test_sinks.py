"""Sinks: where a model keeps its attention sink, and what truncation does where it is not BOS.

Every claim but the first says where it applies, by the rows themselves: BOS holds the sink where it
gets a tenth of an answer's attention in a bare pass, and it does not where it gets less. Predicted
before any row was measured; what was predicted for each model is in docs/sinks.md.
"""

from claims.harness.claims import QWEN_MANUALS, claims_about
from claims.harness.estimands.paired import mean_benefit, paired_benefit, share_of_samples
from claims.harness.estimands.sinks import (
    SHARE,
    change_of_share,
    gain_where_none_was,
    lacks_sink,
    mean_share,
)
from claims.harness.rows import Measured
from kvcore.errors import MissingResource
from kvcore.measurements.sink_diagnosis import HOLDS
from kvcore.verdict import at_least, does_not_help, helps, hurts, negligible

PREFIXES = ("random", "static_fact", "oracle")
NATS = "nats/token"
SMALL = 0.05
"""Nats per token: a twentieth of what losing the sink cost where it was found."""


def bos_share(cell: Measured) -> float:
    """Return the mean share of an answer's attention on BOS in a bare pass."""
    rows = cell.rows
    own = rows[(rows["need"] == "bare") & (rows["status"] == "ok")]
    if own.empty:
        raise MissingResource(f"no bare rows of {cell.model} say where its sink is.")
    return float(own["bos_share"].mean())


def where_bos_holds_it(cell: Measured) -> str:
    """Where BOS is not the sink, truncation removes it, and nothing is left to compare."""
    share = bos_share(cell)
    return "" if share >= HOLDS else f"BOS is not the sink: {share:.3f} of the attention"


def where_bos_does_not(cell: Measured) -> str:
    """Where BOS is the sink, truncation keeps it."""
    share = bos_share(cell)
    return "" if share < HOLDS else f"BOS is the sink: {share:.3f} of the attention"


def for_prefixes(slug: str, statement: str) -> dict[str, dict[str, str]]:
    """Return the cases of a claim made of each prefix, ``{p}`` standing for it."""
    words = {"random": "a random prefix", "static_fact": "a fixed question", "oracle": "the query"}
    return {
        prefix: {
            "claim_id": f"{slug}-{prefix.replace('_', '-')}",
            "statement": statement.replace("{p}", words[prefix]),
        }
        for prefix in PREFIXES
    }


topic = claims_about(
    "sinks", kind="attention_sinks", source="a finding of this project, on 16 samples", slow=True
)


# --- where it is ---------------------------------------------------------------------------------


@topic.claim(
    "bos-holds-the-sink",
    metrics=("bos_share",),
    predicts=at_least(HOLDS, effect=0.33, unit=SHARE),
)
def test_bos_holds_the_sink(judge):
    """BOS gets at least a tenth of an answer's attention in a bare pass."""
    judge(mean_share("bare"))


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "sink-in-the-prefix",
        "Where BOS is not the sink, four of five samples have it on a token of {p} in a primed "
        "pass.",
    ),
    metrics=("place",),
    applies=where_bos_does_not,
    predicts=at_least(0.8, effect=0.95, unit="proportion"),
)
def test_the_sink_of_a_primed_pass_is_in_the_prefix(judge, prefix):
    """Where BOS is not the sink, a primed pass has it in the prefix {prefix}."""
    judge(
        share_of_samples(
            prefix, "bare", name="samples whose sink is in the prefix", holds=sink_in_prefix
        )
    )


def sink_in_prefix(primed, _bare):
    """Whether the sink of a sample's primed pass is a token of the prefix."""
    return primed["sink_part"] == "prefix"


@topic.claim(
    "sink-in-sight-gets-a-tenth",
    metrics=("sink_share",),
    predicts=at_least(HOLDS, effect=0.25, unit=SHARE),
)
def test_a_sink_in_sight_gets_a_tenth(judge):
    """With a random prefix left in place, the sink gets a tenth of an answer's attention at least.

    Beside it, what it gets bare, with the prefix dropped, and with the sink alone kept of it.
    """
    judge(mean_share("full_context(random)", "bare", "random", "keep_sink(random)"))


# --- where BOS is not the sink -------------------------------------------------------------------


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "losing-the-sink-hurts",
        "Where BOS is not the sink, {p}, dropped whole, makes answers harder.",
    ),
    applies=where_bos_does_not,
    predicts=hurts(delta=0.09, effect=-0.85),
)
def test_losing_the_sink_hurts(judge, prefix):
    """Where BOS is not the sink, the truncated prefix {prefix} makes answers harder."""
    judge(paired_benefit("bare", prefix))


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "keeping-the-sink-helps",
        "Where BOS is not the sink, {p} does less harm with its sink kept behind BOS.",
    ),
    applies=where_bos_does_not,
    predicts=helps(delta=0.09, effect=0.85),
)
def test_keeping_the_sink_helps(judge, prefix):
    """Where BOS is not the sink, {prefix} does better with its sink kept than dropped whole."""
    judge(paired_benefit(prefix, f"keep_sink({prefix})", "bare"))


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "keeping-the-sink-undoes-the-harm",
        "Where BOS is not the sink, the bare document does no better than {p} with its sink kept.",
    ),
    applies=where_bos_does_not,
    predicts=does_not_help(delta=0.09, effect=-0.29),
)
def test_keeping_the_sink_undoes_the_harm(judge, prefix):
    """Where BOS is not the sink, bare does no better than {prefix} with its sink kept."""
    judge(paired_benefit(f"keep_sink({prefix})", "bare"))


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "four-first-tokens-do-as-well",
        "Where BOS is not the sink, the sink alone does no better than the first four tokens of "
        "{p}.",
    ),
    applies=where_bos_does_not,
    predicts=does_not_help(delta=0.09),
)
def test_four_first_tokens_do_as_well(judge, prefix):
    """Where BOS is not the sink, the sink of {prefix} does no better than its first four tokens."""
    judge(paired_benefit(f"keep_first({prefix},4)", f"keep_sink({prefix})", "bare"))


@topic.claim(
    "one-first-token-does-worse-than-the-sink",
    applies=where_bos_does_not,
    predicts=helps(delta=0.09),
)
def test_the_sink_does_better_than_the_first_token(judge):
    """Where BOS is not the sink, keeping the sink does better than keeping the first token."""
    judge(paired_benefit("keep_first(random,1)", "keep_sink(random)", "bare"))


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "primed-values-do-no-harm",
        "Where BOS is not the sink, the values that {p} primes do no harm under the bare keys.",
    ),
    applies=where_bos_does_not,
    predicts=does_not_help(delta=0.09),
)
def test_primed_values_do_no_harm(judge, prefix):
    """Where BOS is not the sink, bare does no better than its keys with values primed by {prefix}.

    The harm comes through the sink alone: bare keeps its own.
    """
    judge(paired_benefit(f"values_only({prefix})", "bare"))


@topic.claim(
    "no-sink-behind-a-fixed-question",
    metrics=("place",),
    applies=where_bos_does_not,
    predicts=at_least(0.8, effect=0.95, unit="proportion"),
)
def test_no_sink_forms_behind_a_fixed_question(judge):
    """Where BOS is not the sink, four of five samples have none behind a fixed question.

    None: no hidden state halfway up the layers is as long as twice the median one.
    """
    judge(
        share_of_samples(
            "static_fact",
            "bare",
            name="samples without a sink",
            holds=lambda primed, _bare: lacks_sink(primed),
        )
    )


@topic.claim(
    "a-fixed-question-hurts-in-sight",
    applies=where_bos_does_not,
    predicts=hurts(delta=0.09, effect=-0.6),
)
def test_a_fixed_question_hurts_in_sight(judge):
    """Where BOS is not the sink, a fixed question makes answers harder even if nothing is dropped.

    No slot is lost then: it is the question that keeps a sink from forming in the document.
    """
    judge(paired_benefit("bare", "full_context(static_fact)"))


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "values-where-the-sink-is-do-the-harm",
        "Where BOS is not the sink, values primed by {p} do more harm on the first quarter of the "
        "document, where a bare pass has its sink, than on all the rest.",
    ),
    applies=where_bos_does_not,
    predicts=helps(delta=0.09, effect=0.8),
)
def test_values_where_the_sink_is_do_the_harm(judge, prefix):
    """Where BOS is not the sink, {prefix} does its harm by values in the document's first quarter.

    The bare keys go on sending attention to the sink's slot, whose value says nothing in a bare
    pass and something in a primed one.
    """
    judge(
        paired_benefit(
            f"values_positions({prefix},0,0.25)", f"values_positions({prefix},0.25,1)", "bare"
        )
    )


BY_NONE = (
    "a finding of this project, on 300 docstrings of qwen2.5-coder-0.5b: judged anew elsewhere"
)


@topic.claim(
    "a-fixed-question-costs-less-where-bare-has-no-sink",
    source=BY_NONE,
    applies=where_bos_does_not,
    also_stored_at=(QWEN_MANUALS,),
    predicts=helps(delta=0.1, effect=0.3, unit="r"),
)
def test_a_fixed_question_costs_less_where_bare_has_no_sink(judge):
    """Where BOS is not the sink, a fixed question costs less where the bare pass has no sink.

    It keeps a sink from forming; where none forms without it, there is none to lose.
    """
    judge(gain_where_none_was("bare", "static_fact"))


@topic.claim_for_each(
    "prefix",
    {
        prefix: {
            "claim_id": f"a-kept-sink-gains-more-where-bare-has-none-{prefix}",
            "statement": f"Where BOS is not the sink, that of {words}, kept behind BOS, gains more "
            "over the bare document where the bare pass has none.",
        }
        for prefix, words in (("random", "a random prefix"), ("oracle", "the query"))
    },
    source=BY_NONE,
    applies=where_bos_does_not,
    also_stored_at=(QWEN_MANUALS,),
    predicts=helps(delta=0.1, effect=0.3, unit="r"),
)
def test_a_kept_sink_gains_more_where_bare_has_none(judge, prefix):
    """The sink of {prefix} stands in for one that the bare pass lacks."""
    judge(gain_where_none_was("bare", f"keep_sink({prefix})"))


# --- where BOS is the sink -----------------------------------------------------------------------


@topic.claim_for_each(
    "prefix",
    for_prefixes(
        "more-slots-change-nothing",
        "Where BOS is the sink, keeping four tokens of {p} as well changes the answer by less than "
        "a twentieth of a nat.",
    ),
    applies=where_bos_holds_it,
    predicts=negligible(delta=SMALL, unit=NATS),
)
def test_more_slots_change_nothing(judge, prefix):
    """Where BOS is the sink, keeping four tokens of {prefix} as well changes nothing."""
    judge(mean_benefit(prefix, f"keep_first({prefix},4)"))


@topic.claim(
    "random-helps-with-its-first-tokens-kept",
    applies=where_bos_holds_it,
    predicts=helps(delta=0.045, effect=0.4),
)
def test_random_helps_with_its_first_tokens_kept(judge):
    """Where BOS is the sink, a random prefix helps as well with its first four tokens kept."""
    judge(paired_benefit("bare", "keep_first(random,4)"))


@topic.claim(
    "random-leaves-the-sink-alone",
    metrics=("bos_share",),
    applies=where_bos_holds_it,
    predicts=negligible(delta=0.03, unit=SHARE),
)
def test_random_leaves_the_sink_alone(judge):
    """Where BOS is the sink, a random prefix changes its share of the attention by under 0.03."""
    judge(change_of_share("bare", "random"))


# --- controls ------------------------------------------------------------------------------------


@topic.claim_for_each(
    "pair",
    {
        ("bare", "swap_bos(random)"): {
            "claim_id": "primed-bos-under-bare-changes-nothing",
            "statement": "BOS's entry of a primed pass, under the bare document, changes nothing.",
        },
        ("random", "bos_of_bare(random)"): {
            "claim_id": "bare-bos-under-primed-changes-nothing",
            "statement": "BOS's entry of a bare pass, before the primed document, changes nothing.",
        },
    },
    predicts=negligible(delta=0.001, unit=NATS),
)
def test_bos_entry_changes_nothing(judge, pair):
    """BOS sees nothing before it, so its entry is the same in every pass (control)."""
    judge(mean_benefit(*pair))
