"""Datasets by name: each row becomes its sample or is counted; records say what loaders give."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from invariants.support.children import child
from invariants.support.hub_cards import (
    CARDS,
    WORDS_50,
    WORDS_300,
    marco_passages,
    read_all,
    written,
)
from kvcore.data import all_passages, datasets, hub, past_queries
from kvcore.data import sample as sample_module
from kvcore.data.datasets import DATASETS, HUB
from kvcore.data.sample import Sample
from kvcore.errors import KvError

every_dataset = pytest.mark.parametrize("name", CARDS)


def assert_rows_are_judged(folder: Path, name: str) -> None:
    """The good row becomes its sample, each bad one is counted under its reason."""
    corpus = read_all(folder, name)
    card = CARDS[name]
    assert corpus.samples == (card.sample,)
    assert corpus.dropped == Counter([reason for reason, _ in card.bad] + ["repeated id"])
    assert (corpus.name, corpus.revision) == (name, datasets.HUB[name].revision)


@every_dataset
def test_rows_become_samples(name: str, tmp_path: Path) -> None:
    """Catches a row that becomes another sample, or a bad one that is taken or not counted."""
    assert_rows_are_judged(tmp_path, name)


@every_dataset
def test_a_loader_that_checks_nothing_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches empty texts that make samples too."""

    def unchecked(
        query: str, passage: str, answer: str, id: object, cluster: str | None = None
    ) -> Sample:
        return Sample(query, passage, answer, str(id), cluster or str(id))

    monkeypatch.setattr(datasets, "sample_or_reason", unchecked)
    with pytest.raises(AssertionError):
        assert_rows_are_judged(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "rule", "value"),
    [
        ("ms_marco", "WORDS", (49, 300)),
        ("ms_marco", "WORDS", (50, 301)),
        ("ms_marco", "NO_ANSWER", "none"),
        ("ms_marco", "first_nonblank", lambda texts: (*texts, "")[0]),
        ("squad_v2", "digest", lambda text: text),
        ("squad_v2", "first_nonblank", lambda texts: texts[-1]),
        ("cnn_dailymail", "SUMMARIZE", "Summarise."),
        ("cnn_dailymail", "first_nonblank", " ".join),
        ("narrativeqa", "digest", lambda text: text[::-1]),
        ("natural_questions", "PAGE_WORDS", 1499),
        ("natural_questions", "PAGE_WORDS", 1501),
    ],
)
def test_a_rule_that_is_off_is_noticed(
    name: str, rule: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches bounds moved by one, another instruction, another choice among answers.

    Where the good row is lost too, nothing is left, which the loader refuses in so many words.
    """
    monkeypatch.setattr(datasets, rule, value)
    with pytest.raises((AssertionError, KvError), match=r"assert|makes a sample"):
        assert_rows_are_judged(tmp_path, name)


def test_every_dataset_of_the_hub_has_a_card_here() -> None:
    """Catches a dataset without a card here, a description, or a full commit hash."""
    assert set(CARDS) == set(datasets.HUB)
    own = {"docstrings", datasets.SERVICE_MANUALS, datasets.PASSAGES}
    assert set(DATASETS) == {*own, *CARDS}
    assert all(re.fullmatch("[0-9a-f]{40}", data.revision) for data in datasets.HUB.values())


# --- passages to rank -----------------------------------------------------------------------


def assert_others_are_told(folder: Path) -> None:
    """Passages that nobody selected, each once; none that is selected, empty or the sample's."""
    card = CARDS["ms_marco"]
    lone = card.row | {"query_id": 8} | marco_passages([WORDS_50, WORDS_50], [1, 0])
    path = written(folder, "ms_marco", [card.row, lone])
    corpus = hub.corpus_from(datasets.HUB["ms_marco"], [path])
    assert [sample.id for sample in corpus.samples] == ["7", "8"]
    assert corpus.others == {"7": ("not this", "nor this")}


def check_passages(folder: Path) -> None:
    """Demand every passage of each query, with its true answer, chosen by whole queries."""
    card = CARDS["ms_marco"]
    more = [card.row | {"query_id": n} for n in range(10, 30)]
    path = written(folder, "ms_marco", [card.row, *more])
    corpus = hub.corpus_from(datasets.HUB["ms_marco"], [path])
    assert corpus.relevant["7"] == (WORDS_300,)
    passages = all_passages.by_passage(corpus, datasets.PASSAGES)
    own = [sample for sample in passages.samples if sample.cluster == "7"]
    assert [s.passage for s in own] == [WORDS_50, WORDS_300, "not this", "nor this"]
    assert own[0].id == "7#7"
    assert {(s.query, s.answer) for s in own} == {("what is it", "second one")}
    assert len({s.id for s in passages.samples}) == 4 * 21
    for n in (1, 4, 11, 40, None):
        chosen = passages.choose(n, seed=0)
        assert len(chosen) == (4 * max(1, n // 4) if n else 4 * 21)
        assert all(sum(s.cluster == t.cluster for t in chosen) == 4 for s in chosen)
        assert set(chosen) <= set(passages.choose(None, seed=0))
    assert set(passages.choose(11, seed=0)) <= set(passages.choose(40, seed=0))


def test_every_passage_of_a_query_is_a_sample(tmp_path: Path) -> None:
    """Catches a passage that is lost, asked another answer, or chosen without its query's rest."""
    check_passages(tmp_path)


def test_twin_passages_chosen_one_by_one_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above, were samples chosen one by one, or a selected passage left out."""
    with monkeypatch.context() as patch:
        patch.setattr(sample_module, "choose_clusters", sample_module.choose_samples)
        with pytest.raises(AssertionError):
            check_passages(tmp_path)
    data = dataclasses.replace(datasets.HUB["ms_marco"], relevant_of=lambda _row: ("not this",))
    monkeypatch.setitem(datasets.HUB, "ms_marco", data)
    with pytest.raises(AssertionError):
        check_passages(tmp_path)


def test_other_passages_of_a_query_are_kept(tmp_path: Path) -> None:
    """Catches passages to rank that are lost, repeated, or that answer the query."""
    assert_others_are_told(tmp_path)


def test_others_that_answer_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches every passage of the query among the others."""
    data = dataclasses.replace(
        datasets.HUB["ms_marco"], others_of=lambda row: tuple(row["passages"]["passage_text"])
    )
    monkeypatch.setitem(datasets.HUB, "ms_marco", data)
    with pytest.raises(AssertionError):
        assert_others_are_told(tmp_path)


def test_only_a_dataset_that_names_them_has_others(tmp_path: Path) -> None:
    """Catches a dataset said to be good for what its loader does not fill in."""
    for name in CARDS:
        assert (HUB[name].others_of is not None) == bool(read_all(tmp_path, name).others)
    assert [name for name in HUB if HUB[name].past_queries] == ["squad_v2", "narrativeqa"]


ASKED = {
    "a": "which paragraph?",
    "b": "who wrote one paragraph here?",
    "c": "one paragraph or two?",
    "d": "one paragraph or two?",
}


def assert_past_queries_are_the_nearest(folder: Path) -> None:
    """Of the other questions about a paragraph, the one that shares most words with it."""
    row = CARDS["squad_v2"].row
    rows = [{**row, "id": name, "question": text} for name, text in ASKED.items()]
    alone = {**row, "id": "e", "context": "Another.", "question": "one paragraph?"}
    path = written(folder, "squad_v2", [*rows, alone])
    corpus = hub.corpus_from(datasets.HUB["squad_v2"], [path])
    # Shared with "One paragraph.", of all their words: a 1 of 3, b 2 of 5, c and d 2 of 4.
    assert [dict(s.texts).get("past_query") for s in corpus.samples] == [
        ASKED["c"],
        ASKED["c"],
        ASKED["b"],
        ASKED["b"],
        None,
    ]


def test_past_queries_are_the_nearest(tmp_path: Path) -> None:
    """Catches a past query that is the sample's own, of another passage, or not the nearest."""
    assert_past_queries_are_the_nearest(tmp_path)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("jaccard", lambda query, _passage: -len(query)),
        ("replace", lambda sample, **_: sample),
    ],
)
def test_twin_past_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, broken: Any
) -> None:
    """Twin: catches the shortest question, and none at all."""
    monkeypatch.setattr(past_queries, name, broken)
    with pytest.raises(AssertionError):
        assert_past_queries_are_the_nearest(tmp_path)


def test_datasets_are_listed_without_loading_anything() -> None:
    """Catches torch or a reader of files imported for a look at the names; its twin asks so."""
    code = """
import json, sys
from kvcore.data.datasets import DATASETS
{more}
heavy = {{"torch", "transformers", "datasets", "pyarrow", "numpy", "huggingface_hub"}}
print(json.dumps(["ms_marco" in DATASETS, sorted(heavy & set(sys.modules))]))
"""
    assert child(code.format(more="")) == [True, []]
    assert child(code.format(more="import pyarrow"))[1] != []


def test_the_package_imports_no_model() -> None:
    """Catches torch, or what loads models, imported by any module of the data; its twin asks so."""
    code = """
import importlib, json, pkgutil, sys
import kvcore.data
for info in pkgutil.walk_packages(kvcore.data.__path__, "kvcore.data."):
    importlib.import_module(info.name)
{more}
barred = ("torch", "transformers", "kvcore.models", "pytest")
print(json.dumps([len([name for name in sys.modules if name.startswith("kvcore.data")]),
                  [name for name in barred if name in sys.modules]]))
"""
    imported, barred = child(code.format(more=""))
    assert imported >= 25
    assert barred == []
    assert child(code.format(more="import kvcore.models"))[1] != []
