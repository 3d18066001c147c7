"""The instrument's own pitfalls: token boundaries, cache lengths, rope bases."""

from claims.cells import claim
from claims.harness.estimands.paired import paired_benefit, share_of_samples
from kvcore.verdict import Published, at_least, hurts


def only_sentencepiece(cell):
    """A byte-level tokenizer has no word marker to add, so the question does not arise."""
    return "" if cell.sentencepiece else "the tokenizer is byte-level, not SentencePiece"


def only_two_bases(cell):
    """With one rope base for all layers there is nothing to mix up."""
    return "" if cell.two_bases else "the model has one rope base for all layers"


@claim("newline-is-no-clean-boundary", family="instrument", source="priming notebook, diagnostics",
       needs=("bare",), metrics=("boundary",), applies=only_sentencepiece,
       predicts=at_least(0.95, effect=1.0, unit="proportion"),
       published=Published(1.0, 100, "boundary", text="100 of 100 samples mismatch"))
def test_a_newline_is_never_a_clean_boundary(rows, judge):
    """A passage tokenized alone never has the ids it has behind a newline (SentencePiece)."""
    judge(share_of_samples("passages that tokenize differently alone",
                           lambda bare: bare["clean_boundary"] == 0, rows("bare")))


@claim("caches-have-equal-length", family="instrument", source="priming notebook, experiment 01",
       needs=("bare", "random", "oracle"), metrics=("lengths",),
       predicts=at_least(0.98, effect=1.0, unit="proportion"),
       published=Published(1.0, 2500, "lengths", text="2,500 of 2,500"))
def test_all_three_caches_have_equal_length(rows, judge):
    """The bare, random and oracle caches of a sample have the same number of slots."""
    judge(share_of_samples(
        "samples with three equal caches",
        lambda *caches: caches[0]["cache_len"].eq(caches[1]["cache_len"])
        & caches[0]["cache_len"].eq(caches[2]["cache_len"]),
        rows("bare"), rows("random"), rows("oracle")))


@claim("one-rope-base-hurts", family="instrument", source="re-positioning artifact, Gemma 3 270M",
       needs=("random", "one_base(random)"), applies=only_two_bases,
       predicts=hurts(delta=0.09, effect=-0.31))
def test_one_rope_base_for_all_layers_hurts(rows, judge):
    """Re-positioning all layers with one base harms a model that has two."""
    judge(paired_benefit(rows("random"), rows("one_base(random)")))
