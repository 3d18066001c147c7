"""From docstrings to samples: what is dropped and counted, and what is left."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.made_docstrings import FAMILIES, doc_of, sentence
from kvcore.data.datasets import load_corpus
from kvcore.data.docstrings import clean
from kvcore.data.sample import Corpus, Sample

NAMES = " ".join(["abc_def(x1, y2)"] * 50)
ONE_RULE_BROKEN = {
    "no summary sentence": ("p.f", doc_of(1, "return what lower case begins.")),
    "summary not 3 to 25 words": ("p.f", doc_of(1, "Short one.")),
    "unrendered template": ("p.f", doc_of(1) + "\n\nParameters\n----------\n%(param_x)s\n"),
    "fewer than 40 words of prose": ("p.f", doc_of(1, n_sentences=3)),
    "passage mostly code": ("p.f", doc_of(1, n_sentences=1) + f"\nIt is {NAMES} here."),
    "answer in passage": ("p.f", doc_of(1) + "\nSo to return the STONE of a  thing, call it."),
}


def assert_dropped(triples: list[tuple[str, str, str]], reason: str, count: int) -> None:
    """So many are dropped for this reason, and the rest are kept."""
    samples, dropped = clean.clean(triples)
    assert dropped == {reason: count}
    assert len(samples) == len(triples) - count


def test_a_good_docstring_is_kept_whole() -> None:
    """Catches a sound docstring that is cut, or that becomes another sample than documented."""
    (kept,), dropped = clean.clean([("p.f", "p._impl", doc_of(1))])
    assert dropped == {}
    assert (kept.query, kept.id, kept.cluster) == ("what does p.f do", "p.f", "p._impl")
    assert kept.answer == "Return the stone of a thing"
    assert kept.passage == " ".join(sentence(1000 + i) for i in range(6))


@pytest.mark.parametrize("reason", ONE_RULE_BROKEN)
def test_each_rule_drops_what_it_names(reason: str) -> None:
    """Catches a rule that does not drop what it names, or counts it under another."""
    name, doc = ONE_RULE_BROKEN[reason]
    assert_dropped([(name, "p", doc)], reason, 1)


@pytest.mark.parametrize("reason", ONE_RULE_BROKEN)
def test_a_rule_that_never_drops_is_noticed(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches the rule switched off."""
    monkeypatch.setitem(clean.RULES, reason, lambda _item: False)
    name, doc = ONE_RULE_BROKEN[reason]
    with pytest.raises(AssertionError):
        assert_dropped([(name, "p", doc)], reason, 1)


def test_every_rule_is_tested() -> None:
    """Catches a rule without a case here; shared boilerplate has its own test."""
    assert {*ONE_RULE_BROKEN, "fewer than 40 words without boilerplate"} == set(clean.RULES)


@pytest.mark.parametrize("reason", FAMILIES)
def test_families_are_thinned_out(reason: str) -> None:
    """Catches shared sentences, repeated answers or near-duplicates that all stay, or all go."""
    _, triples, count = FAMILIES[reason]
    assert_dropped(triples, reason, count)


@pytest.mark.parametrize("reason", FAMILIES)
def test_a_family_kept_whole_is_noticed(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches a finder of the family that finds nothing."""
    finder, triples, count = FAMILIES[reason]
    monkeypatch.setattr(clean, finder, lambda _items: frozenset())
    with pytest.raises(AssertionError):
        assert_dropped(triples, reason, count)


def test_of_two_near_duplicates_the_name_that_people_use_stays() -> None:
    """Catches a near-duplicate that stays for coming first, not for its shorter path."""
    _, triples, _ = FAMILIES["near-duplicate"]
    assert {clean.clean(order)[0][0].id for order in (triples, triples[::-1])} == {"p.f"}


MIXED = [
    (f"m{i}.f", "p", doc)
    for i, doc in enumerate(
        [doc for _, triples, _ in FAMILIES.values() for *_, doc in triples]
        + [doc for _, doc in ONE_RULE_BROKEN.values()]
    )
]


def assert_order_free(triples: list[tuple[str, str, str]], order: random.Random) -> None:
    """Same samples and counts in any order, and nothing is lost uncounted."""
    samples, dropped = clean.clean(triples)
    assert clean.clean(order.sample(triples, len(triples))) == (samples, dropped)
    assert clean.clean(triples[::-1]) == (samples, dropped)
    assert len(samples) + sum(dropped.values()) == len(triples)


@given(part=st.sets(st.sampled_from(MIXED)), order=st.randoms())
def test_cleaning_is_order_free_and_counts_everything(
    part: set[tuple[str, str, str]], order: random.Random
) -> None:
    """Catches an order that changes what stays, and a docstring that is lost uncounted."""
    assert_order_free(sorted(part), order)


def test_cleaning_that_follows_the_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches docstrings that are not put in order first."""
    monkeypatch.setattr(clean, "by_prominence", lambda _item: 0)
    with pytest.raises(AssertionError):
        assert_order_free(MIXED, random.Random(0))


def test_similarity_is_the_jaccard_index() -> None:
    """Catches a similarity that is not the Jaccard index.

    1. Sparse matrices, all pairs at once. 2. Sets of three words, pair by pair.
    """
    texts = ["a b c d e", "x b c d e", "a b c", "one two", "a b c d e"]
    cut = [text.split() for text in texts]
    sets = [set(zip(w, w[1:], w[2:], strict=False)) for w in cut]
    expected = [[len(a & b) / (len(a | b) or 1) for a in sets] for b in sets]
    np.testing.assert_allclose(clean.similarity(texts).toarray(), expected, rtol=1e-15)


# --- the corpus itself --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Load the default corpus as a user gets it."""
    return load_corpus("docstrings")


def test_there_are_a_thousand_clean_samples(corpus: Corpus) -> None:
    """Catches a corpus too small, with a name twice, or with most samples of few modules."""
    assert len(corpus.samples) >= 1000
    assert len({sample.id for sample in corpus.samples}) == len(corpus.samples)
    modules = Counter(sample.cluster for sample in corpus.samples)
    assert len(modules) >= 200
    assert max(modules.values()) <= 0.1 * len(corpus.samples)
    assert set(clean.RULES) <= set(corpus.dropped)


def assert_texts_are_clean(samples: Sequence[Sample]) -> None:
    """Lengths, markup and leaks, checked without the code that cleans."""
    markup = re.compile(r">>>|``|:\w+:`|%\(|\.\. \w+::|\\[a-z]{2}|SCIPY_ARRAY_API|\bat 0x|\s{2}|\n")
    for sample in samples:
        assert 3 <= len(sample.answer.split()) <= 25, sample
        assert 40 <= len(sample.passage.split()) <= 130, sample
        assert not markup.search(f"{sample.answer} | {sample.passage}"), sample
        assert sample.answer.casefold() not in sample.passage.casefold(), sample
        assert sample.passage.endswith((".", "!", "?", '."', ".)")), sample
        assert not any(part.startswith("_") for part in sample.id.split(".")), sample
        assert not sample.id.endswith("_gen"), sample


def test_texts_are_clean(corpus: Corpus) -> None:
    """Catches markup, leaks or lengths that a reader could see in the corpus itself."""
    assert_texts_are_clean(corpus.samples)


SOILED: dict[str, Callable[[Sample], Sample]] = {
    "short answer": lambda s: Sample(s.query, s.passage, "Too short", id=s.id),
    "long passage": lambda s: Sample(
        s.query, f"{s.passage} {'word ' * 130}end.", s.answer, id=s.id
    ),
    "code": lambda s: Sample(s.query, f">>> {s.passage}", s.answer, id=s.id),
    "answer told": lambda s: Sample(s.query, f"{s.answer.upper()}. {s.passage}", s.answer, id=s.id),
    "cut off": lambda s: Sample(s.query, s.passage.removesuffix("."), s.answer, id=s.id),
    "private": lambda s: Sample(s.query, s.passage, s.answer, id="numpy._core.f"),
    "generated": lambda s: Sample(s.query, s.passage, s.answer, id="scipy.stats.norm_gen"),
}


@pytest.mark.parametrize("fault", SOILED)
def test_a_soiled_sample_is_noticed(fault: str) -> None:
    """Twin: catches one fault in one sample."""
    (good,), _ = clean.clean([("p.f", "p", doc_of(1))])
    assert_texts_are_clean([good])
    with pytest.raises(AssertionError):
        assert_texts_are_clean([good, SOILED[fault](good)])


def assert_no_near_duplicates(samples: Sequence[Sample]) -> None:
    """No answer occurs twice; no two passages share 30 % of their word trigrams."""
    assert len({sample.answer.casefold() for sample in samples}) == len(samples)
    sets = []
    for sample in samples:
        words = sample.passage.casefold().split()
        sets.append(set(zip(words, words[1:], words[2:], strict=False)))
    holders: dict[tuple[str, ...], list[int]] = {}
    for index, shingles in enumerate(sets):
        for shingle in shingles:
            holders.setdefault(shingle, []).append(index)
    shared = Counter(
        (a, b) for held in holders.values() for i, a in enumerate(held) for b in held[i + 1 :]
    )
    for (a, b), common in shared.items():
        jaccard = common / (len(sets[a]) + len(sets[b]) - common)
        assert jaccard <= 0.3, (samples[a], samples[b])


def test_no_near_duplicates_are_left(corpus: Corpus) -> None:
    """Catches near-duplicates in the corpus, counted with plain sets."""
    assert_no_near_duplicates(corpus.samples)


@pytest.mark.parametrize("finder", ["repeated_answers", "near_duplicates"])
def test_duplicates_left_are_noticed(finder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches a finder of duplicates that finds nothing."""
    triples = [*FAMILIES["repeated answer"][1], *FAMILIES["near-duplicate"][1]]
    assert_no_near_duplicates(clean.clean(triples)[0])
    monkeypatch.setattr(clean, finder, lambda _items: frozenset())
    with pytest.raises(AssertionError):
        assert_no_near_duplicates(clean.clean(triples)[0])
