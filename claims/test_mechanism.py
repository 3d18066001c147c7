"""Mechanism: which half of a primed cache carries the effect, in which layers and positions."""

from claims.cells import GEMMA_4B, MISTRAL, claim
from claims.harness.estimands.paired import (
    lower_against_upper_half,
    mean_benefit,
    paired_benefit,
    single_layers,
)
from claims.measured import Measured
from kvcore.verdict import Published, does_not_help, helps, hurts, negligible

SOURCE = "priming project summary, mechanism"
VALUES, EARLY = "values_only(static_fact)", "values_early_layers(static_fact,0.47)"
# In nats: d divides rounding by rounding. An eighth of the smallest published mean, 0.0086.
ROUNDING = negligible(delta=0.001, unit="nats/token")
TENTHS = tuple(k / 10 for k in range(1, 11))


def below(share: float) -> str:
    """Name the condition with primed values below a share of the depth."""
    return f"values_early_layers(static_fact,{share})"


def gemma(d: float, text: str) -> Published:
    """Return a value published for Gemma 3 4B on MS MARCO, 2,174 passages."""
    return Published(d, 2174, "nll_tail", text=text)


def only_below_float32(cell: Measured) -> str:
    """In a float32 model both rotations are the same arithmetic."""
    exact = cell.provenance["dtype"] == "float32"
    return "the model itself computes in float32" if exact else ""


@claim("static-prefix-helps", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=helps(delta=0.09, effect=0.303),
       published={MISTRAL: Published(0.472, 2303, "nll_tail", text="d +0.472"),
                  GEMMA_4B: gemma(-0.031, "d -0.031, ns")})
def test_a_static_question_helps(rows, judge):
    """A fixed question, read before the document and dropped again, makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("primed-values-help", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", VALUES), predicts=helps(delta=0.05, effect=0.056),
       published={MISTRAL: Published(0.275, 2303, "nll_tail", text="d +0.275"),
                  GEMMA_4B: gemma(0.056, "d +0.056, p 0.009")})
def test_primed_values_help(rows, judge):
    """Primed values under bare keys make the answer easier."""
    judge(paired_benefit(rows("bare"), rows(VALUES)))


@claim("primed-values-of-early-layers-help", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", EARLY), predicts=helps(delta=0.09, effect=0.211),
       published={GEMMA_4B: gemma(0.211, "d +0.211")})
def test_primed_values_of_the_early_layers_help(rows, judge):
    """Primed values in the lower half of the layers alone make the answer easier."""
    judge(paired_benefit(rows("bare"), rows(EARLY)))


@claim("early-values-beat-all-values", family="mechanism", source=SOURCE, slow=True,
       needs=(VALUES, EARLY), predicts=helps(delta=0.09, effect=0.170),
       published={GEMMA_4B: gemma(0.170, "d +0.170, p 4e-15")})
def test_early_layers_beat_all_layers(rows, judge):
    """Primed values in the lower half of the layers do better than in all of them."""
    judge(paired_benefit(rows(VALUES), rows(EARLY)))


@claim("lower-layers-carry-the-benefit", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", *map(below, TENTHS)), predicts=helps(delta=0.09))
def test_the_lower_layers_carry_the_benefit(rows, judge):
    """The lower half of the layers gains more from primed values than the upper half adds."""
    judge(lower_against_upper_half(rows("bare"), {k: rows(below(k)) for k in TENTHS}))


@claim("single-layers-help-less-the-deeper", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", "values_layer(static_fact,*)"), predicts=hurts(delta=0.09))
def test_single_layers_help_less_the_deeper(rows, layers, judge):
    """Primed values in one layer alone help less the deeper the layer lies."""
    judge(single_layers(rows("bare"), layers("values_layer(static_fact,*)")))


@claim("primed-keys-interfere", family="mechanism", source=SOURCE, slow=True,
       needs=(VALUES, "static_fact"), predicts=hurts(delta=0.087, effect=-0.087),
       published={GEMMA_4B: gemma(-0.087, "d -0.087")})
def test_primed_keys_interfere(rows, judge):
    """Adding the primed keys to the primed values makes the answer harder again."""
    judge(paired_benefit(rows(VALUES), rows("static_fact")))


@claim("values-of-early-positions-do-not-help", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", "values_early_positions(static_fact,0.25)"),
       predicts=does_not_help(delta=0.09, effect=0.010),
       published={GEMMA_4B: gemma(0.010, "d +0.010 (lab notes)")})
def test_primed_values_of_the_first_positions_do_not_help(rows, judge):
    """Primed values on the first quarter of the document alone make the answer no easier."""
    judge(paired_benefit(rows("bare"), rows("values_early_positions(static_fact,0.25)")))


@claim("a-quarter-of-primed-values-helps", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", "interp(static_fact,0.25)"), predicts=helps(delta=0.08, effect=0.081),
       published={GEMMA_4B: gemma(0.081, "d +0.081 (lab notes)")})
def test_a_quarter_of_the_primed_values_helps(rows, judge):
    """Mixing a quarter of the primed values into the bare ones makes the answer easier."""
    judge(paired_benefit(rows("bare"), rows("interp(static_fact,0.25)")))


@claim("unmoved-keys-do-not-help", family="mechanism", source=SOURCE, slow=True,
       needs=("bare", "no_reposition(static_fact)"),
       predicts=does_not_help(delta=0.09, effect=-0.009),
       published={GEMMA_4B: gemma(-0.009, "d -0.009 (lab notes)")})
def test_keys_left_at_their_old_positions_do_not_help(rows, judge):
    """A static prefix without re-positioning makes the answer no easier."""
    judge(paired_benefit(rows("bare"), rows("no_reposition(static_fact)")))


@claim("turning-keys-forth-and-back-changes-nothing", family="mechanism", slow=True,
       source="priming project summary, mechanism (lab notes: d -0.019)",
       needs=("bare", "rope_roundtrip(static_fact)"), predicts=ROUNDING)
def test_turning_keys_forth_and_back_changes_nothing(rows, judge):
    """Turning the keys forth and back by the prefix's length changes nothing."""
    judge(mean_benefit(rows("bare"), rows("rope_roundtrip(static_fact)")))


@claim("float32-rotation-changes-nothing", family="mechanism", source=SOURCE, slow=True,
       needs=("static_fact", "reposition(static_fact,model)"), applies=only_below_float32,
       predicts=ROUNDING)
def test_the_precision_of_the_rotation_changes_nothing(rows, judge):
    """Turning keys in float32 or in the model's own precision makes no difference."""
    judge(mean_benefit(rows("reposition(static_fact,model)"), rows("static_fact")))
