"""The second corpus: what manuals of web services say, clean, and none of it in the first one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from invariants.support.children import child
from invariants.support.made_docstrings import sentence
from invariants.support.made_manuals import html_of, written
from kvcore.data import kept, present
from kvcore.data.datasets import SERVICE_MANUALS, load_corpus
from kvcore.data.docstrings import clean
from kvcore.data.sample import Corpus, Sample
from kvcore.data.service_manuals import load, manuals
from kvcore.errors import MissingResource

# --- what the manuals say -----------------------------------------------------------------------

HTML = """<fullname>CopyThing</fullname><p>Copies a <code>Thing</code> &amp; its parts.
It   takes a while. For more information, see <a href="x">Copying</a> in the <i>Thing Guide</i>.
</p> <note> <p>An aside.</p> </note> <h3>Permissions</h3>
<p>You need one of the following permissions.</p> <ul> <li> <p>Of a list.</p> </li> </ul>
<p>To stop, use <a>StopThing</a>. See <b>Things</b>.</p><pre>code(1)</pre>"""
TEXT = (
    "CopyThing\n\nCopies a Thing & its parts. It takes a while.\n\nPermissions\n\n"
    "To stop, use StopThing."
)


def check_text() -> None:
    """Demand the running text alone, paragraph by paragraph, without what points elsewhere."""
    assert manuals.text_of(HTML) == TEXT


def test_the_running_text_is_read() -> None:
    """Catches lists, asides, code or pointers that are kept, or a sentence that is lost."""
    check_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SKIPPED", frozenset({"ul", "pre"})),
        ("SKIPPED", frozenset({"ul", "note"})),
        ("SKIPPED", frozenset({"note", "pre"})),
        ("INLINE", frozenset({"a"})),
        ("POINTER", re.compile("(?!)")),
        ("POINTER", re.compile("Guide")),
    ],
)
def test_twin_a_rule_of_the_text_that_is_off_is_seen(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches nothing of its own: each rule replaced in turn must fail the check above."""
    monkeypatch.setattr(manuals, name, value)
    with pytest.raises(AssertionError):
        check_text()


POINTERS = (
    "For more information, see Tagging resources.",
    "For more detailed information about keys, see the guide.",
    "To learn more, visit us.",
    "You can find the rules in the Thing Developer Guide.",
    "This operation has the following special errors.",
    "These metrics are listed in CloudWatch metrics that you can collect.",
    "For the quotas, see Quotas.",
)
KEPT = (
    "Use it to see how many things there are.",
    "The caller reads the page again after a minute.",
    "A topic holds the messages of a guide.",
)


@pytest.mark.parametrize("text", [*POINTERS, *KEPT])
def test_pointers_are_told_from_sentences(text: str) -> None:
    """Catches a pointer to another page that stays, or a sentence taken for one."""
    assert bool(manuals.POINTER.search(text)) is (text in POINTERS)


def check_operations(data: Path) -> None:
    """Demand each operation of the newest manual once, but for those that are withdrawn."""
    written(data, "thing-runtime", {"Old": "<p>Old.</p>"}, "2019-01-01")
    gone = {"documentation": "<p>Gone.</p>", "deprecated": True}
    written(data, "thing-runtime", {"Use": "<p>Use it.</p>", "Gone": gone, "Bare": {}})
    written(data, "thingv2", {"Make": "<p>Make it.</p>"})
    (data / "no-service").mkdir()
    (data / "endpoints.json").write_text("{}", encoding="utf-8")
    read = manuals.read(data)
    assert [(o.id, o.title, o.text) for o in read] == [
        ("thing-runtime.Bare", "Thing-Runtime Service", ""),
        ("thing-runtime.Use", "Thing-Runtime Service", "Use it."),
        ("thingv2.Make", "Thingv2 Service", "Make it."),
    ]
    assert {o.family for o in read} == {"thing"}


def test_operations_of_the_newest_manual_are_read(tmp_path: Path) -> None:
    """Catches an old manual, a withdrawn operation, or two services of a family told apart."""
    check_operations(tmp_path)


def test_twin_clusters_that_leak_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches nothing of its own: a family that is the service's folder must fail the check."""
    monkeypatch.setattr(manuals.Operation, "family", property(lambda self: self.service))
    with pytest.raises(AssertionError):
        check_operations(tmp_path)


# --- from manuals to samples --------------------------------------------------------------------


def samples_from(data: Path) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Return the samples of a folder of manuals, and what was dropped."""
    return load.samples_of(manuals.read(data))


def test_an_operation_becomes_a_sample(tmp_path: Path) -> None:
    """Catches another question, answer, passage or cluster than documented."""
    written(tmp_path, "thing-runtime", {"UseThing": html_of(1)})
    (sample,), dropped = samples_from(tmp_path)
    assert dropped == {}
    assert sample.query == "what does UseThing of Thing-Runtime Service do"
    assert (sample.id, sample.cluster) == ("thing-runtime.UseThing", "thing")
    assert sample.answer == "Returns the stone of a thing"
    assert sample.passage == " ".join(sentence(1000 + i) for i in range(6))


SOILED = {
    "fewer than 40 words of prose": {"F": ""},
    "answer in passage": {"F": html_of(1, more="<p>So it returns the STONE of a thing.</p>")},
    "no summary sentence": {"F": html_of(1, "returns what lower case begins.")},
    "repeated answer": {"F": html_of(1, "Returns the same."), "G": html_of(2, "Returns the same.")},
    "near-duplicate": {"F": html_of(1), "G": html_of(1, "Returns it anew.")},
}


def check_dropped(data: Path, reason: str) -> None:
    """Demand that a manual which breaks a single rule loses a single operation to it."""
    written(data, "thing", SOILED[reason])
    samples, dropped = samples_from(data)
    expected = "no summary sentence" if reason == "fewer than 40 words of prose" else reason
    assert dropped == {expected: 1}
    assert len(samples) == len(SOILED[reason]) - 1


@pytest.mark.parametrize("reason", SOILED)
def test_what_is_no_clean_sample_is_dropped(reason: str, tmp_path: Path) -> None:
    """Catches an empty, leaking, repeated or duplicated passage that stays, or goes uncounted."""
    check_dropped(tmp_path, reason)


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("answer in passage", "gives_away"),
        ("repeated answer", "repeated_answers"),
        ("near-duplicate", "near_duplicates"),
    ],
)
def test_twin_a_rule_that_drops_nothing_is_seen(
    reason: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches nothing of its own: leaks, repeats and duplicates kept must fail the check above."""
    if reason in clean.RULES:
        monkeypatch.setitem(clean.RULES, reason, lambda _item: False)
    else:
        monkeypatch.setattr(clean, rule, lambda _items: frozenset())
    with pytest.raises(AssertionError):
        check_dropped(tmp_path, reason)


# --- kept on this machine -----------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of small manuals that the loader takes for botocore's, and no cache."""
    folder = tmp_path / "botocore" / "data"
    written(folder, "thing", {"Use": html_of(1), "Make": html_of(2)})
    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "manuals_folder", lambda: folder)
    return folder


def check_extracted_once(data: Path) -> None:
    """Demand that manuals are read once, and again where the kept file is damaged."""
    first = load_corpus(SERVICE_MANUALS)
    assert [sample.id for sample in first.samples] == ["thing.Make", "thing.Use"]
    written(data, "thing", {"Use": html_of(1)})
    assert load_corpus(SERVICE_MANUALS) == first
    (stored,) = (data.parent.parent / "cache").rglob("*.json")
    stored.write_bytes(stored.read_bytes()[:-5])
    assert [sample.id for sample in load_corpus(SERVICE_MANUALS).samples] == ["thing.Use"]


def test_manuals_are_read_once(data: Path) -> None:
    """Catches manuals read at every start, or a damaged file that is never replaced."""
    check_extracted_once(data)


def test_twin_a_file_that_is_never_read_is_seen(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches nothing of its own: a corpus extracted each time must fail the check above."""
    monkeypatch.setattr(kept, "read", lambda _path, _describe: None)
    with pytest.raises(AssertionError):
        check_extracted_once(data)


@pytest.mark.usefixtures("data")
def test_another_version_makes_another_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a revision or a kept file that ignores the version of botocore."""
    before = load_corpus(SERVICE_MANUALS).revision
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0")
    assert load_corpus(SERVICE_MANUALS).revision != before


def test_other_code_makes_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches samples that outlive the code that made them, each source file in turn."""
    before, sources = load.cache_file("r"), load.SOURCES
    changed = tmp_path / "changed.py"
    changed.write_text("changed", encoding="utf-8")
    assert all(source.is_file() for source in sources)
    for i in range(len(sources)):
        monkeypatch.setattr(load, "SOURCES", (*sources[:i], changed, *sources[i + 1 :]))
        assert load.cache_file("r") != before, sources[i].name


def test_what_is_missing_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches missing manuals told without the command that installs them."""
    written(data, "thing", {"Use": "<p>Short.</p>"})
    with pytest.raises(MissingResource, match=r"no manual of botocore .* makes a sample"):
        load_corpus(SERVICE_MANUALS)
    monkeypatch.setattr(load, "PACKAGE", "no-such-package")
    command = r"'no-such-package' is not installed; run: pip install no-such-package"
    for look in (load_corpus, present.check_present):
        with pytest.raises(MissingResource, match=command):
            look(SERVICE_MANUALS)


def test_a_package_without_its_data_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a package stripped of its data that ends in a traceback."""
    monkeypatch.setattr(load, "PACKAGE", "json")
    with pytest.raises(MissingResource, match=r"without its data; run: pip install --force"):
        load.manuals_folder()


# --- the corpus itself --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Load the corpus as a user gets it."""
    return load_corpus(SERVICE_MANUALS)


@pytest.fixture(scope="module")
def docstrings() -> Corpus:
    """Load the default corpus."""
    return load_corpus("docstrings")


@pytest.mark.usefixtures("corpus")
def test_a_kept_corpus_imports_nothing_heavy() -> None:
    """Catches a load from the kept file that imports botocore, NumPy or anything heavier."""
    code = f"""
import json, sys
from kvcore.data.datasets import load_corpus
load_corpus({SERVICE_MANUALS!r})
heavy = ("torch", "transformers", "numpy", "scipy", "pandas", "botocore", "pytest")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    assert child(code) == []


def test_there_are_enough_samples_of_enough_services(corpus: Corpus) -> None:
    """Catches a corpus too small, with a name twice, or with most samples of few families."""
    assert len(corpus.samples) >= 500
    assert len({sample.id for sample in corpus.samples}) == len(corpus.samples)
    families = Counter(sample.cluster for sample in corpus.samples)
    assert len(families) >= 100
    assert max(families.values()) <= 0.1 * len(corpus.samples)
    family = {sample.id.split(".")[0]: sample.cluster for sample in corpus.samples}
    assert all(sample.cluster == family[sample.id.split(".")[0]] for sample in corpus.samples)
    assert corpus.revision == load.revision_of(load.version())


def check_clean(samples: Sequence[Sample]) -> None:
    """Demand lengths, plain text, no leak and no answer or passage twice, by plain means."""
    markup = re.compile(r"</?\w+>|&\w+;|\s{2}|\n|https?:|[Ss]ee [A-Z]|[Ff]or more information")
    for sample in samples:
        assert 3 <= len(sample.answer.split()) <= 25, sample
        assert 40 <= len(sample.passage.split()) <= 130, sample
        assert not markup.search(f"{sample.answer} | {sample.passage}"), sample
        assert sample.answer.casefold() not in sample.passage.casefold(), sample
        assert sample.passage.endswith((".", "!", "?", '."', ".)")), sample
    assert len({sample.answer.casefold() for sample in samples}) == len(samples)
    shingles = Counter(run for sample in samples for run in grams(sample.passage, 20))
    assert max(shingles.values()) <= 3


def grams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """Yield each run of n words of a text once, in lower case and without punctuation."""
    words = re.findall(r"\w+", text.casefold())
    yield from {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_texts_are_clean(corpus: Corpus) -> None:
    """Catches markup, pointers, leaks or copies that a reader could see in the corpus itself."""
    check_clean(corpus.samples)


FAULTS: dict[str, Callable[[Sample], Sample]] = {
    "short answer": lambda s: replace(s, answer="Too short"),
    "empty passage": lambda s: replace(s, passage=""),
    "markup": lambda s: replace(s, passage=f"<p>{s.passage}"),
    "pointer": lambda s: replace(s, passage=f"{s.passage} See Things."),
    "answer told": lambda s: replace(s, passage=f"{s.answer.upper()}. {s.passage}"),
    "cut off": lambda s: replace(s, passage=s.passage.removesuffix(".")),
    "answer twice": lambda s: s,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_twin_a_soiled_sample_is_seen(fault: str, tmp_path: Path) -> None:
    """Catches nothing of its own: a fault in a sample must fail the check above."""
    written(tmp_path, "thing", {"F": html_of(1)})
    (good,), _ = samples_from(tmp_path)
    check_clean([good])
    with pytest.raises(AssertionError):
        check_clean([good, FAULTS[fault](good)])


def shared_runs(first: Sequence[Sample], second: Sequence[Sample]) -> set[tuple[str, ...]]:
    """Return the runs of eight words that stand in the passages or answers of both."""
    own, other = (
        {run for s in samples for text in (s.passage, s.answer) for run in grams(text, 8)}
        for samples in (first, second)
    )
    return own & other


def check_independent(first: Sequence[Sample], second: Sequence[Sample]) -> None:
    """Demand that two corpora share no sample and no run of eight words."""
    assert shared_runs(first, second) == set()
    assert not {s.id for s in first} & {s.id for s in second}
    assert not {s.cluster for s in first} & {s.cluster for s in second}


def test_nothing_is_shared_with_the_docstrings(corpus: Corpus, docstrings: Corpus) -> None:
    """Catches text of the first corpus in the second one, by runs of eight words."""
    check_independent(corpus.samples, docstrings.samples)


def test_twin_a_shared_sentence_is_seen(corpus: Corpus, docstrings: Corpus) -> None:
    """Catches nothing of its own: a sentence of the first corpus must fail the check above."""
    taken = " ".join(docstrings.samples[0].passage.split()[:12])
    leaking = replace(corpus.samples[0], passage=f"{corpus.samples[0].passage} {taken}")
    with pytest.raises(AssertionError):
        check_independent([leaking], docstrings.samples)


def test_the_corpus_can_be_written_down(corpus: Corpus) -> None:
    """Catches texts that JSON cannot hold, or counts that do not name what was left out."""
    stored = json.loads(json.dumps([corpus.samples[0].passage, dict(corpus.dropped)]))
    assert stored == [corpus.samples[0].passage, corpus.dropped]
    assert {"near-duplicate", "repeated answer", "answer in passage"} <= set(corpus.dropped)
