"""Ranking lists depend on nothing but ids; no list holds a near-duplicate or an unmasked name."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcore.data import ranking_lists as listing
from kvcore.data.datasets import load_corpus
from kvcore.data.docstrings.clean import near_duplicates, template
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Corpus, Sample
from kvcore.errors import KvError

WORDS = (
    "axis entries window spectrum kernel bounds sorted sparse number shape filter matrix "
    "label column random order signal value"
).split()


def described(name: str, seed: int) -> Sample:
    """A made-up callable whose passage names it, differently in every other."""
    rng = np.random.default_rng(seed)
    last = name.split(".")[-1]
    body = " ".join(rng.choice(WORDS, 30))
    passage = f"See {name} first. {last.upper()}() and np.{last} agree: {body}. {last}_ differs."
    return Sample(
        f"what does {name} do",
        passage,
        f"{last} of {' '.join(rng.choice(WORDS, 4))}",
        id=name,
        cluster=name.rsplit(".", 1)[0],
    )


def made_corpus() -> Corpus:
    """Make described callables of four modules, one of them with a near-duplicate."""
    sizes = {"pkg.big": 8, "pkg.small": 3, "pkg.DataFrame": 2, "other.mod": 6}
    names = [f"{module}.fn{i}x" for module, n in sizes.items() for i in range(n)]
    samples = [described(name, seed) for seed, name in enumerate(names)]
    near_duplicate = replace(samples[0], id="pkg.big.twin", query="what does pkg.big.twin do")
    return Corpus("made", (*samples, near_duplicate), {}, "r", "module", "")


CORPUS = made_corpus()


def named_corpus() -> Corpus:
    """Queries whose own passages the data names; one of them repeats the relevant passage."""
    samples = tuple(replace(s, id=str(i), cluster=str(i)) for i, s in enumerate(CORPUS.samples[:6]))
    texts = [s.passage for s in CORPUS.samples[8:14]]
    others = {
        s.id: (s.passage + " Too.", " ", *texts[: 2 + int(s.id) % 3], texts[0]) for s in samples
    }
    return Corpus("named", samples, {}, "r", "query", "", others)


def by_query(candidates: Sequence[listing.Candidate]) -> dict[str, list[listing.Candidate]]:
    """Return the lists by their query."""
    lists: dict[str, list[listing.Candidate]] = {}
    for candidate in candidates:
        lists.setdefault(candidate.query_id, []).append(candidate)
    return lists


def check_lists(corpus: Corpus, seed: int, negatives: int, masked: bool) -> None:
    """One relevant passage a list, no near-duplicates, unique ids, the true answer throughout."""
    made = ranking_lists(corpus, 99, seed, negatives=negatives)
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
        check_masked(made, ranking_lists(corpus, 99, seed, negatives=negatives, masked=True))


def check_masked(plain: Sequence[listing.Candidate], masked: Sequence[listing.Candidate]) -> None:
    """The same passages, but none of the list's names in any of them, nor in the answer."""
    assert [f"{c.sample.id}#masked" for c in plain] == [c.sample.id for c in masked]
    for ranked in by_query(masked).values():
        names = {
            part
            for c in ranked
            for id in (c.passage_id, c.query_id)
            for part in (id, id.split(".")[-1])
        }
        for c, name in itertools.product(ranked, names):
            # The t of don't is no name.
            held = re.compile(rf"(?<!['\u2019])\b{re.escape(name)}\b", re.IGNORECASE)
            assert not held.search(c.sample.passage), f"{c.sample.id} holds {name}"
            assert not held.search(c.sample.answer), f"the answer of {c.sample.id} holds {name}"
        assert len({c.sample.answer for c in ranked}) == 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), negatives=st.integers(1, 12))
def test_every_list_has_one_relevant_passage_and_no_near_duplicates(
    seed: int, negatives: int
) -> None:
    """Catches a list with no or two relevant passages, near-duplicates, or another answer."""
    check_lists(CORPUS, seed, negatives, masked=True)
    check_lists(named_corpus(), seed, negatives, masked=False)


def test_twin_lists_see_near_duplicates_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches near-duplicates that stay in a list."""
    monkeypatch.setattr(listing, "near_duplicates", lambda _texts: frozenset())
    for corpus in (CORPUS, named_corpus()):
        with pytest.raises(AssertionError):
            check_lists(corpus, 0, 12, masked=False)


def test_twin_masking_sees_names_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches names that are left after masking."""
    right = listing.without_names
    monkeypatch.setattr(listing, "without_names", lambda text, names: right(text, list(names)[:1]))
    with pytest.raises(AssertionError, match="holds"):
        check_lists(CORPUS, 0, 5, masked=True)


def check_determinism(corpus: Corpus, seed: int) -> None:
    """Lists depend on (seed, id) alone: not on order, not on how many queries are asked for."""
    whole = ranking_lists(corpus, 99, seed, negatives=4)
    turned = replace(
        corpus, samples=corpus.samples[::-1], others={k: v[::-1] for k, v in corpus.others.items()}
    )
    assert ranking_lists(turned, 99, seed, negatives=4) == whole
    for queries in (1, 3, 5):
        some = ranking_lists(corpus, queries, seed, negatives=4)
        assert some == whole[: len(some)]
        assert len(by_query(some)) == queries
    fewer, more = (by_query(ranking_lists(corpus, 99, seed, negatives=n)) for n in (2, 4))
    assert all(ranked == more[query][: len(ranked)] for query, ranked in fewer.items())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99))
def test_lists_depend_on_seed_and_id_alone(seed: int) -> None:
    """Catches lists that follow the order of the corpus or how many queries are asked for."""
    check_determinism(CORPUS, seed)
    check_determinism(named_corpus(), seed)
    assert ranking_lists(CORPUS, 5, seed) != ranking_lists(CORPUS, 5, seed + 1)


def test_twin_determinism_sees_the_order_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: catches passages or queries in the order of the corpus."""
    monkeypatch.setattr(listing, "digest", lambda *_parts: "same")
    with pytest.raises((AssertionError, KvError)):
        check_determinism(named_corpus(), 1)
    monkeypatch.setattr(listing, "choose_samples", lambda samples, _n, _seed: samples)
    with pytest.raises(AssertionError):
        check_determinism(CORPUS, 1)


def test_hard_negatives_come_from_the_module_then_from_the_package() -> None:
    """Catches a negative of another package, or of the package where the module has more."""
    made = ranking_lists(CORPUS, 99, 0, negatives=4)
    assert Counter(c.origin for c in made) == {"cluster": 68, "package": 12, "query": 20}
    homes = {s.id: s.cluster for s in CORPUS.samples}
    for query, ranked in by_query(made).items():
        found = [c.origin for c in ranked[1:]]
        assert found == sorted(found)
        for c in ranked[1:]:
            assert (homes[c.passage_id] == homes[query]) == (c.origin == "cluster")
            assert homes[c.passage_id].split(".")[0] == query.split(".")[0]


def test_a_passage_that_holds_the_answer_is_no_negative() -> None:
    """Catches a negative that answers the query word for word."""
    first, second, *rest = CORPUS.samples[:5]
    told = replace(second, passage=f"{second.passage} {first.answer.title()}!")
    made = ranking_lists(replace(CORPUS, samples=(first, told, *rest)), 9, 0)
    assert told.id not in [c.passage_id for c in by_query(made)[first.id]]
    assert first.id in [c.passage_id for c in by_query(made)[told.id]]


def test_docstrings_give_lists_of_ten_without_names() -> None:
    """Catches a default corpus with fewer than nine hard negatives, or names left in them."""
    corpus = load_corpus("docstrings")
    plain, masked = (ranking_lists(corpus, 40, 0, masked=m) for m in (False, True))
    assert {len(ranked) for ranked in by_query(plain).values()} == {10}
    origins = Counter(c.origin for c in plain)
    assert origins["query"] == 40
    assert origins["cluster"] > 40
    check_masked(plain, masked)


def test_names_are_masked_as_whole_words_with_their_path() -> None:
    """Catches a part of a word that is masked, and a path or another case that is not."""
    assert listing.names_of("pandas.DataFrame.min") == {"dataframe", "min"}
    assert listing.names_of("scipy.stats.rv_discrete.fit") == {"rv_discrete", "fit"}
    assert listing.names_of("numpy.random.seed") == {"seed"}
    text = "Min: like numpy.min(x), amin and df.DataFrame.MIN don't minimize; min_x stays."
    assert listing.without_names(text, {"min", "dataframe"}) == (
        "it: like it(x), amin and it don't minimize; min_x stays."
    )
    assert listing.without_names("don't use t", {"t"}) == "don't use it"
    assert listing.without_names("as it was", ()) == "as it was"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ranking_lists(
                Corpus("plain", (Sample("q", "p", "a"),), {}, "r", "sample", ""), 1, 0
            ),
            "cannot be ranked",
        ),
        (
            lambda: ranking_lists(
                Corpus("lone", (Sample("q", "p", "a", "x", "c"),), {}, "r", "cluster", ""), 1, 0
            ),
            "no query",
        ),
        (lambda: ranking_lists(CORPUS, 0, 0), "queries=0"),
        (lambda: ranking_lists(CORPUS, 1, 0, negatives=0), "negatives=0"),
        (
            lambda: ranking_lists(
                replace(
                    named_corpus(),
                    samples=tuple(replace(s, query="which one") for s in named_corpus().samples),
                ),
                1,
                0,
                masked=True,
            ),
            "by name",
        ),
    ],
)
def test_a_corpus_that_cannot_rank_is_one_clear_line(
    call: Callable[[], object], message: str
) -> None:
    """Catches a traceback, or an empty list, for a corpus or a number that cannot be ranked."""
    with pytest.raises(KvError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def check_several_relevant() -> None:
    """Demand every passage that answers in its list, first and marked, known by its id alone."""
    corpus = named_corpus()
    query = corpus.samples[0].id
    second = "An altogether different text that answers the same question in full."
    ranked = ranking_lists(replace(corpus, relevant={query: (second,)}), 6, 0)
    own = [c for c in ranked if c.query_id == query]
    before = [c for c in ranking_lists(corpus, 6, 0) if c.query_id == query]
    assert [c.relevant for c in own] == [True, True] + [False] * (len(before) - 1)
    assert own[1].sample.passage == second
    assert [c.passage_id for c in own if c not in own[1:2]] == [c.passage_id for c in before]
    assert all(listing.answers(c.query_id, c.passage_id) == c.relevant for c in ranked)


def test_a_list_may_have_several_relevant_passages() -> None:
    """Catches a passage that answers its query and counts as one that does not."""
    check_several_relevant()


def test_twin_one_relevant_passage_a_list_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were the query's own passage alone known for relevant."""
    monkeypatch.setattr(listing, "answers", lambda query, passage: query == passage)
    with pytest.raises(AssertionError):
        check_several_relevant()
