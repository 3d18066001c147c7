"""Texts are kept beside their rows, each once, and come back as they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claims.harness.rows import stored_sample
from kvcore.data.sample import Sample
from kvcore.store import texts

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
samples = st.builds(
    Sample,
    words,
    words,
    words,
    texts=st.lists(st.tuples(words, words), max_size=2).map(tuple),
    padding=st.lists(words, max_size=2).map(tuple),
    length=st.none() | st.integers(1, 9),
)


def check_round_trip(folder: Path, chosen: list[Sample]) -> None:
    """What is kept of samples gives the same samples, by their hashes."""
    kept = {sample.content_hash: dataclasses.asdict(sample) for sample in chosen}
    texts.save(folder, kept)
    loaded = texts.load(folder, kept)
    assert {name: stored_sample(fields) for name, fields in loaded.items()} == {
        sample.content_hash: sample for sample in chosen
    }


@settings(max_examples=20, deadline=None)
@given(chosen=st.lists(samples, max_size=3, unique_by=lambda sample: sample.content_hash))
def test_samples_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[Sample]
) -> None:
    """Catches a field, a character or a further text that is lost on the way."""
    check_round_trip(tmp_path_factory.mktemp("texts"), chosen)


def test_twin_texts_that_are_cut_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were further texts dropped."""
    right = texts.save
    monkeypatch.setattr(
        texts,
        "save",
        lambda folder, kept: right(folder, {k: {**v, "texts": ()} for k, v in kept.items()}),
    )
    with pytest.raises(AssertionError):
        check_round_trip(tmp_path, [Sample("q", "p", "a", texts=(("past_query", "x"),))])


def test_a_text_is_written_once_and_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    """Catches a folder that grows with every run, and texts lost with one damaged file."""
    kept = {sample.content_hash: dataclasses.asdict(sample) for sample in [Sample("q", "p", "a")]}
    texts.save(tmp_path, kept)
    texts.save(tmp_path, kept)
    (file,) = tmp_path.glob("_texts-*.parquet")
    file.write_bytes(b"damaged")
    assert texts.load(tmp_path, kept) == {}
    texts.save(tmp_path, kept)
    assert texts.load(tmp_path, kept).keys() == kept.keys()
