"""Generalisation: does a static prefix help on other datasets? The survey was a legacy one, so
its signs are the claims, not its sizes."""

from collections.abc import Callable

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import paired_benefit, trend_with_length
from claims.harness.rows import Measured
from kvcore.verdict import does_not_help, hurts, slugify

HELPS_NOT = ("does-not-help", "makes the answer no easier", does_not_help)
HURTS = ("hurts", "makes the answer harder", hurts)
HURTS_SUMMARIES = ("hurts", "makes the summary harder", hurts)
SURVEY = {  # name, what it does there, d
    "squad_v2": ("squad", "SQuAD v2", HELPS_NOT, 0.003),
    "hotpotqa": ("hotpotqa", "HotpotQA", HURTS, -0.35),
    "pubmedqa": ("pubmedqa", "PubMedQA", HURTS, -0.73),
    "cnn_dailymail": ("cnn-dailymail", "CNN/DailyMail", HURTS_SUMMARIES, -1.31),
    "narrativeqa": ("narrativeqa", "NarrativeQA", HURTS, -0.35),
}
LONG_PAGES = "exp11-mistral-static-fact-nq"


def surveyed(dataset: str) -> str:
    """Return the id of the value published for a dataset of the survey."""
    return f"legacy-mistral-static-fact-{slugify(dataset)}"


def only(dataset: str) -> Callable[[Measured], str]:
    """Give the claim a meaning on one dataset alone."""

    def applies(cell: Measured) -> str:
        return "" if cell.dataset == dataset else f"the claim is about {dataset}"

    return applies


def not_ms_marco(cell: Measured) -> str:
    """Leave out the dataset on which the benefit was found."""
    return "MS MARCO is where the benefit was found" if cell.dataset == "ms_marco" else ""


topic = claims_about(
    "generalisation", source="priming project summary, datasets (first version)", slow=True
)


@topic.claim_for_each(
    "dataset",
    {
        dataset: {
            "claim_id": f"static-prefix-{verb}-{slug}",
            "statement": f"On {name} a static prefix {said}.",
            "predicts": prediction(delta=0.09, effect=d),
            "applies": only(dataset),
            "published": surveyed(dataset),
        }
        for dataset, (slug, name, (verb, said, prediction), d) in SURVEY.items()
    },
)
def test_a_static_question_does_on_this_dataset_what_was_published(judge):
    """See the statements above."""
    judge(paired_benefit("bare", "static_fact"))


@topic.claim(
    "benefit-does-not-generalise",
    predicts=does_not_help(delta=0.09),
    applies=not_ms_marco,
    published=(*map(surveyed, SURVEY), LONG_PAGES),
)
def test_the_benefit_does_not_generalise(judge):
    """Away from MS MARCO a static prefix makes the answer no easier."""
    judge(paired_benefit("bare", "static_fact"))


@topic.claim(
    "static-prefix-does-not-help-natural-questions",
    source="priming project summary: a length effect, not a dataset effect",
    predicts=does_not_help(delta=0.09),
    applies=only("natural_questions"),
    published=LONG_PAGES,
)
def test_a_static_question_does_not_help_on_natural_questions(judge):
    """On long Natural Questions pages a static prefix makes the answer no easier.

    Set it beside "no-benefit-at-1024-tokens": padded passages of that length show none either.
    """
    judge(paired_benefit("bare", "static_fact"))


@topic.claim(
    "static-prefix-helps-less-on-longer-documents",
    source="priming project summary: what fails on Natural Questions is a matter of length",
    predicts=hurts(delta=0.05, unit="r"),
)
def test_a_static_question_helps_less_on_longer_documents(judge):
    """Within a dataset, the longer a document is by itself, the less a static prefix helps.

    Beside it stands d in three bins of equally many documents, from the shortest to the longest.
    """
    judge(trend_with_length("bare", "static_fact", bins=3))
