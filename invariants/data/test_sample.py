"""Samples are chosen and hashed by what they hold alone."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.own_files import hostile_text
from kvcore.data import sample as sample_module
from kvcore.data.sample import Sample, choose_samples
from kvcore.errors import KvError
from kvcore.io import digest


def some_samples(ids: Sequence[str]) -> list[Sample]:
    """Make samples that differ in their ids alone."""
    return [Sample("q", "p", "a", id=name) for name in ids]


ids = st.lists(hostile_text.filter(bool), min_size=1, max_size=30, unique=True)


def assert_choice_is_by_identity(names: list[str], n: int, seed: int, order: random.Random) -> None:
    """A larger n is a superset, and the order of the samples never matters."""
    samples = some_samples(names)
    shuffled = order.sample(samples, len(samples))
    assert choose_samples(samples, n, seed) == choose_samples(shuffled, n, seed)
    assert set(choose_samples(samples, n, seed)) <= set(choose_samples(shuffled, n + 1, seed))
    assert len(choose_samples(samples, n, seed)) == min(n, len(samples))
    assert set(choose_samples(samples, None, seed)) == set(samples)


@given(names=ids, n=st.integers(0, 40), seed=st.integers(-(2**63), 2**63), order=st.randoms())
def test_a_choice_depends_on_seed_and_identity_alone(
    names: list[str], n: int, seed: int, order: random.Random
) -> None:
    """Catches a choice that the order of samples or their number changes."""
    assert_choice_is_by_identity(names, n, seed, order)


def test_a_choice_by_luck_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches a digest that is drawn anew at each call."""
    luck = random.Random(0)
    monkeypatch.setattr(sample_module, "digest", lambda *_parts: str(luck.random()))
    with pytest.raises(AssertionError):
        assert_choice_is_by_identity([str(i) for i in range(30)], 10, 0, random.Random(1))


def assert_seeds_differ() -> None:
    """Two seeds choose other samples."""
    samples = some_samples([str(i) for i in range(200)])
    assert choose_samples(samples, 20, 0) != choose_samples(samples, 20, 1)


def test_another_seed_chooses_others() -> None:
    """Catches an ignored seed: two seeds agree on 20 of 200 by chance once in 1e27."""
    assert_seeds_differ()


def test_an_ignored_seed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches a digest that leaves out its first part."""
    real = digest
    monkeypatch.setattr(sample_module, "digest", lambda *parts: real(*parts[1:]))
    with pytest.raises(AssertionError):
        assert_seeds_differ()


def test_a_negative_number_of_samples_is_refused() -> None:
    """Catches a negative number taken for "all but so many"."""
    with pytest.raises(KvError, match="n must be 0 or more, or None for all samples; got -1"):
        choose_samples(some_samples(["a"]), -1, 0)


def assert_hash_separates(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Hashes are the same where the texts are, and only there."""
    same = Sample(*one).content_hash == Sample(*other).content_hash
    assert same == (one == other)
    assert re.fullmatch(r"[0-9a-f]{32}", Sample(*one).content_hash)


@st.composite
def moved_boundaries(draw: st.DrawFn) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Two samples made of one text, cut at different places."""
    text = draw(hostile_text)
    cuts = [sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2))) for _ in range(2)]
    first, second = ((text[:a], text[a:b], text[b:]) for a, b in cuts)
    return first, second


@given(pair=moved_boundaries() | st.tuples(*[st.tuples(*[hostile_text] * 3)] * 2))
def test_the_content_hash_tells_different_samples_apart(
    pair: tuple[tuple[str, str, str], tuple[str, str, str]],
) -> None:
    """Catches one hash for two samples, whatever separators their texts hold."""
    assert_hash_separates(*pair)


@pytest.mark.parametrize("separator", ["", "\n", "\0", "\x1f"])
def test_a_hash_of_joined_texts_is_noticed(separator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches texts joined by a separator that they may hold themselves."""
    real = digest
    monkeypatch.setattr(sample_module, "digest", lambda *parts: real(separator.join(parts)))
    with pytest.raises(AssertionError):
        assert_hash_separates((f"a{separator}b", "c", "d"), ("a", f"b{separator}c", "d"))


def test_a_sample_without_identity_gets_one_from_its_content() -> None:
    """Catches a default id that ignores content, and a default cluster that is another."""
    sample = Sample("q", "p", "a")
    assert sample == Sample("q", "p", "a") != Sample("q", "p", "b")
    assert sample.id == f"s-{sample.content_hash[:16]}"
    assert sample.cluster == sample.id
    assert Sample("q", "p", "a", cluster="c").cluster == "c"


HASH_SEED_CODE = """
import json, numpy
from kvcore.data import sample
from kvcore.data.docstrings import clean
{broken}
names = [n for n in dir(numpy) if callable(getattr(numpy, n)) and getattr(numpy, n).__doc__]
samples, dropped = clean.clean([(f"numpy.{{n}}", "m", getattr(numpy, n).__doc__) for n in names])
chosen = [s.id for s in sample.choose_samples(samples, 20, 0)]
print(json.dumps([chosen, [s.content_hash for s in samples], dropped]))
"""


def results_under_hash_seeds(broken: str) -> list[Any]:
    """Clean and choose in two interpreters with different string hashing."""
    code = HASH_SEED_CODE.format(broken=broken)
    return [child(code, PYTHONHASHSEED=seed) for seed in ("1", "2")]


def test_cleaning_and_choice_do_not_depend_on_the_hash_seed() -> None:
    """Catches samples, drops or a choice that change with the hash seed of the process."""
    first, second = results_under_hash_seeds("")
    assert first == second
    assert len(first[0]) == 20


def test_a_choice_by_python_hashes_is_noticed() -> None:
    """Twin: catches Python's own hash of a string."""
    first, second = results_under_hash_seeds("sample.digest = lambda *parts: str(hash(parts))")
    assert first != second
