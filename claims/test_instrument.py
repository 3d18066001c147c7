"""The instrument's own pitfalls: token boundaries, cache lengths, rope bases."""

from claims.harness.claims import GEMMA_PASSAGES, claims_about
from claims.harness.estimands.paired import paired_benefit, share_of_samples
from kvcore.verdict import at_least, hurts


def only_sentencepiece(cell):
    """A byte-level tokenizer has no word marker to add, so the question does not arise."""
    return "" if cell.collected.sentencepiece else "the tokenizer is byte-level, not SentencePiece"


def only_two_bases(cell):
    """With one rope base for all layers there is nothing to mix up."""
    return "" if cell.collected.two_bases else "the model has one rope base for all layers"


def equally_long(first, second, third):
    """Whether the caches of a sample have the same number of slots."""
    length = first["cache_len"]
    return length.eq(second["cache_len"]) & length.eq(third["cache_len"])


topic = claims_about("instrument", source="priming notebook, experiment 01")


@topic.claim(
    "newline-is-no-clean-boundary",
    source="priming notebook, diagnostics",
    metrics=("boundary",),
    applies=only_sentencepiece,
    predicts=at_least(0.95, effect=1.0, unit="proportion"),
    published="notebook-mistral-newline-boundary",
)
def test_a_newline_is_never_a_clean_boundary(judge):
    """A passage tokenized alone never has the ids it has behind a newline (SentencePiece)."""
    judge(
        share_of_samples(
            "bare",
            name="passages that tokenize differently alone",
            holds=lambda bare: bare["clean_boundary"] == 0,
        )
    )


@topic.claim(
    "caches-have-equal-length",
    metrics=("lengths",),
    predicts=at_least(0.98, effect=1.0, unit="proportion"),
    published="notebook-mistral-equal-lengths",
)
def test_all_three_caches_have_equal_length(judge):
    """The bare, random and oracle caches of a sample have the same number of slots."""
    judge(
        share_of_samples(
            "bare", "random", "oracle", name="samples with three equal caches", holds=equally_long
        )
    )


@topic.claim(
    "values-of-another-document-hurt",
    source="lab notes, experiment 09: the positive control",
    predicts=hurts(delta=0.5, effect=-1.07),
    published="exp09-mistral-values-of-another-document",
)
def test_values_of_another_document_hurt(judge):
    """Under the document's own keys the values of another document make the answer far harder."""
    judge(paired_benefit("bare", "values_of_another(static_fact)"))


@topic.claim(
    "one-rope-base-hurts",
    source="re-positioning artifact, Gemma 3 270M",
    applies=only_two_bases,
    predicts=hurts(delta=0.09, effect=-0.31),
    published="artifact-gemma270m-one-base-random",
    also_at=(GEMMA_PASSAGES,),
)
def test_one_rope_base_for_all_layers_hurts(judge):
    """Re-positioning all layers with one base harms a model that has two."""
    judge(paired_benefit("random", "one_base(random)"))
