"""Generalisation: does a static prefix help on other datasets? The survey was a legacy one, so
its signs are the claims, not its sizes."""

from collections.abc import Callable

from claims.cells import claim
from claims.harness.estimands.paired import paired_benefit
from claims.measured import Measured
from kvcore.verdict import Published, does_not_help, hurts

SOURCE = "priming project summary, datasets (first version)"


def published(dataset: str, d: float, win: int) -> dict[tuple[str, str], Published]:
    """Return a legacy value, measured with Mistral-7B."""
    said = f"d {d:+.2f}, {win} % win (legacy)"
    return {("mistral-7b", dataset): Published(d, None, "nll_tail", legacy=True, text=said)}


def only(dataset: str) -> Callable[[Measured], str]:
    """Give the claim a meaning on one dataset alone."""
    def applies(cell: Measured) -> str:
        return "" if cell.dataset == dataset else f"the claim is about {dataset}"

    return applies


def not_ms_marco(cell: Measured) -> str:
    """Leave out the dataset on which the benefit was found."""
    return "MS MARCO is where the benefit was found" if cell.dataset == "ms_marco" else ""


@claim("static-prefix-does-not-help-squad", family="generalisation", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=does_not_help(delta=0.09, effect=0.003),
       applies=only("squad_v2"), published=published("squad_v2", 0.003, 52))
def test_a_static_question_does_not_help_on_squad(rows, judge):
    """On SQuAD v2 a static prefix makes the answer no easier."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("static-prefix-hurts-hotpotqa", family="generalisation", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=hurts(delta=0.09, effect=-0.35),
       applies=only("hotpotqa"), published=published("hotpotqa", -0.35, 34))
def test_a_static_question_hurts_on_hotpotqa(rows, judge):
    """On HotpotQA a static prefix makes the answer harder."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("static-prefix-hurts-pubmedqa", family="generalisation", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=hurts(delta=0.09, effect=-0.73),
       applies=only("pubmedqa"), published=published("pubmedqa", -0.73, 16))
def test_a_static_question_hurts_on_pubmedqa(rows, judge):
    """On PubMedQA a static prefix makes the answer harder."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("static-prefix-hurts-cnn-dailymail", family="generalisation", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=hurts(delta=0.09, effect=-1.31),
       applies=only("cnn_dailymail"), published=published("cnn_dailymail", -1.31, 8))
def test_a_static_question_hurts_on_cnn_dailymail(rows, judge):
    """On CNN/DailyMail a static prefix makes the summary harder."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("static-prefix-hurts-narrativeqa", family="generalisation", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=hurts(delta=0.09, effect=-0.35),
       applies=only("narrativeqa"), published=published("narrativeqa", -0.35, 45))
def test_a_static_question_hurts_on_narrativeqa(rows, judge):
    """On NarrativeQA a static prefix makes the answer harder."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("benefit-does-not-generalise", family="generalisation", source=SOURCE, slow=True,
       needs=("bare", "static_fact"), predicts=does_not_help(delta=0.09),
       applies=not_ms_marco)
def test_the_benefit_does_not_generalise(rows, judge):
    """Away from MS MARCO a static prefix makes the answer no easier."""
    judge(paired_benefit(rows("bare"), rows("static_fact")))


@claim("static-prefix-does-not-help-natural-questions", family="generalisation", slow=True,
       source="priming project summary: a length effect, not a dataset effect",
       needs=("bare", "static_fact"), predicts=does_not_help(delta=0.09),
       applies=only("natural_questions"),
       published={("mistral-7b", "natural_questions"): Published(
           0.0, None, "nll_tail", legacy=True, text="none (legacy)")})
def test_a_static_question_does_not_help_on_natural_questions(rows, judge):
    """On long Natural Questions pages a static prefix makes the answer no easier.

    Set it beside "no-benefit-at-1024-tokens": padded passages of that length show none either.
    """
    judge(paired_benefit(rows("bare"), rows("static_fact")))
