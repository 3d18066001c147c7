"""Lists of passages depend on nothing but ids, and overlap is one of words.

Each property is a check; its twin breaks the production function and must see the check fail.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcore import io
from kvcore.data import ranking_lists, sample
from kvcore.data.datasets import load_corpus
from kvcore.data.docstrings import clean
from kvcore.data.docstrings.clean import near_duplicates, template
from kvcore.data.overlap import answer_overlap, jaccard
from kvcore.data.sample import Corpus, Sample
from kvcore.errors import KvError

quick = settings(max_examples=25, deadline=None)


def check_jaccard(a: list[int], b: list[int]) -> None:
    both = jaccard(a, b)
    assert 0 <= both <= 1
    assert both == jaccard(b, a) == jaccard(a + a, b)
    assert both == jaccard(" ".join(map(str, a)), "; ".join(map(str, b)))
    assert jaccard(a, a) == float(bool(a))
    assert (both == 0) == (not set(a) & set(b))


@quick
@given(a=st.lists(st.integers(0, 6)), b=st.lists(st.integers(0, 6)))
def test_overlap_is_symmetric_and_within_bounds(a: list[int], b: list[int]) -> None:
    check_jaccard(a, b)


def test_twin_jaccard_sees_a_one_sided_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "jaccard", lambda a, b: len(set(a) & set(b)) / max(
        len(set(a)), 1))
    with pytest.raises(AssertionError):
        check_jaccard([1, 2], [1, 2, 3])


def test_overlap_of_a_text_and_a_set_is_refused() -> None:
    """A text compared letter by letter with a list of words."""
    with pytest.raises(KvError, match="one is a text"):
        jaccard("a", [1])


def test_overlap_of_a_sample_is_that_of_passage_and_answer() -> None:
    assert answer_overlap(Sample("q", "The mean of x.", "the MEAN")) == 0.5


# --- candidates --------------------------------------------------------------------------------

WORDS = ("axis entries window spectrum kernel bounds sorted sparse number shape filter matrix "
         "label column random order signal value").split()


def described(name: str, seed: int) -> Sample:
    """A made-up callable whose passage names it, differently in every other."""
    rng = np.random.default_rng(seed)
    last = name.split(".")[-1]
    body = " ".join(rng.choice(WORDS, 30))
    passage = f"See {name} first. {last.upper()}() and np.{last} agree: {body}. {last}_ differs."
    return Sample(f"what does {name} do", passage, f"{last} of {' '.join(rng.choice(WORDS, 4))}",
                  id=name, cluster=name.rsplit(".", 1)[0])


def made_corpus() -> Corpus:
    sizes = {"pkg.big": 8, "pkg.small": 3, "pkg.DataFrame": 2, "other.mod": 6}
    names = [f"{module}.fn{i}x" for module, n in sizes.items() for i in range(n)]
    samples = [described(name, seed) for seed, name in enumerate(names)]
    twin = replace(samples[0], id="pkg.big.twin", query="what does pkg.big.twin do")
    return Corpus("made", (*samples, twin), {}, "r", "module", "")


CORPUS = made_corpus()


def named_corpus() -> Corpus:
    """Queries whose own passages the data names; one of them repeats the relevant passage."""
    samples = tuple(replace(s, id=str(i), cluster=str(i)) for i, s in enumerate(CORPUS.samples[:6]))
    texts = [s.passage for s in CORPUS.samples[8:14]]
    others = {s.id: (s.passage + " Too.", " ", *texts[: 2 + int(s.id) % 3], texts[0])
              for s in samples}
    return Corpus("named", samples, {}, "r", "query", "", others)


def by_query(made: Sequence[ranking_lists.Candidate]) -> dict[str, list[ranking_lists.Candidate]]:
    lists: dict[str, list[ranking_lists.Candidate]] = {}
    for candidate in made:
        lists.setdefault(candidate.query_id, []).append(candidate)
    return lists


def check_lists(corpus: Corpus, seed: int, negatives: int, masked: bool) -> None:
    """One relevant passage a list, no twins, ids unique, the true answer over every passage."""
    made = ranking_lists.candidates(corpus, 99, seed, negatives=negatives)
    asked = {s.id: s for s in corpus.samples}
    assert len({c.sample.id for c in made}) == len(made)
    for query, ranked in by_query(made).items():
        assert [c.relevant for c in ranked] == [True] + [False] * (len(ranked) - 1)
        assert ranked[0].sample.passage == asked[query].passage
        assert all(c.sample.passage.strip() for c in ranked)
        assert 2 <= len(ranked) <= 1 + negatives
        assert not near_duplicates([template(c.sample.passage, c.passage_id) for c in ranked])
        for c in ranked:
            assert (c.sample.query, c.sample.answer) == (asked[query].query, asked[query].answer)
            assert (c.sample.id, c.sample.cluster) == (f"{query}#{c.passage_id}", query)
    if masked:
        check_masked(made, ranking_lists.candidates(corpus, 99, seed, negatives=negatives, masked=True))


def check_masked(plain: Sequence[ranking_lists.Candidate], masked: Sequence[ranking_lists.Candidate]) -> None:
    """The same passages, but none of the list's names in any of them, nor in the answer."""
    assert [f"{c.sample.id}#masked" for c in plain] == [c.sample.id for c in masked]
    for ranked in by_query(masked).values():
        names = {part for c in ranked for id in (c.passage_id, c.query_id)
                 for part in (id, id.split(".")[-1])}
        for c, name in itertools.product(ranked, names):
            # The t of don't is no name.
            held = re.compile(rf"(?<!['\u2019])\b{re.escape(name)}\b", re.IGNORECASE)
            assert not held.search(c.sample.passage), f"{c.sample.id} holds {name}"
            assert not held.search(c.sample.answer), f"the answer of {c.sample.id} holds {name}"
        assert len({c.sample.answer for c in ranked}) == 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), negatives=st.integers(1, 12))
def test_every_list_has_one_relevant_passage_and_no_twins(seed: int, negatives: int) -> None:
    check_lists(CORPUS, seed, negatives, masked=True)
    check_lists(named_corpus(), seed, negatives, masked=False)


def test_twin_lists_see_twins_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "twins", lambda _texts: frozenset())
    for corpus in (CORPUS, named_corpus()):
        with pytest.raises(AssertionError):
            check_lists(corpus, 0, 12, masked=False)


def test_twin_masking_sees_names_left(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ranking_lists.without_names
    monkeypatch.setattr(ranking_lists, "without_names", lambda text, names: right(text, list(names)[:1]))
    with pytest.raises(AssertionError, match="holds"):
        check_lists(CORPUS, 0, 5, masked=True)


def check_determinism(corpus: Corpus, seed: int) -> None:
    """Lists depend on (seed, id) alone: not on order, not on how many queries are asked for."""
    whole = ranking_lists.candidates(corpus, 99, seed, negatives=4)
    turned = replace(corpus, samples=corpus.samples[::-1],
                     others={k: v[::-1] for k, v in corpus.others.items()})
    assert ranking_lists.candidates(turned, 99, seed, negatives=4) == whole
    for queries in (1, 3, 5):
        some = ranking_lists.candidates(corpus, queries, seed, negatives=4)
        assert some == whole[: len(some)]
        assert len(by_query(some)) == queries
    fewer, more = (by_query(ranking_lists.candidates(corpus, 99, seed, negatives=n)) for n in (2, 4))
    assert all(ranked == more[query][: len(ranked)] for query, ranked in fewer.items())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99))
def test_lists_depend_on_seed_and_id_alone(seed: int) -> None:
    check_determinism(CORPUS, seed)
    check_determinism(named_corpus(), seed)
    assert ranking_lists.candidates(CORPUS, 5, seed) != ranking_lists.candidates(CORPUS, 5, seed + 1)


def test_twin_determinism_sees_the_order_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "digest", lambda *_parts: "same")
    with pytest.raises((AssertionError, KvError)):
        check_determinism(named_corpus(), 1)
    monkeypatch.setattr(sample, "choose", lambda samples, _n, _seed: samples)
    with pytest.raises(AssertionError):
        check_determinism(CORPUS, 1)


def test_hard_negatives_come_from_the_module_then_from_the_package() -> None:
    made = ranking_lists.candidates(CORPUS, 99, 0, negatives=4)
    assert ranking_lists.counts(made) == {"cluster": 68, "package": 12, "query": 20}
    homes = {s.id: s.cluster for s in CORPUS.samples}
    for query, ranked in by_query(made).items():
        found = [c.origin for c in ranked[1:]]
        assert found == sorted(found)
        for c in ranked[1:]:
            assert (homes[c.passage_id] == homes[query]) == (c.origin == "cluster")
            assert homes[c.passage_id].split(".")[0] == query.split(".")[0]


def test_a_passage_that_holds_the_answer_is_no_negative() -> None:
    first, second, *rest = CORPUS.samples[:5]
    told = replace(second, passage=f"{second.passage} {first.answer.title()}!")
    made = ranking_lists.candidates(replace(CORPUS, samples=(first, told, *rest)), 9, 0)
    assert told.id not in [c.passage_id for c in by_query(made)[first.id]]
    assert first.id in [c.passage_id for c in by_query(made)[told.id]]


def test_docstrings_give_lists_of_ten_without_names() -> None:
    """The default corpus can be ranked: nine hard negatives for every query."""
    corpus = load_corpus("docstrings")
    plain, masked = (ranking_lists.candidates(corpus, 40, 0, masked=m) for m in (False, True))
    assert {len(ranked) for ranked in by_query(plain).values()} == {10}
    assert ranking_lists.counts(plain)["query"] == 40
    assert ranking_lists.counts(plain)["cluster"] > 40
    check_masked(plain, masked)


def test_names_are_masked_as_whole_words_with_their_path() -> None:
    assert ranking_lists.names_of("pandas.DataFrame.min") == {"dataframe", "min"}
    assert ranking_lists.names_of("scipy.stats.rv_discrete.fit") == {"rv_discrete", "fit"}
    assert ranking_lists.names_of("numpy.random.seed") == {"seed"}
    text = "Min: like numpy.min(x), amin and df.DataFrame.MIN don't minimize; min_x stays."
    assert ranking_lists.without_names(text, {"min", "dataframe"}) == (
        "it: like it(x), amin and it don't minimize; min_x stays.")
    assert ranking_lists.without_names("don't use t", {"t"}) == "don't use it"
    assert ranking_lists.without_names("as it was", ()) == "as it was"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking_lists.candidates(Corpus(
            "plain", (Sample("q", "p", "a"),), {}, "r", "sample", ""), 1, 0), "cannot be ranked"),
        (lambda: ranking_lists.candidates(Corpus(
            "lone", (Sample("q", "p", "a", "x", "c"),), {}, "r", "cluster", ""), 1, 0), "no query"),
        (lambda: ranking_lists.candidates(CORPUS, 0, 0), "queries=0"),
        (lambda: ranking_lists.candidates(CORPUS, 1, 0, negatives=0), "negatives=0"),
        (lambda: ranking_lists.candidates(replace(named_corpus(), samples=tuple(
            replace(s, query="which one") for s in named_corpus().samples)), 1, 0, masked=True),
         "by name"),
    ],
)
def test_a_corpus_that_cannot_rank_is_one_clear_line(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
