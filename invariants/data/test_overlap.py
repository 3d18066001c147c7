"""The overlap of two texts is the Jaccard index of their sets of words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariants.support.comparing import must_see
from invariants.support.faults import patched
from kvcore.data import overlap
from kvcore.data.overlap import answer_overlap
from kvcore.data.sample import Sample
from kvcore.errors import KvError

quick = settings(max_examples=25, deadline=None)


def check_jaccard(a: list[int], b: list[int]) -> None:
    """It is symmetric, within bounds, blind to repeats, and the same for texts and ids."""
    both = overlap.jaccard(a, b)
    assert 0 <= both <= 1
    assert both == overlap.jaccard(b, a) == overlap.jaccard(a + a, b)
    assert both == overlap.jaccard(" ".join(map(str, a)), "; ".join(map(str, b)))
    assert overlap.jaccard(a, a) == float(bool(a))
    assert (both == 0) == (not set(a) & set(b))


@quick
@given(a=st.lists(st.integers(0, 6)), b=st.lists(st.integers(0, 6)))
def test_overlap_is_symmetric_and_within_bounds(a: list[int], b: list[int]) -> None:
    """Catches an overlap that depends on the order, on repeats or on punctuation."""
    check_jaccard(a, b)


def test_twin_a_one_sided_overlap_is_noticed() -> None:
    """Twin: catches a share of the first set instead of the union."""

    def one_sided(a: list[int], b: list[int]) -> float:
        return len(set(a) & set(b)) / max(len(set(a)), 1)

    must_see(patched(overlap, "jaccard", one_sided), check_jaccard, [1, 2], [1, 2, 3])


def test_overlap_of_a_sample_is_that_of_passage_and_answer() -> None:
    """Catches the query taken for the answer, and case or punctuation counted."""
    assert answer_overlap(Sample("q", "The mean of x.", "the MEAN")) == 0.5


def test_a_text_and_ids_are_not_compared() -> None:
    """Catches a text compared letter by letter with token ids."""
    with pytest.raises(KvError, match="one is a text, the other is not"):
        overlap.jaccard("a", [1])
