"""Mechanism: which half of a primed cache carries the effect, in which layers and positions."""

from claims.harness.claims import (
    GEMMA_PASSAGES,
    MANUALS,
    MANUALS_OF_ALL,
    MISTRAL,
    Instead,
    claims_about,
)
from claims.harness.estimands.paired import (
    lower_against_upper_half,
    mean_benefit,
    paired_benefit,
    single_layers,
)
from claims.harness.rows import Measured
from kvcore.verdict import does_not_help, helps, hurts, negligible

SOURCE = "priming project summary, mechanism"
VALUES, EARLY = "values_only(static_fact)", "values_early_layers(static_fact,0.47)"
# In nats: d divides rounding by rounding. An eighth of the smallest published mean, 0.0086.
ROUNDING = negligible(delta=0.001, unit="nats/token")
GEMMA_ON_SQUAD = ("gemma3-4b", "squad_v2")
TENTHS = tuple(k / 10 for k in range(1, 11))


def below(share: float) -> str:
    """Name the condition with primed values below a share of the depth."""
    return f"values_early_layers(static_fact,{share})"


def only_below_float32(cell: Measured) -> str:
    """In a float32 model both rotations are the same arithmetic."""
    exact = cell.facts["dtype"] == "float32"
    return "the model itself computes in float32" if exact else ""


topic = claims_about("mechanism", source=SOURCE, slow=True, also_stored_at=(MANUALS,))


@topic.claim(
    "static-prefix-helps",
    version=2,
    predicts=helps(delta=0.09, effect=0.472),
    published=("exp07-mistral-static-fact", "exp16-gemma-static-fact"),
    also_stored_at=MANUALS_OF_ALL,
    instead={
        GEMMA_PASSAGES: Instead(
            does_not_help(delta=0.09, effect=-0.031),
            "A fixed question, read before the document and dropped again, makes the answer no "
            "easier.",
        ),
    },
)
def test_a_static_question_helps(judge):
    """A fixed question, read before the document and dropped again, makes the answer easier."""
    judge(paired_benefit("bare", "static_fact"))


@topic.claim(
    "primed-values-help",
    version=2,
    predicts=helps(delta=0.028, effect=0.056),
    published=(
        "exp09-mistral-values-only-static-fact",
        "exp16-gemma-values-only-static-fact",
        "exp24-gemma-values-only-static-fact-squad",
    ),
    instead={
        GEMMA_ON_SQUAD: Instead(
            does_not_help(delta=0.09, effect=-0.093),
            "On SQuAD primed values under bare keys make the answer no easier.",
        ),
    },
)
def test_primed_values_help(judge):
    """Primed values under bare keys make the answer easier."""
    judge(paired_benefit("bare", VALUES))


@topic.claim(
    "primed-values-of-early-layers-help",
    predicts=helps(delta=0.09, effect=0.211),
    published=(
        "exp19-gemma-early-layers-static-fact-16-of-34",
        "exp24-gemma-early-layers-static-fact-16-squad",
    ),
    instead={
        GEMMA_ON_SQUAD: Instead(
            does_not_help(delta=0.09, effect=-0.031),
            "On SQuAD primed values in the lower half of the layers make the answer no easier.",
        ),
    },
)
def test_primed_values_of_the_early_layers_help(judge):
    """Primed values in the lower half of the layers alone make the answer easier."""
    judge(paired_benefit("bare", EARLY))


@topic.claim(
    "early-values-beat-all-values",
    version=2,
    predicts=helps(delta=0.085, effect=0.170),
    published="exp19-gemma-early-layers-static-fact-16-against-values-only-static-fact",
)
def test_early_layers_beat_all_layers(judge):
    """Primed values in the lower half of the layers do better than in all of them."""
    judge(paired_benefit(VALUES, EARLY))


@topic.claim("lower-layers-carry-the-benefit", predicts=helps(delta=0.09))
def test_the_lower_layers_carry_the_benefit(judge):
    """The lower half of the layers gains more from primed values than the upper half adds."""
    judge(lower_against_upper_half("bare", {k: below(k) for k in TENTHS}))


@topic.claim("single-layers-help-less-the-deeper", predicts=hurts(delta=0.09))
def test_single_layers_help_less_the_deeper(judge):
    """Primed values in one layer alone help less the deeper the layer lies."""
    judge(single_layers("bare", "values_layer(static_fact,*)"))


@topic.claim(
    "primed-keys-interfere",
    version=2,
    predicts=hurts(delta=0.043, effect=-0.087),
    published="exp19-gemma-static-fact-against-values-only-static-fact",
)
def test_primed_keys_interfere(judge):
    """Adding the primed keys to the primed values makes the answer harder again."""
    judge(paired_benefit(VALUES, "static_fact"))


@topic.claim(
    "values-of-early-positions-do-not-help",
    predicts=does_not_help(delta=0.09, effect=0.010),
    published="exp19-gemma-early-positions-static-fact-25",
)
def test_primed_values_of_the_first_positions_do_not_help(judge):
    """Primed values on the first quarter of the document alone make the answer no easier."""
    judge(paired_benefit("bare", "values_early_positions(static_fact,0.25)"))


@topic.claim(
    "a-quarter-of-primed-values-helps",
    version=2,
    predicts=helps(delta=0.04, effect=0.081),
    published="exp19-gemma-interp-static-fact-25",
)
def test_a_quarter_of_the_primed_values_helps(judge):
    """Mixing a quarter of the primed values into the bare ones makes the answer easier."""
    judge(paired_benefit("bare", "interp(static_fact,0.25)"))


@topic.claim(
    "unmoved-keys-do-not-help",
    predicts=does_not_help(delta=0.09, effect=-0.009),
    published=(
        "exp19-gemma-no-reposition-static-fact",
        "exp12-mistral-no-reposition-static-fact-nq",
    ),
)
def test_keys_left_at_their_old_positions_do_not_help(judge):
    """A static prefix without re-positioning makes the answer no easier."""
    judge(paired_benefit("bare", "no_reposition(static_fact)"))


@topic.claim(
    "turning-keys-forth-and-back-changes-nothing",
    source="priming project summary, mechanism (lab notes: d -0.019)",
    predicts=ROUNDING,
    also_at=(MISTRAL, GEMMA_PASSAGES),
)
def test_turning_keys_forth_and_back_changes_nothing(judge):
    """Turning the keys forth and back by the prefix's length changes nothing."""
    judge(mean_benefit("bare", "rope_roundtrip(static_fact)"))


@topic.claim(
    "float32-rotation-changes-nothing",
    also_stored_at=(),  # the model there computes in float32
    applies=only_below_float32,
    predicts=ROUNDING,
    also_at=(MISTRAL, GEMMA_PASSAGES),
)
def test_the_precision_of_the_rotation_changes_nothing(judge):
    """Turning keys in float32 or in the model's own precision makes no difference."""
    judge(mean_benefit("reposition(static_fact,model)", "static_fact"))


written = claims_about("mechanism", source=SOURCE, slow=True)  # on keywords that the model writes
# The notes name the prefix of the first quarter of the layers; the other parts are of that table.
KEYWORD = "llm_surrogate(keyword)"
QUARTERS = {
    "first": {
        "claim_id": "primed-values-of-the-first-quarter-of-layers-help",
        "predicts": helps(delta=0.09, effect=0.233),
        "published": "exp09-mistral-values-in-layers-0-7-keyword",
        "statement": "Primed values in the first quarter of the layers make the answer easier.",
    },
    "second": {
        "claim_id": "primed-values-of-the-second-quarter-of-layers-help",
        "predicts": helps(delta=0.09, effect=0.267),
        "published": "exp09-mistral-values-in-layers-8-15",
        "statement": "Primed values in the second quarter of the layers make the answer easier.",
    },
    "third": {
        "claim_id": "primed-values-of-the-third-quarter-of-layers-do-not-help",
        "predicts": does_not_help(delta=0.09, effect=-0.017),
        "published": "exp09-mistral-values-in-layers-16-23",
        "statement": "Primed values in the third quarter of the layers make the answer no easier.",
    },
    "last": {
        "claim_id": "primed-values-of-the-last-quarter-of-layers-do-not-help",
        "predicts": does_not_help(delta=0.09, effect=-0.068),
        "published": "exp09-mistral-values-in-layers-24-31",
        "statement": "Primed values in the last quarter of the layers make the answer no easier.",
    },
}


@written.claim_for_each("quarter", QUARTERS, source="lab notes, experiment 09: ranges of layers")
def test_primed_values_of_a_quarter_of_the_layers(judge, quarter):
    """Primed values in the {quarter} quarter of the layers alone."""
    start = list(QUARTERS).index(quarter) / 4
    judge(paired_benefit("bare", f"values_layers({KEYWORD},{start},{start + 0.25})"))


PARTS = {
    "0,0.25": {
        "claim_id": "primed-values-on-the-first-quarter-of-the-document-help",
        "predicts": helps(delta=0.09, effect=0.333),
        "published": "exp09-mistral-values-on-the-first-quarter-of-positions",
        "statement": "Primed values on the first quarter of the document make the answer easier.",
    },
    "0.25,0.75": {
        "claim_id": "primed-values-on-the-middle-of-the-document-do-not-help",
        "predicts": does_not_help(delta=0.09, effect=0.044),
        "published": "exp09-mistral-values-on-the-middle-half",
        "statement": "Primed values on the middle half of the document make the answer no easier.",
    },
    "0.75,1": {
        "claim_id": "primed-values-on-the-last-quarter-of-the-document-do-not-help",
        "predicts": does_not_help(delta=0.09, effect=0.03),
        "published": "exp09-mistral-values-on-the-last-quarter",
        "statement": "Primed values on the last quarter of the document make the answer no easier.",
    },
}


@written.claim_for_each("part", PARTS, source="lab notes, experiment 09: ranges of positions")
def test_primed_values_on_a_part_of_the_document(judge, part):
    """Primed values on the document from {part} of its tokens alone."""
    judge(paired_benefit("bare", f"values_positions({KEYWORD},{part})"))


@written.claim(
    "primed-keys-alone-do-not-help",
    source="lab notes, experiment 08: keys and values apart",
    predicts=does_not_help(delta=0.09, effect=-0.009),
    published="exp08-mistral-keys-only-keyword",
)
def test_primed_keys_alone_do_not_help(judge):
    """Primed keys with the values of the bare document make the answer no easier."""
    judge(paired_benefit("bare", f"keys_only({KEYWORD})"))


@topic.claim(
    "amplified-values-do-not-help-on-long-pages",
    source="lab notes, experiment 12: amplified values",
    predicts=does_not_help(delta=0.09, effect=0.06),
    published="exp12-mistral-primed-minus-bare-values-times-5-nq",
)
def test_amplified_values_do_not_help(judge):
    """Five times the change that a static prefix makes to the values does not help."""
    judge(paired_benefit("bare", "amplified(static_fact,5)"))
