"""Prefill dynamics: is what a model writes itself smoother to read than what people write?

Steps and norms are those of the continuation's tokens alone. The first tokens of a prefill can
have norms of thousands (attention sinks): they lie in the prompt, for every source the same one,
and are left out of every source alike. Each claim stands beside its variant by relative step,
since norms grow with depth: on gemma3-270m from 166 behind the first layer to 37,000 behind the
last, so that the mean over layers of absolute steps is one of the upper layers.

Looked into since it was measured: shuffled text is the smoothest, not the roughest, because of the
upper layers alone. Halfway up its relative steps are those of human text (0.81 against 0.80 on
smollm2-135m, 0.29 against 0.27 on gemma3-270m); behind the last layer but one they are much
smaller (0.44 against 0.57, 0.21 against 0.33). There the stream turns from the token read to the
tokens predicted, and where nothing can be predicted, that is nearly the same for every token.
"""

from claims.harness.claims import claims_about
from claims.harness.estimands.hidden_states import (
    differences_of_surprise_and_steps,
    gap_at_the_end,
    gap_over_depth,
    smoother,
    steps_and_token_nlls,
    surprise_and_steps,
)
from claims.harness.estimands.paired import mean_benefit
from kvcore.verdict import helps, hurts, negligible

SOURCE = "prefill dynamics plan, Gemma-2-2B on WikiText-2"
# Where nothing was published: expected to do as the base model, for which something was.
OTHERS = tuple((name, "wikitext2") for name in ("gemma2-2b-it", "llama3.2-1b", "qwen2.5-0.5b"))
BASE = ("gemma2-2b", "wikitext2")
STEPS = ("step", "relative-step")
WARM = "temperature(0.7)"


topic = claims_about(
    "dynamics",
    kind="hidden_states",
    source=SOURCE,
    slow=True,
    metrics=STEPS,
    min_n=50,
    also_at=(BASE, *OTHERS),
)


@topic.claim(
    "own-text-is-less-surprising",
    metrics=("ce",),
    version=2,
    predicts=helps(delta=0.1, effect=1.54, unit="nats/token"),
    published="dynamics-gemma2-ce",
)
def test_own_text_is_less_surprising(judge):
    """The text with the model's own continuation has a lower cross-entropy than the author's."""
    judge(mean_benefit("human", "greedy"))


@topic.claim(
    "own-text-is-smoother",
    predicts=helps(delta=0.2, effect=1.49),
    published="dynamics-gemma2-step",
)
def test_own_text_is_smoother(judge, cell):
    """The residual stream takes smaller steps along the model's own continuation."""
    judge(smoother("human", "greedy", metric=cell.metric))


# The instruct model reads what its base model writes; what it writes itself is another cell.
BASE_OF = {"gemma2-2b-it": "gemma2-2b"}
READERS = tuple((name, "wikitext2") for name in BASE_OF)


def has_base(cell):
    """Leave out models of which no base model is known."""
    return "" if cell.model in BASE_OF else f"no base model of {cell.model} is known"


def by_base(cell):
    """Return what a cell's base model writes; its own text where none is known."""
    return f"greedy({BASE_OF[cell.model]})" if cell.model in BASE_OF else "greedy"


@topic.claim(
    "base-models-text-is-less-surprising",
    metrics=("ce",),
    applies=has_base,
    also_at=READERS,
    predicts=helps(delta=0.1, effect=1.54, unit="nats/token"),
)
def test_the_base_models_text_is_less_surprising(judge, cell):
    """To an instruct model, its base model's continuation is less surprising than the author's."""
    judge(mean_benefit("human", by_base(cell)))


@topic.claim(
    "base-models-text-is-smoother",
    applies=has_base,
    also_at=READERS,
    predicts=helps(delta=0.2, effect=1.49),
)
def test_the_base_models_text_is_smoother(judge, cell):
    """An instruct model takes smaller steps along what its base model writes."""
    judge(smoother("human", by_base(cell), metric=cell.metric))


@topic.claim(
    "surprise-and-steps-correlate",
    predicts=helps(delta=0.1, effect=0.65, unit="r"),
    published="dynamics-gemma2-ce-step-r",
)
def test_surprise_and_steps_correlate(judge, cell):
    """The more surprising a text, the larger its steps, both sources pooled."""
    judge(surprise_and_steps("human", "greedy", metric=cell.metric))


@topic.claim("surprise-and-steps-correlate-within-human", predicts=helps(delta=0.1, unit="r"))
def test_surprise_and_steps_correlate_among_human_texts(judge, cell):
    """Among the authors' texts, the more surprising one takes the larger steps."""
    judge(surprise_and_steps("human", metric=cell.metric))


@topic.claim("surprise-and-steps-correlate-within-own", predicts=helps(delta=0.1, unit="r"))
def test_surprise_and_steps_correlate_among_own_texts(judge, cell):
    """Among the model's own texts, the more surprising one takes the larger steps."""
    judge(surprise_and_steps("greedy", metric=cell.metric))


@topic.claim("differences-of-surprise-and-steps-correlate", predicts=helps(delta=0.1, unit="r"))
def test_differences_of_surprise_and_steps_correlate(judge, cell):
    """Where the author's text is the more surprising one by more, so are its steps larger."""
    judge(differences_of_surprise_and_steps("human", "greedy", metric=cell.metric))


@topic.claim("gap-grows-with-depth", predicts=helps(delta=0.2))
def test_the_gap_grows_with_depth(judge, cell):
    """Over the first four fifths of the layers the gap between the two sources grows."""
    judge(gap_over_depth("human", "greedy", metric=cell.metric))


@topic.claim("gap-is-gone-at-the-end", predicts=negligible(delta=0.2))
def test_the_gap_is_gone_in_the_last_layer(judge, cell):
    """In the last layer the steps of the two sources are alike."""
    judge(gap_at_the_end("human", "greedy", metric=cell.metric))


@topic.claim("warm-text-is-smoother-than-human", predicts=helps(delta=0.2))
def test_text_at_temperature_is_smoother_than_human_text(judge, cell):
    """Written at temperature 0.7, the model's text still takes smaller steps than the author's."""
    judge(smoother("human", WARM, metric=cell.metric))


@topic.claim("warm-text-is-rougher-than-greedy", predicts=hurts(delta=0.2))
def test_text_at_temperature_is_rougher_than_greedy_text(judge, cell):
    """Written at temperature 0.7, the model's text takes larger steps than written greedily."""
    judge(smoother("greedy", WARM, metric=cell.metric))


@topic.claim("shuffled-text-is-the-roughest", predicts=hurts(delta=0.2))
def test_shuffled_text_is_rougher_than_human_text(judge, cell):
    """The author's tokens in random order take larger steps than in their own."""
    judge(smoother("human", "shuffled", metric=cell.metric))


@topic.claim(
    "own-text-goes-straighter",
    source="prefill dynamics plan, extensions",
    metrics=("cosine",),
    predicts=hurts(delta=0.2),
)
def test_own_text_goes_straighter(judge, cell):
    """Successive steps point more alike along the model's own continuation."""
    judge(smoother("human", "greedy", metric=cell.metric))


@topic.claim(
    "surprising-tokens-take-large-steps",
    source="prefill dynamics plan, extensions",
    metrics=("step",),
    predicts=helps(delta=0.2),
)
def test_surprising_tokens_take_large_steps(judge):
    """Within a text, the steps that arrive at surprising tokens are the larger ones."""
    judge(steps_and_token_nlls("human"))
