"""Adaptation latency: how many tokens until the model follows a new context?

Pre-registered: no numbers were published, and hypotheses, thresholds and margins stand here since
before the first measurement. A solution is read token by token; at a quarter, a half or three
quarters of it the problem behind it is switched, by several ways along one and the same stream.

Looked into since it was measured on smollm2-135m: along the old problem's solution both references
predict nearly the same (KL of ignore to oracle 0.02 nats a token; the solution read so far says
more than the problem does), while any interruption costs 0.8 to 1.1. Which of two nearly equal
references is nearer then hangs on small things, and so noise and repetition "adapt" in 81 and 70 %
of sequences, injection in 92 %. The adaptation point by that rule tells little on this model.

There are two definitions. The published one is the first token from which P(token | injected) /
P(token | original) is above 1 and stays so, here for five tokens; the other asks which reference is
nearer in KL. Both are shown; what is claimed is injection against its noise control, pair by pair.
``@own`` is the same in the model's own text: it writes under the old context, and the context
changes in the midst of that.
"""

from claims.harness.claims import claims_about
from claims.harness.estimands.context_switch import (
    adapts_more,
    attention_settles,
    becomes_the_new_answer,
    changed,
    detected_within,
    gap_shrinks,
    hidden_states_come_nearer,
    leaves_a_smaller_gap,
    looks_more,
    more_tokens_close_more,
    same_answers,
    share_that_adapts,
    unchanged,
)
from claims.harness.rows import Measured
from kvcore.verdict import at_least, at_most, helps, hurts, negligible

SOURCE = "adaptation latency notes: a hypothesis, pre-registered"
SHARE, CHANGE = "proportion", "proportion difference"
SHOWN = ("gradual(4)", "flush", "partial(8)", "noise", "repetition", "ignore")
MOST, FEW = 0.5, 0.1  # more than half of the sequences; hardly any
PARTIAL = {m: f"partial({m})" for m in (4, 8, 16)}
ANSWERS = 0.2  # share of right answers below which two ways answer alike because neither does


def only_where_it_answers(cell: Measured) -> str:
    """Give a claim on answers a meaning only where the model gives some right ones."""
    own = cell.rows[(cell.rows["need"] == "free:oracle") & (cell.rows["status"] == "ok")]
    right = own.loc[own["identical"] == 0, "correct"]
    if right.empty or right.mean() >= ANSWERS:
        return ""
    return (
        f"with the new context from the start {int(right.sum())} of {right.size} answers are "
        f"right, fewer than {ANSWERS:.0%}: there is nothing to lose"
    )


# The model planned for on both its datasets, and two smaller ones that fit elsewhere.
PLACES = (
    *(("qwen2.5-math-7b", name) for name in ("mawps", "fairytaleqa")),
    *((name, "mawps") for name in ("llama3.2-1b", "qwen2.5-0.5b")),
)


topic = claims_about(
    "adaptation",
    kind="context_switch",
    source=SOURCE,
    slow=True,
    metrics=("latency",),
    min_n=50,
    also_at=PLACES,
)


@topic.claim("detected-within-five-tokens-of-noise", predicts=at_least(MOST, unit=SHARE))
def test_a_new_context_is_detected_within_five_tokens(judge):
    """Within 5 tokens most sequences move further than 95 % of those given random tokens do."""
    judge(detected_within(changed("injection"), changed("noise"), tokens=5))


@topic.claim("detected-within-five-tokens-of-repetition", predicts=at_least(MOST, unit=SHARE))
def test_a_new_context_is_told_from_a_repetition(judge):
    """Within 5 tokens most sequences move further than 95 % of those given the old one again."""
    judge(detected_within(changed("injection"), changed("repetition"), tokens=5))


@topic.claim("detected-within-five-tokens-of-identical", predicts=at_least(MOST, unit=SHARE))
def test_a_new_context_is_told_from_an_identical_one(judge):
    """Within 5 tokens most sequences move further than 95 % of the identical pairs' do."""
    judge(detected_within(changed("injection"), unchanged("injection"), tokens=5))


@topic.claim("injection-adapts-more-than-noise", predicts=helps(delta=0.1, unit=CHANGE))
def test_injection_adapts_more_than_noise(judge):
    """More sequences adapt, by the ratio of probabilities, to a new context than to random tokens.

    A share alone says little: along one and the same text any interruption moves probabilities.
    """
    shown = {name: changed(name) for name in SHOWN if name not in ("noise", "ignore")}
    judge(adapts_more(changed("injection"), changed("noise"), shown))


@topic.claim("injection-adapts-more-than-noise-in-own-text", predicts=helps(delta=0.1, unit=CHANGE))
def test_injection_adapts_more_than_noise_in_the_models_own_text(judge):
    """The same where the context changes while the model writes its own solution."""
    shown = {name: changed(name) for name in ("flush@own", "repetition@own")}
    judge(adapts_more(changed("injection@own"), changed("noise@own"), shown))


@topic.claim("hidden-states-come-nearer-to-the-oracles", predicts=helps(delta=0.2))
def test_hidden_states_come_nearer_to_the_oracles(judge):
    """Behind a new context hidden states are more like the oracle's than behind random tokens."""
    judge(hidden_states_come_nearer(changed("injection"), changed("noise")))


@topic.claim("attention-to-the-new-context-settles", predicts=helps(delta=0.2))
def test_attention_to_the_new_context_settles(judge):
    """From token 21 on the attention on an injected context changes less than right behind it."""
    judge(attention_settles(changed("injection")))


@topic.claim("gradual-injection-leaves-a-larger-gap", predicts=hurts(delta=0.2))
def test_gradual_injection_leaves_a_larger_gap(judge):
    """A context injected in four parts leaves a larger gap to the oracle than all of it at once.

    From token 6 on, where both have been injected whole: the parts are cut up by the solution.
    """
    judge(leaves_a_smaller_gap(changed("gradual(4)"), changed("injection"), first=6))


@topic.claim("injection-adapts", version=2, predicts=at_least(MOST, unit=SHARE))
def test_injection_adapts(judge):
    """Within 32 tokens most sequences come to follow an injected context, not the old one."""
    judge(
        share_that_adapts(
            changed("injection"), {name: changed(name) for name in SHOWN if name != "ignore"}
        )
    )


@topic.claim("noise-does-not-adapt", version=2, predicts=at_most(FEW, unit=SHARE))
def test_noise_does_not_adapt(judge):
    """Within 32 tokens, random tokens bring hardly any sequence nearer to the new context.

    What injection does is to be read against this share: five tokens in a row somewhere in 32
    are easily met.
    """
    judge(share_that_adapts(changed("noise")))


@topic.claim("repetition-does-not-adapt", version=2, predicts=at_most(FEW, unit=SHARE))
def test_a_repetition_does_not_adapt(judge):
    """Within 32 tokens, the old context once more brings hardly any nearer to the new one."""
    judge(share_that_adapts(changed("repetition")))


@topic.claim("identical-does-not-adapt", version=2, min_n=20, predicts=at_most(FEW, unit=SHARE))
def test_an_identical_context_does_not_adapt(judge):
    """Where the new context is the old one, there is nothing to come nearer to.

    Both references are then one script, so this holds by construction: it tests the instrument.
    """
    judge(share_that_adapts(unchanged("injection")))


@topic.claim("the-gap-to-the-oracle-shrinks", predicts=helps(delta=0.2))
def test_the_gap_to_the_oracle_shrinks(judge):
    """Behind the switch, the distance to having had the new context all along shrinks."""
    judge(gap_shrinks(changed("injection"), *(changed(name) for name in SHOWN)))


@topic.claim("more-recomputed-tokens-close-more", predicts=hurts(delta=0.2))
def test_more_recomputed_tokens_close_more_of_the_gap(judge):
    """The more tokens are computed anew under the new context, the smaller the gap."""
    judge(more_tokens_close_more({m: changed(name) for m, name in PARTIAL.items()}))


@topic.claim("attention-goes-to-the-new-context", metrics=("attention",), predicts=helps(delta=0.2))
def test_attention_goes_to_the_new_context(judge):
    """An injected context draws more attention than as many random tokens."""
    judge(looks_more(changed("injection"), changed("noise")))


@topic.claim(
    "flush-answers-as-the-oracle",
    version=2,
    metrics=("answers",),
    predicts=negligible(delta=0.1, unit=CHANGE),
    applies=only_where_it_answers,
)
def test_flush_answers_as_the_oracle_does(judge):
    """In free generation, dropping the old cache answers as rightly as the new context alone.

    Asked only where the model gives right answers at all.
    """
    judge(same_answers(changed("free:oracle"), changed("free:flush")))


@topic.claim(
    "injection-corrects-the-answer", metrics=("answers",), predicts=helps(delta=0.1, unit=CHANGE)
)
def test_injection_corrects_the_answer(judge):
    """In free generation, an injected context makes the final answer the new one."""
    judge(becomes_the_new_answer(changed("free:injection"), changed("free:ignore")))
