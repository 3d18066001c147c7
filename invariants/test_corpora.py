"""Corpora: samples are chosen and hashed reproducibly, and what is read is clean."""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from kvcore import corpora, io
from kvcore.corpora import clean, docstrings, files, load_corpus, prose, traits_of, walk
from kvcore.corpora.sample import Corpus, Sample, choose
from kvcore.errors import KvError, MissingResource

ROOT = Path(__file__).parent.parent
# Lone surrogates and control characters included: files may hold them.
hostile_text = st.text(st.characters(exclude_categories=()), max_size=12)


# --- samples and their choice ---------------------------------------------------------------


def some_samples(ids: Sequence[str]) -> list[Sample]:
    return [Sample("q", "p", "a", id=name) for name in ids]


ids = st.lists(hostile_text.filter(bool), min_size=1, max_size=30, unique=True)


def assert_choice_is_by_identity(names: list[str], n: int, seed: int, order: random.Random) -> None:
    """A larger n is a superset, and the order of the samples never matters."""
    samples = some_samples(names)
    shuffled = order.sample(samples, len(samples))
    assert choose(samples, n, seed) == choose(shuffled, n, seed)
    assert set(choose(samples, n, seed)) <= set(choose(shuffled, n + 1, seed))
    assert len(choose(samples, n, seed)) == min(n, len(samples))
    assert set(choose(samples, None, seed)) == set(samples)


@given(names=ids, n=st.integers(0, 40), seed=st.integers(-(2**63), 2**63), order=st.randoms())
def test_a_choice_depends_on_seed_and_identity_alone(
    names: list[str], n: int, seed: int, order: random.Random
) -> None:
    """Limit and order never change who is among the first n."""
    assert_choice_is_by_identity(names, n, seed, order)


def test_a_choice_by_luck_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: a digest that is drawn anew at each call."""
    luck = random.Random(0)
    monkeypatch.setattr(io, "digest", lambda *_parts: str(luck.random()))
    with pytest.raises(AssertionError):
        assert_choice_is_by_identity([str(i) for i in range(30)], 10, 0, random.Random(1))


def assert_seeds_differ() -> None:
    samples = some_samples([str(i) for i in range(200)])
    assert choose(samples, 20, 0) != choose(samples, 20, 1)


def test_another_seed_chooses_others() -> None:
    """Two seeds agree on 20 of 200 by chance once in 1e27."""
    assert_seeds_differ()


def test_an_ignored_seed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: a digest that leaves out its first part."""
    real = io.digest
    monkeypatch.setattr(io, "digest", lambda *parts: real(*parts[1:]))
    with pytest.raises(AssertionError):
        assert_seeds_differ()


def test_a_negative_number_of_samples_is_refused() -> None:
    """One line says what is allowed."""
    with pytest.raises(KvError, match="n = -1 samples; pass 0 or more"):
        choose(some_samples(["a"]), -1, 0)


def assert_hash_separates(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
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
    """Whatever separators the texts hold, lone surrogates included."""
    assert_hash_separates(*pair)


@pytest.mark.parametrize("separator", ["", "\n", "\0", "\x1f"])
def test_a_hash_of_joined_texts_is_noticed(separator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: texts joined by a separator that they may hold themselves."""
    real = io.digest
    monkeypatch.setattr(io, "digest", lambda *parts: real(separator.join(parts)))
    with pytest.raises(AssertionError):
        assert_hash_separates((f"a{separator}b", "c", "d"), ("a", f"b{separator}c", "d"))


def test_a_sample_without_identity_gets_one_from_its_content() -> None:
    """Equal content, equal identity; the cluster is the sample itself unless given."""
    sample = Sample("q", "p", "a")
    assert sample == Sample("q", "p", "a") != Sample("q", "p", "b")
    assert sample.id == f"s-{sample.content_hash[:16]}"
    assert sample.cluster == sample.id
    assert Sample("q", "p", "a", cluster="c").cluster == "c"


HASH_SEED_CODE = """
import json, numpy
from kvcore.corpora import choose, clean, sample
{broken}
names = [n for n in dir(numpy) if callable(getattr(numpy, n)) and getattr(numpy, n).__doc__]
samples, dropped = clean.clean([(f"numpy.{{n}}", "m", getattr(numpy, n).__doc__) for n in names])
print(json.dumps([[s.id for s in choose(samples, 20, 0)], [s.content_hash for s in samples],
                  dropped]))
"""


def results_under_hash_seeds(broken: str) -> list[Any]:
    code = HASH_SEED_CODE.format(broken=broken)
    return [child(code, PYTHONHASHSEED=seed) for seed in ("1", "2")]


def test_cleaning_and_choice_do_not_depend_on_the_hash_seed() -> None:
    """Two interpreters with different string hashing agree on everything."""
    first, second = results_under_hash_seeds("")
    assert first == second
    assert len(first[0]) == 20


def test_a_choice_by_python_hashes_is_noticed() -> None:
    """Twin: the digest is Python's own hash of a string."""
    first, second = results_under_hash_seeds("sample.digest = lambda *parts: str(hash(parts))")
    assert first != second


# --- from docstring to prose ----------------------------------------------------------------

FULL = """f(x, *, out=None) -> array

Turn a row of `numbers` into a *shorter* row. More of the summary is prose.

The rows are read by :func:`~numpy.fft.fft` and ``np.sum``, see [1]_ for
the proof. It keeps :math:`\\alpha` small. It was shown before [2]_, e.g. Knuth did it.
It is of unit length in :ref:`this part <there>`.

.. note::
    Rows that are empty are kept.

.. code-block:: python

    # Forget the code.

For example:

>>> forget.me()
3

where z is forgotten. The end (of it) stays.

- a list item, forgotten.

Note:
    Rows that are long are cut.

Parameters
----------
x : array
    Forget this description.

Args:
    y: Forget this one too.

Notes
-----
Rows are independent of each other. As shown below::

    forget.this()

**Array API Standard Support**

`f` has experimental support. Forget CuPy.

References
----------
.. [1] Forget the book.
"""


def assert_only_prose(doc: str) -> None:
    """The reading of ``FULL`` is exactly what a person would read aloud."""
    assert prose.read(doc) == prose.Prose(
        "Turn a row of numbers into a shorter row.",
        (
            "More of the summary is prose.",
            "It was shown before, e.g. Knuth did it.",
            "It is of unit length in this part.",
            "Rows that are empty are kept.",
            "The end (of it) stays.",
            "Rows that are long are cut.",
            "Rows are independent of each other.",
        ),
    )


def test_only_prose_is_read() -> None:
    """Signature, code, lists, parameters, citations, formulas and markup are left out."""
    assert_only_prose(FULL)


NEVER = re.compile(r"(?!)")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_ARRAY_API", NEVER),
        ("_SIGNATURE", NEVER),
        ("_BULLET", NEVER),
        ("_UNDERLINE", NEVER),
        ("_GOOGLE", NEVER),
        ("_CITED", NEVER),
        ("_MARKUP", NEVER),
        ("_INLINE", ()),
        ("_ABBREVIATION", NEVER),
        ("PROSE_DIRECTIVES", frozenset()),
        ("PROSE_DIRECTIVES", frozenset({"note", "code-block"})),
        ("PROSE_SECTIONS", frozenset()),
        ("whole", lambda _sentence: True),
        ("is_prose", lambda _block: True),
    ],
)
def test_a_reader_that_lost_a_rule_is_noticed(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: each rule switched off in turn."""
    monkeypatch.setattr(prose, name, value)
    with pytest.raises(AssertionError):
        assert_only_prose(FULL)


@given(doc=st.text(st.sampled_from(" \n.:`*-=>[]_()|ax1A\\%\ud800\x00"), max_size=80))
def test_any_text_can_be_read(doc: str) -> None:
    """Every sentence that is read stands alone; nothing raises."""
    assert all(prose.whole(sentence) for sentence in prose.read(doc).sentences)


# --- cleaning rules -------------------------------------------------------------------------

WORDS = (
    "river stone cloud paper music garden window bridge forest candle mirror island harbour"
    " meadow shadow winter summer letter coffee bottle ladder pencil basket button copper"
    " silver marble velvet cotton linen pepper ginger butter walnut cherry orange lemon"
).split()


def sentence(seed: int, length: int = 12) -> str:
    """Make a sentence of common words that shares no shingle with another by design."""
    return " ".join(random.Random(seed).sample(WORDS, length)).capitalize() + "."


def doc_of(seed: int, summary: str | None = None, n_sentences: int = 6) -> str:
    lines = [sentence(1000 * seed + i) for i in range(n_sentences)]
    return "\n\n".join([summary or f"Return the {WORDS[seed]} of a thing.", "\n".join(lines)])


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
    """Query, answer, passage, identity and cluster are as documented."""
    (kept,), dropped = clean.clean([("p.f", "p._impl", doc_of(1))])
    assert dropped == {}
    assert (kept.query, kept.id, kept.cluster) == ("what does p.f do", "p.f", "p._impl")
    assert kept.answer == "Return the stone of a thing"
    assert kept.passage == " ".join(sentence(1000 + i) for i in range(6))


@pytest.mark.parametrize("reason", ONE_RULE_BROKEN)
def test_each_rule_drops_what_it_names(reason: str) -> None:
    """A docstring that breaks one rule is dropped and counted under it."""
    name, doc = ONE_RULE_BROKEN[reason]
    assert_dropped([(name, "p", doc)], reason, 1)


@pytest.mark.parametrize("reason", ONE_RULE_BROKEN)
def test_a_rule_that_never_drops_is_noticed(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: the rule is switched off."""
    monkeypatch.setitem(clean.RULES, reason, lambda _item: False)  # type: ignore[arg-type]
    name, doc = ONE_RULE_BROKEN[reason]
    with pytest.raises(AssertionError):
        assert_dropped([(name, "p", doc)], reason, 1)


def test_every_rule_is_tested() -> None:
    """A rule added later needs its case; shared boilerplate has its own test."""
    assert {*ONE_RULE_BROKEN, "fewer than 40 words without boilerplate"} == set(clean.RULES)


SHARED = "\n".join(sentence(7 + i) for i in range(4))
FAMILIES = {
    "fewer than 40 words without boilerplate": (
        "boilerplate",
        [(f"p.f{i}", "p", f"Return the {WORDS[i]} of a thing.\n\n{SHARED}") for i in range(3)],
        3,
    ),
    "repeated answer": (
        "repeated_answers",
        [(f"p.f{i}", "p", doc_of(i, "Return the same to all!")) for i in range(3)],
        2,
    ),
    "near-duplicate": (
        "twins",
        [("p.f", "p", doc_of(5)), ("p.q.f", "p", doc_of(5, "Return it anew.") + "\nNew words.")],
        1,
    ),
}


@pytest.mark.parametrize("reason", FAMILIES)
def test_families_are_thinned_out(reason: str) -> None:
    """Shared sentences, repeated answers and near-duplicates; one of each family stays."""
    _, triples, count = FAMILIES[reason]
    assert_dropped(triples, reason, count)


@pytest.mark.parametrize("reason", FAMILIES)
def test_a_family_kept_whole_is_noticed(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: the finder of the family finds nothing."""
    finder, triples, count = FAMILIES[reason]
    monkeypatch.setattr(clean, finder, lambda _items: frozenset())
    with pytest.raises(AssertionError):
        assert_dropped(triples, reason, count)


def test_of_two_twins_the_name_that_people_use_stays() -> None:
    """The shorter path is kept, whatever the order."""
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
    """For any part of a corpus that breaks every rule."""
    assert_order_free(sorted(part), order)


def test_cleaning_that_follows_the_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: candidates are not put in order first."""
    monkeypatch.setattr(clean, "by_prominence", lambda _item: 0)
    with pytest.raises(AssertionError):
        assert_order_free(MIXED, random.Random(0))


def test_similarity_is_the_jaccard_index() -> None:
    """Against sets, pair by pair; a text without a shingle resembles nothing."""
    texts = ["a b c d e", "x b c d e", "a b c", "one two", "a b c d e"]
    cut = [text.split() for text in texts]
    sets = [set(zip(w, w[1:], w[2:], strict=False)) for w in cut]
    expected = [[len(a & b) / (len(a | b) or 1) for a in sets] for b in sets]
    np.testing.assert_allclose(clean.similarity(texts).toarray(), expected, rtol=1e-15)


# --- the corpus itself ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The default corpus as a user gets it."""
    return load_corpus("docstrings")


def test_there_are_a_thousand_clean_samples(corpus: Corpus) -> None:
    """Enough samples with unique names, in enough modules of which none dominates."""
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
    """No sample breaks a rule that a reader could see."""
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


@pytest.mark.parametrize("flaw", SOILED)
def test_a_soiled_sample_is_noticed(flaw: str) -> None:
    """Twin of the check: one flaw in one sample."""
    (good,), _ = clean.clean([("p.f", "p", doc_of(1))])
    assert_texts_are_clean([good])
    with pytest.raises(AssertionError):
        assert_texts_are_clean([good, SOILED[flaw](good)])


def assert_no_twins(samples: Sequence[Sample]) -> None:
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
    """Counted with plain sets, without the code that cleans."""
    assert_no_twins(corpus.samples)


@pytest.mark.parametrize("finder", ["repeated_answers", "twins"])
def test_duplicates_left_are_noticed(finder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: the finder of duplicates finds nothing."""
    triples = [*FAMILIES["repeated answer"][1], *FAMILIES["near-duplicate"][1]]
    assert_no_twins(clean.clean(triples)[0])
    monkeypatch.setattr(clean, finder, lambda _items: frozenset())
    with pytest.raises(AssertionError):
        assert_no_twins(clean.clean(triples)[0])


# --- extraction and its cache ---------------------------------------------------------------

HEAVY_CODE = """
import json, sys
from kvcore.corpora import load_corpus
{first}
load_corpus("docstrings")
heavy = ("torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "datasets", "pytest")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


@pytest.mark.usefixtures("corpus")
def test_a_cached_load_imports_nothing_heavy() -> None:
    """The second load reads one file."""
    assert child(HEAVY_CODE.format(first="")) == []


@pytest.mark.usefixtures("corpus")
def test_a_heavy_import_is_noticed() -> None:
    """Twin: the module that cleans is imported, as it would be at the top of the file."""
    assert "scipy" in child(HEAVY_CODE.format(first="import kvcore.corpora.clean"))


@pytest.fixture
def extractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An empty cache directory and a quick extraction; the list grows with each."""
    calls: list[int] = []

    def extract() -> dict[str, Any]:
        calls.append(len(calls))
        return {"found": [["p.f", "p", doc_of(1)], ["p.g", "p", "Short."]], "failed": ["p.bad"]}

    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(docstrings, "extract", extract)
    return calls


def assert_extracted_once(extractions: list[int], tmp_path: Path) -> None:
    """Loaded thrice, damaged between: one extraction, then one more for the damaged file."""
    first, second = load_corpus("docstrings"), load_corpus("docstrings")
    assert first == second
    assert len(extractions) == 1
    (stored,) = tmp_path.rglob("*.json")
    stored.write_bytes(stored.read_bytes()[:-5])
    assert load_corpus("docstrings") == first
    assert len(extractions) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_corpus_is_extracted_once(extractions: list[int], tmp_path: Path) -> None:
    """A damaged cache file is built again."""
    assert_extracted_once(extractions, tmp_path)


def test_a_cache_that_is_never_read_is_noticed(
    extractions: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: nothing is ever found in the cache."""
    monkeypatch.setattr(docstrings, "read_cached", lambda _path, _revision: None)
    with pytest.raises(AssertionError):
        assert_extracted_once(extractions, tmp_path)


def test_what_was_dropped_survives_the_cache(extractions: list[int]) -> None:
    """Counts by reason, modules that do not import among them."""
    for _ in range(2):
        loaded = load_corpus("docstrings")
        assert loaded.dropped["module does not import"] == 1
        assert loaded.dropped["summary not 3 to 25 words"] == 1
        assert [sample.id for sample in loaded.samples] == ["p.f"]
    assert len(extractions) == 1


def test_other_package_versions_make_another_corpus(
    extractions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revision and the cache file change with any version."""
    before = load_corpus("docstrings").revision
    monkeypatch.setattr(docstrings.metadata, "version", lambda _name: "0")
    assert load_corpus("docstrings").revision != before
    assert len(extractions) == 2


def test_other_cleaning_code_makes_another_cache_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale samples never outlive the code that made them."""
    before = docstrings.cache_file("r")
    for name in docstrings.SOURCES:
        (tmp_path / name).write_text("changed", encoding="utf-8")
    monkeypatch.setattr(docstrings, "__file__", str(tmp_path / "docstrings.py"))
    assert docstrings.cache_file("r") != before


def test_a_missing_package_is_one_line() -> None:
    """It names the command that installs it."""
    with pytest.raises(MissingResource, match=r"'no-such-package' is not .*pip install no-such"):
        docstrings.versions(("numpy", "no-such-package"))


def test_a_failing_extraction_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of the child process is passed on."""
    monkeypatch.setattr(docstrings, "__file__", str(tmp_path / "docstrings.py"))
    with pytest.raises(MissingResource, match=r"reading numpy failed: .*walk\.py"):
        docstrings.extract(("numpy",))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A small package with everything that a walk must pass by."""
    files = {
        "__init__.py": """
            from kvwalkme.longer.path import f, Tool
            import json
            def _hidden(): "Private."
            class Text(str):
                def own(self): "Its own."
            """,
        "longer/__init__.py": "",
        "longer/path.py": """
            def f(): "F."
            class Tool:
                "A tool."
                def use(self): "Use it."
                @classmethod
                def make(cls): "Make it."
                def _hidden(self): "Private."
            class Bare: pass
            number = 3
            f.__module__ = "kvwalkme"  # as NumPy does, to look public
            """,
        "broken.py": "raise SystemExit('needs a screen')",
        "_private.py": "raise RuntimeError('never imported')",
        "tests/__init__.py": "raise RuntimeError('never imported')",
    }
    for name, text in files.items():
        path = tmp_path / "kvwalkme" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text("\n".join(line.removeprefix(" " * 12) for line in lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "kvwalkme"
    for name in [name for name in sys.modules if name.split(".")[0] == "kvwalkme"]:
        del sys.modules[name]


def assert_public_once(package: str) -> None:
    """Public names only, each object once under its shortest path, failures named."""
    walked = walk.walk([package])
    assert [found.name for found in walked["found"]] == [
        f"kvwalkme.{name}" for name in ("Text.own", "Tool", "Tool.make", "Tool.use", "f")
    ]
    modules = {found.name: found.module for found in walked["found"]}
    assert modules["kvwalkme.Tool.use"] == modules["kvwalkme.f"] == "kvwalkme.longer.path"
    assert modules["kvwalkme.Text.own"] == "kvwalkme"
    assert walked["failed"] == ["kvwalkme.broken"]


def test_a_walk_finds_every_public_callable_once(package: str) -> None:
    """Private names, tests, aliases, inherited methods and other packages are passed by."""
    assert_public_once(package)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_public", lambda name: "tests" not in name and "_private" not in name),
        ("rank", lambda found: -len(found.name)),
        ("own_doc", lambda thing: getattr(thing, "__doc__", None)),
        ("source_module", lambda _thing: None),
        ("home_of", lambda *_args: "kvwalkme"),
        ("MAX_NESTING", 0),
    ],
)
def test_a_walk_that_lost_a_rule_is_noticed(
    name: str, value: object, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: each rule of the walk replaced in turn."""
    monkeypatch.setattr(walk, name, value)
    with pytest.raises(AssertionError):
        assert_public_once(package)


# --- files ----------------------------------------------------------------------------------

GOOD = {"query": "q", "passage": "p", "answer": "a"}


def jsonl(path: Path, *lines: str | bytes | dict[str, Any]) -> str:
    made = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"\n".join(m if isinstance(m, bytes) else m.encode() for m in made))
    return str(path)


@given(
    rows=st.lists(
        st.fixed_dictionaries({key: hostile_text.filter(str.strip) for key in GOOD}),
        min_size=1,
        max_size=5,
        unique_by=lambda row: tuple(row.items()),
    )
)
def test_texts_come_out_of_a_file_as_they_went_in(
    rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Surrogates, control characters and white space included."""
    path = tmp_path_factory.mktemp("rows") / "own.jsonl"
    loaded = load_corpus(jsonl(path, *rows))
    assert [(s.query, s.passage, s.answer) for s in loaded.samples] == [
        (row["query"], row["passage"], row["answer"]) for row in rows
    ]
    assert loaded.name == "own"


def test_empty_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    """Empty, blank and null alike; blank lines, a byte-order mark and CRLF do no harm."""
    path = jsonl(
        tmp_path / "own.jsonl",
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r",
        "",
        GOOD | {"passage": ""},
        GOOD | {"answer": " \n"},
        GOOD | {"answer": None},
        GOOD | {"query": ""},
        GOOD,
        GOOD | {"answer": "b", "id": 7, "cluster": "c"},
    )
    loaded = load_corpus(path)
    assert [(s.answer, s.id, s.cluster) for s in loaded.samples][1:] == [("b", "7", "c")]
    assert loaded.dropped == {
        "empty answer": 2,
        "empty passage": 1,
        "empty query": 1,
        "repeated sample": 1,
    }
    assert loaded.cluster_unit == "cluster"
    assert re.fullmatch("[0-9a-f]{64}", loaded.revision)


def assert_past_queries_are_carried(folder: Path) -> None:
    """Text is kept as it stands; blank, null and none at all are the same."""
    given_texts = [" what was asked ", "", " \n", None]
    rows = [GOOD | {"id": str(i), "past_query": text} for i, text in enumerate(given_texts)]
    path = jsonl(folder / "own.jsonl", *rows, GOOD | {"id": "none"})
    loaded = load_corpus(path).samples
    assert [sample.texts for sample in loaded] == [(("past_query", " what was asked "),), *[()] * 4]
    hashes = [sample.hash_with(["past_query"]) for sample in loaded]
    assert hashes[0] != hashes[1] == hashes[4]
    pq.write_table(pa.Table.from_pylist([*rows, GOOD | {"id": "none"}]), folder / "own.parquet")
    assert load_corpus(str(folder / "own.parquet")).samples == loaded


def test_a_file_may_name_past_queries(tmp_path: Path) -> None:
    """They become a further text of the sample."""
    assert_past_queries_are_carried(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PAST_QUERY", "query"), ("OPTIONAL", ("id", "cluster")), ("OPTIONAL", ("past_query", "id"))],
)
def test_a_lost_past_query_is_noticed(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: another column is read, not taken from Parquet, or taken for the identity."""
    monkeypatch.setattr(files, name, value)
    with pytest.raises((AssertionError, KvError), match=r"assert|is already on line"):
        assert_past_queries_are_carried(tmp_path)


def assert_traits_follow_the_file(folder: Path) -> None:
    """Length and past queries are what the rows say; a file names no passages to rank."""
    long = {"passage": "word " * 400}
    plain = traits_of(jsonl(folder / "a.jsonl", GOOD))
    other = long | {"query": "another"}
    full = traits_of(jsonl(folder / "b.jsonl", GOOD | long | {"past_query": "x"}, GOOD | other))
    assert (plain.long, plain.past_queries, plain.ranking) == (False, False, False)
    assert (full.long, full.past_queries, full.ranking) == (True, True, False)


def test_a_file_says_what_it_can_give(tmp_path: Path) -> None:
    """Traits of a file are read from it."""
    assert_traits_follow_the_file(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("LONG_WORDS", 401), ("PAST_QUERY", "past")])
def test_traits_that_ignore_the_file_are_noticed(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: another bound, another text."""
    monkeypatch.setattr(corpora, name, value)
    with pytest.raises(AssertionError):
        assert_traits_follow_the_file(tmp_path)


BAD_FILES: dict[str, tuple[list[str | bytes | dict[str, Any]], str]] = {
    "not JSON": ([GOOD, "{oops"], r"line 2 is not JSON \(.*\); one object a line is needed\."),
    "not UTF-8": ([GOOD, b'{"query": "\xff"}'], "line 2 is not UTF-8; one object a line"),
    "too deep": ([GOOD, "[" * 200_000], "line 2 is not JSON"),
    "no object": ([GOOD, "", "[1]"], "line 3 is not a JSON object"),
    "no column": ([GOOD, {"query": "q", "answer": "a"}], "column 'passage' lacks on line 2; need"),
    "no text": ([GOOD, GOOD | {"answer": 3}], "'answer' on line 2 is int, not text"),
    "past number": ([GOOD | {"past_query": 3}], "'past_query' on line 1 is int, not text"),
    "past list": ([GOOD, GOOD | {"past_query": ["q"]}], "'past_query' on line 2 is list, not text"),
    "two past queries": (
        [GOOD | {"past_query": "x"}, GOOD | {"past_query": "y"}],
        "on line 2 is already on line 1; give each row an id of its own",
    ),
    "same id": (
        [GOOD | {"id": "x"}, GOOD, GOOD | {"id": "x", "answer": "b"}],
        "id 'x' on line 3 is already on line 1",
    ),
    "empty file": ([], "no sample left; dropped: nothing, the file is empty"),
    "all empty": ([GOOD | {"answer": ""}], "no sample left; dropped: {'empty answer': 1}"),
}


@pytest.mark.parametrize("flaw", BAD_FILES)
def test_a_bad_file_is_one_line(flaw: str, tmp_path: Path) -> None:
    """It names the file, the line and what is needed."""
    lines, message = BAD_FILES[flaw]
    path = jsonl(tmp_path / "own.jsonl", *lines)
    with pytest.raises(KvError, match=message) as caught:
        load_corpus(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_parquet_is_read_like_json_lines(tmp_path: Path) -> None:
    """Same samples, other revision; further columns are ignored."""
    rows = [GOOD | {"id": str(i), "more": [i]} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    lines = load_corpus(jsonl(tmp_path / "own.jsonl", *rows))
    columns = load_corpus(str(tmp_path / "own.parquet"))
    assert columns.samples == lines.samples
    assert columns.revision != lines.revision
    assert columns.cluster_unit == "sample"


def test_bad_parquet_is_one_line(tmp_path: Path) -> None:
    """Whether the bytes or the columns are wrong."""
    path = tmp_path / "own.parquet"
    path.write_bytes(b"PAR1 this is no table")
    with pytest.raises(KvError, match=r"^.*own\.parquet: not a readable Parquet file .*$"):
        load_corpus(str(path))
    pq.write_table(pa.table({"query": ["q"], "answer": ["a"]}), path)
    with pytest.raises(KvError, match="column 'passage' lacks on line 1"):
        load_corpus(str(path))


@pytest.mark.parametrize(
    ("given_name", "message"),
    [
        ("docstring", "unknown dataset 'docstring': did you mean 'docstrings'"),
        ("msmarco", "did you mean 'ms_marco'"),
        ("no/such.jsonl", r"no.such\.jsonl: cannot be read \(No such file or directory\)"),
        ("no/such.csv", r"extension '\.csv' is unknown; use \.jsonl or \.parquet"),
        (".", "unknown dataset '.'"),
        ("", "unknown dataset ''"),
    ],
)
def test_a_name_that_is_nothing_is_one_line(given_name: str, message: str) -> None:
    """The nearest dataset, the missing file or the extensions that are known."""
    with pytest.raises(KvError, match=message):
        load_corpus(given_name)
