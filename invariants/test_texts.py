"""Texts are paragraphs cut behind their first sentence; their sources are equal in length.

What a model writes is compared with `generate` one prompt at a time, which has oracles of its own
in ``test_generation.py``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Features, Value
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.comparing import must_see
from kvcore import loading, sources, tokenization
from kvcore.corpora import hub, prose, texts
from kvcore.corpora.texts import WIKITEXT, Text, TextCorpus, load_texts, split
from kvcore.errors import KvError, MissingResource, StoreWarning
from kvcore.measurements import continuations, generation, surrogate_store
from kvcore.models.lm import LM

Fault = Callable[[pytest.MonkeyPatch], None]
CLOSING = "\"')]\u201d\u2019"
SPLIT = texts.split
OPENING = " \n\"'([`\u201c\u2018"


def patched(module: Any, name: str, value: object) -> Fault:
    """Return the fault that replaces one name of a module."""
    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, value)

    fault.__name__ = name
    return fault


# --- sentences ---------------------------------------------------------------------------------

CUTS = (
    ("It rained. He left.", "It rained."),
    ("Is it so? It is.", "Is it so?"),
    ('He said "no!" Then he left.', 'He said "no!"'),
    ("It rained (a lot.)  \n(Nobody left.) So it was.", "It rained (a lot.)"),
    ("See e.g. Brown. He left.", "See e.g. Brown."),
    ("Mr. A. Brown left. It rained.", "Mr."),  # no title is known but Dr. and St.
    ("Then A. Brown left. It rained.", "Then A. Brown left."),
    ("About 3.5 of them vs. Some left. 7 stayed.", "About 3.5 of them vs. Some left."),
    ("It was 1 @.@ 5 , he said . \"It\" rained .", "It was 1 @.@ 5 , he said ."),
    ("It was , he said . \" It \" rained .", None),  # whose mark it is cannot be told
    ("the mean. and more. End.", "the mean. and more."),
    ("He wrote « yes ». “So” it was.", "He wrote « yes »."),
    ("One sentence.", None), ("no end", None), ("", None), ("It ends. so it goes on", None),
)


def check_cuts() -> None:
    """Known paragraphs are cut where a reader would cut them."""
    for paragraph, first in CUTS:
        made = split(paragraph)
        assert (made and made[0]) == first, paragraph
        assert made is None or "".join(made) == paragraph


def test_cuts() -> None:
    check_cuts()


@pytest.mark.parametrize("fault", [
    patched(prose, "_ABBREVIATION", re.compile("(?!)")),
    patched(texts, "_END", re.compile(r"[.!?](?=\s)")),
    patched(texts, "split", lambda paragraph: SPLIT(" ".join(paragraph.split())))],
    ids=["abbreviations", "any-stop", "blanks"])
def test_twin_cuts(fault: Fault) -> None:
    def through_module() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "split", texts.split)
            check_cuts()

    must_see(fault, through_module)


@given(paragraph=st.text(st.sampled_from("aB. !?\n\"(1)"), max_size=40))
def test_a_cut_loses_nothing(paragraph: str) -> None:
    """Prompt and continuation are the paragraph; the one ends a sentence, the other follows it."""
    made = split(paragraph)
    if made is None:
        return
    prompt, continuation = made
    assert prompt + continuation == paragraph
    assert prompt.rstrip(CLOSING)[-1] in ".!?"
    assert continuation[0].isspace()
    assert continuation.strip(OPENING)[0] in "B1"


# --- Python's language reference ---------------------------------------------------------------


def without_signs(text: str) -> str:
    """Return the letters and digits of a text alone."""
    return "".join(c for c in text if c.isalnum())


def check_pydoc() -> None:
    """Paragraphs of running text, of the length asked for, each once, that stand in the source."""
    corpus = load_texts("pydoc")
    joined = [text.prompt + text.continuation for text in corpus.texts]
    assert len(corpus.texts) >= 80
    assert len({text.id for text in corpus.texts}) == len({*joined}) == len(joined)
    sources_ = {name: without_signs(text) for name, text in topics.items()}
    for text, paragraph in zip(corpus.texts, joined, strict=True):
        words = [word for word in paragraph.split() if without_signs(word)]
        assert 60 <= len(words) <= 90, text.id
        assert without_signs(paragraph) in sources_[text.id.rsplit("-", 1)[0]], text.id
        assert not re.search(r"\n|  |::|>>>|^\*|-{3}|={3}", paragraph), text.id
        assert paragraph[0].isupper() or not paragraph[0].isalpha()
        assert paragraph.rstrip(CLOSING)[-1] in ".!?"
        assert len(without_signs(text.continuation)) > 20


def test_pydoc() -> None:
    check_pydoc()


def test_pydoc_drops_with_reasons() -> None:
    """Kept and dropped ones add up to all blocks of the source."""
    corpus = load_texts("pydoc")
    blocks = sum(1 for text in topics.values() for _ in prose.blocks_of(text))
    assert len(corpus.texts) + sum(corpus.dropped.values()) == blocks
    assert {"list, table, code or grammar", "repeated", "no second sentence"} <= {*corpus.dropped}


def test_pydoc_is_the_same_everywhere() -> None:
    """Whatever the hash seed of the process."""
    code = ("import json; from kvcore.corpora.texts import load_texts; c = load_texts('pydoc'); "
            "print(json.dumps([c.revision, [[t.id, t.content_hash] for t in c.texts]]))")
    corpus = load_texts("pydoc")
    here = [corpus.revision, [[text.id, text.content_hash] for text in corpus.texts]]
    assert child(code, PYTHONHASHSEED="7") == here


@pytest.mark.parametrize("fault", [
    patched(texts, "WORDS", (59, 90)), patched(texts, "WORDS", (60, 91)),
    patched(texts, "_reason", lambda paragraph, _seen: (
        paragraph.removeprefix("\0") if paragraph.startswith("\0") else None)),
], ids=["shorter", "longer", "anything"])
def test_twin_pydoc(fault: Fault) -> None:
    must_see(fault, check_pydoc)


PROSE = " ".join(["The *value* is read twice.", *["It has one name."] * 15])
END = "Then it ends. So it does. It is over."
TOPIC = "\n\n".join([
    "Values\n******", PROSE.replace(". ", ".\n", 3), f"   {PROSE}  {END.replace('. ', '.  ')}",
    f"* {PROSE}", f"   >>> {PROSE}", f"   name ::= {PROSE}", f"| {PROSE}",
    f"{PROSE[:-1]}.See it there.", f"{PROSE[0].lower()}{PROSE[1:]}", f"See https://x.org. {PROSE}"])


def check_topic() -> None:
    """Of a topic only running text is left, its line breaks and emphasis undone."""
    plain = PROSE.replace("*", "")
    found = list(texts._topic(TOPIC))
    assert [x for x in found if not x.startswith("\0")] == [plain, f"{plain} {END}"]
    assert Counter(x[1:] for x in found if x.startswith("\0")) == {
        "not 60 to 90 words": 1, "list, table, code or grammar": 5, "sentences run together": 1,
        "begins in mid-sentence": 1}


def test_topic() -> None:
    check_topic()


@pytest.mark.parametrize("fault", [
    patched(texts, "_is_prose", lambda _block: True),
    patched(texts, "_GRAMMAR", re.compile("(?!)")), patched(texts, "_GLUED", re.compile("(?!)")),
    patched(prose, "plain", " ".join)], ids=["lists", "grammar", "glued", "marks"])
def test_twin_topic(fault: Fault) -> None:
    must_see(fault, check_topic)


# --- the hub -----------------------------------------------------------------------------------

FIRST = "The river 's upper course is well @-@ known , and long ."
LONG = " ".join([FIRST, *["Its 2 @.@ 5 mile bed turns north ."] * 9])
LINES = ("", " = River = \n", f" {LONG} \n", "", " = = Upper course = = \n", f" {LONG} \n",
         " Too short . It is . \n", f" {LONG} {LONG} \n", " ".join(["word"] * 70) + " .\n",
         f" {LONG[:-2]} \n", " = = = Sources = = = \n", f" = {LONG} \n")


def wiki_file(folder: Path) -> Path:
    """Write lines in the schema of the hub's card."""
    path = folder / "test-00000-of-00001.parquet"
    features = Features({"text": Value("string")})
    datasets.Dataset.from_list([{"text": line} for line in LINES], features=features).to_parquet(
        path)
    assert Features.from_arrow_schema(pq.read_schema(path)) == features
    return path


def check_wikitext(folder: Path) -> None:
    """Headings, empty lines and paragraphs of another length are counted; spelling stays."""
    corpus = texts.from_hub(WIKITEXT, [wiki_file(folder)])
    paragraphs = [text.prompt + text.continuation for text in corpus.texts]
    assert paragraphs == [LONG, f"= {LONG}"]
    assert corpus.texts[0].prompt == FIRST
    assert corpus.dropped == {
        "empty": 2, "heading": 3, "repeated": 1, "not 60 to 90 words": 2,
        "no second sentence": 1, "does not end with a sentence": 1}
    assert (corpus.name, corpus.revision) == ("wikitext2", WIKITEXT.revision)


def test_wikitext(tmp_path: Path) -> None:
    check_wikitext(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", WIKITEXT.revision)


@pytest.mark.parametrize("fault", [
    patched(texts, "_HEADING", re.compile("(?!)")), patched(texts, "WORDS", (60, 200)),
    patched(texts, "_sized", lambda line: line.replace(" @-@ ", "-"))],
    ids=["headings", "length", "spelling"])
def test_twin_wikitext(fault: Fault, tmp_path: Path) -> None:
    must_see(fault, check_wikitext, tmp_path)


def test_wikitext_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the command that fetches it."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(MissingResource, match=f"hf download Salesforce/wikitext .*parquet "
                                              f".*{WIKITEXT.revision}") as error:
        load_texts("wikitext2")
    assert "\n" not in str(error.value)


# --- files -------------------------------------------------------------------------------------

ROWS = ({"text": " It rained. He left. ", "id": "a"}, {"text": "It rained. He left.", "id": "b"},
        {"text": None, "id": "c"}, {"text": "One sentence.", "id": "d"},
        {"text": "It snowed.\n\nHe left.", "id": None})


def a_file(folder: Path, ending: str, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    path = folder / f"mine{ending}"
    if ending == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_files(ending: str, tmp_path: Path) -> None:
    """Of any length; white space between the two parts stays, around them it goes."""
    corpus = load_texts(str(a_file(tmp_path, ending)))
    assert isinstance(corpus, TextCorpus)
    assert [(t.id, t.prompt, t.continuation) for t in corpus.texts] == [
        ("a", "It rained.", " He left."),
        (corpus.texts[1].id, "It snowed.", "\n\nHe left.")]
    assert corpus.texts[1].id.startswith("t-")
    assert corpus.dropped == {"empty": 1, "no second sentence": 1, "repeated": 1}
    assert (corpus.name, len(corpus.revision)) == ("mine", 64)


def test_one_clear_line(tmp_path: Path) -> None:
    """Unknown names, bad files and bad rows."""
    same = [{"text": "It rained. He left.", "id": "a"}, {"text": "It snowed. He left.", "id": "a"}]
    asked: list[tuple[str, str]] = [
        ("did you mean 'pydoc'", "pydocs"), ("extension '.csv' is unknown", "a/b.csv"),
        ("cannot be read", str(tmp_path / "none.jsonl"))]
    for number, (said, rows) in enumerate([
            ("column 'text' lacks on line 1", [{"txt": "x"}]),
            ("'text' on line 1 is int, not text", [{"text": 1}]),
            ("two texts have the id 'a'", same),
            ("no text left; dropped: {'empty': 1}", [{"text": ""}]), ("there was none", [])]):
        (tmp_path / str(number)).mkdir()
        asked.append((said, str(a_file(tmp_path / str(number), ".jsonl", rows))))
    for said, name in asked:
        with pytest.raises(KvError, match=re.escape(said)) as error:
            load_texts(name)
        assert "\n" not in str(error.value)


# --- sources -----------------------------------------------------------------------------------

LENGTHS = (30, 110, 24)  # words: the middle one is cut, at 90 tokens
WORD = "the sample mean is a sum of entries along an axis and nothing else"
SOME = tuple(Text(f"x{n}", f"The {WORD.split()[n]} is read.", " " + " ".join(
    (WORD.split() * 9)[n : n + length]) + ".") for n, length in enumerate(LENGTHS))
ALL = ("human", "greedy", "temperature(0.7)", "temperature(2)", "shuffled")


@pytest.fixture(scope="session", params=["tiny-llama", "tiny-mistral"])
def lm(request: pytest.FixtureRequest) -> LM:
    """A byte-level tokenizer and one of the SentencePiece kind."""
    return loading.load(request.param, device="cpu")


def check_sources(lm: LM) -> None:
    """Human and model go on from the same prompt, equally far; the model writes text only."""
    found = continuations.load_continuations(lm, SOME, ALL, seed=3)
    assert not found.unusable
    assert [(t.id, t.source) for t in found.texts] == [(t.id, s) for t in SOME for s in ALL]
    by = {(text.id, text.source): text for text in found.texts}
    special = generation.special_ids(lm)
    for text in SOME:
        human, greedy, cool, hot, shuffled = (by[text.id, source] for source in ALL)
        whole = tokenization.encode(lm.tokenizer, text.prompt + text.continuation)
        assert human.ids == whole[: len(human.ids)]
        assert human.prompt == tokenization.encode(lm.tokenizer, text.prompt)
        assert len(human.continuation) == min(90, len(whole) - len(human.prompt))
        assert {t.prompt for t in by.values() if t.id == text.id} == {human.prompt}
        assert {len(t.continuation) for t in by.values() if t.id == text.id} == {
            len(human.continuation)}
        assert greedy.continuation == generation.generate(
            lm, [human.prompt], max_new_tokens=len(human.continuation), stop=(), never=special)[0]
        assert Counter(shuffled.continuation) == Counter(human.continuation)
        assert shuffled.continuation != human.continuation
        assert len({greedy.continuation, cool.continuation, hot.continuation}) == 3
        assert not special & {*greedy.continuation, *cool.continuation, *hot.continuation}
    assert max(len(t.continuation) for t in found.texts) == 90


def check_order(lm: LM) -> None:
    """Neither order, nor batches, nor what else is asked for counts; the seed does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuations, "NEW_TOKENS", 24)  # enough to tell texts apart
        found = {(t.id, t.source): t for t in continuations.load_continuations(lm, SOME, ALL, seed=3).texts}
        for some, asked in ((SOME[::-1], ALL[::-1]), (SOME[2:], ALL[2:])):
            again = continuations.load_continuations(lm, some, asked, seed=3, batch_tokens=60).texts
            assert len(again) == len(some) * len(asked)
            assert all(found[t.id, t.source] == t for t in again)
        for other in continuations.load_continuations(lm, SOME, ALL, seed=4).texts:
            drawn = other.source not in ("human", "greedy")
            assert (found[other.id, other.source] != other) == drawn


def test_sources(lm: LM) -> None:
    check_sources(lm)


def test_order(lm: LM) -> None:
    check_order(lm)


def specials_too(patch: pytest.MonkeyPatch) -> None:
    """Let the model write anything, and want nothing but its end-of-text token."""
    generate = generation.generate
    patch.setattr(generation, "generate", lambda lm, prompts, **asked: [
        (*ids[:-1], lm.tokenizer.eos_token_id) for ids in generate(
            lm, prompts, **{**asked, "never": ()})])


def uncut(patch: pytest.MonkeyPatch) -> None:
    """Leave what the model wrote as long as it is."""
    by = continuations._by

    def broken(source: str, human: Any, written: Any, seed: int) -> Any:
        made = by(source, human, written, seed)
        return made if source not in written else dataclasses.replace(
            made, continuation=written[source][human.id])

    patch.setattr(continuations, "_by", broken)


def redrawn(patch: pytest.MonkeyPatch) -> None:
    """Draw tokens with replacement rather than put them in another order."""
    by = continuations._by

    def broken(source: str, human: Any, written: Any, seed: int) -> Any:
        made = by(source, human, written, seed)
        return made if source != "shuffled" else dataclasses.replace(
            made, continuation=(made.continuation[0], *made.continuation[:-1]))

    patch.setattr(continuations, "_by", broken)


def alone_tokenized(patch: pytest.MonkeyPatch) -> None:
    """Tokenize the continuation by itself."""
    tokenized = continuations.tokenize_text

    def broken(lm: LM, text: Text) -> Any:
        ids = tokenization.encode(lm.tokenizer, text.continuation.strip())[:90]
        return dataclasses.replace(tokenized(lm, text), continuation=ids)

    patch.setattr(continuations, "tokenize_text", broken)


@pytest.mark.parametrize("fault", [specials_too, uncut, redrawn, alone_tokenized,
                                   patched(continuations, "NEW_TOKENS", 80)],
                         ids=lambda fault: fault.__name__)
def test_twin_sources(llama: LM, fault: Fault) -> None:
    must_see(fault, check_sources, llama)


def by_turn(patch: pytest.MonkeyPatch) -> None:
    """Seed by how many seeds were asked for before."""
    turns = iter(range(10**6))
    patch.setattr(continuations, "seed_of", lambda *_given: next(turns))


@pytest.mark.parametrize("fault", [
    by_turn, patched(continuations, "seed_of", lambda _seed, name, _source: len(name))])
def test_twin_order(llama: LM, fault: Fault) -> None:
    must_see(fault, check_order, llama)


def test_what_cannot_be_compared(llama: LM) -> None:
    """Each with its reason, and the others are compared all the same."""
    prompt, going_on = SOME[0].prompt, SOME[0].continuation
    at = next(n for n in range(1, len(prompt)) if tokenization.encode(
        llama.tokenizer, prompt)[: len(tokenization.encode(llama.tokenizer, prompt[:n]))]
        != tokenization.encode(llama.tokenizer, prompt[:n]))
    found = continuations.load_continuations(llama, [
        Text("merged", prompt[:at], prompt[at:] + going_on), Text("short", prompt, " It is."),
        Text("odd", prompt, f" \udc80{going_on}"), Text("long", prompt * 500, going_on), SOME[1],
    ], ("human",))
    assert found.unusable == {
        "merged": "prompt and continuation merge into one token",
        "short": "fewer than 20 tokens in the continuation",
        "odd": "not valid Unicode (lone surrogate)",
        "long": "longer than the 2048 positions the model is exact for"}
    assert found.dropped == {reason: 1 for reason in sorted(found.unusable.values())}
    assert [text.id for text in found.texts] == ["x1"]
    assert continuations.load_continuations(llama, []).texts == ()


@pytest.mark.parametrize(("asked", "said"), [
    ("gredy", "did you mean 'greedy'"), ("temperature(0)", "unknown source"),
    ("temperature(0.0)", "unknown source"), ("temperature(-1)", "unknown source"),
    ("temperature(hot)", "unknown source")])
def test_unknown_sources(llama: LM, asked: str, said: str) -> None:
    with pytest.raises(KvError, match=re.escape(said)) as error:
        continuations.load_continuations(llama, SOME, ["human", asked])
    assert "\n" not in str(error.value)


def test_a_text_twice(llama: LM) -> None:
    with pytest.raises(KvError, match="two texts have the id 'x0'"):
        continuations.load_continuations(llama, [SOME[0], SOME[0]])


# --- continuations on disk ---------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how many prompts the model is asked to go on from; it does not really."""
    counts: list[int] = []

    def generate(_lm: LM, prompts: Sequence[tuple[int, ...]], **how: Any) -> list[tuple[int, ...]]:
        counts.append(len(prompts))
        return [(5 + len(prompt),) * how["max_new_tokens"] for prompt in prompts]

    monkeypatch.setattr(generation, "generate", generate)
    monkeypatch.setattr(surrogate_store, "FILE_SAMPLES", 2)
    return counts


def written(lm: LM, root: Path, some: Sequence[Text] = SOME, source: str = "temperature(0.7)",
            seed: int = 0) -> continuations.ContinuationSet:
    return continuations.load_continuations(lm, some, [source], root=root, seed=seed)


def check_kept(lm: LM, root: Path, asked: list[int]) -> None:
    """Each continuation is written once, two a file, and read back the same."""
    asked.clear()
    first = written(lm, root, SOME[:1])
    assert asked == [1]
    assert written(lm, root).texts[:1] == first.texts
    assert asked == [1, 1, 1]
    assert written(lm, root, SOME[::-1]).texts[::-1] == written(lm, root).texts
    assert asked == [1, 1, 1]
    assert len(list((root / "_written").glob("continuations-*.jsonl"))) == 3


def test_kept(llama: LM, tmp_path: Path, asked: list[int]) -> None:
    check_kept(llama, tmp_path, asked)


def test_twin_kept(llama: LM, tmp_path: Path, asked: list[int],
                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.kept, "read", lambda *_given: {})
    with pytest.raises((AssertionError, KeyError)):
        check_kept(llama, tmp_path, asked)


def check_keys(lm: LM, root: Path, asked: list[int]) -> None:
    """Another model, dtype, tokenizer, source, seed, length, code, id or prompt is another text."""
    written(lm, root)
    n = len(asked)

    def files(**other: Any) -> LM:
        return dataclasses.replace(lm, files=dataclasses.replace(lm.files, **other))

    runs: list[Callable[[], object]] = [
        *(lambda other=other: written(files(**other), root)  # type: ignore[misc]
          for other in ({"model_id": "x"}, {"dtype": "x"}, {"tokenizer_id": "x"})),
        lambda: written(lm, root, source="temperature(0.8)"), lambda: written(lm, root, seed=1),
        lambda: written(lm, root, [dataclasses.replace(t, id=f"{t.id}x") for t in SOME]),
        lambda: written(lm, root, [dataclasses.replace(t, prompt=f"So {t.prompt}") for t in SOME])]
    for name, value in (("code", lambda: "x"), ("NEW_TOKENS", 70)):
        def run(name: str = name, value: object = value) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sources, name, value)
                written(lm, root)

        runs.append(run)
    for number, run_it in enumerate(runs, start=2):
        run_it()
        assert len(asked) == n * number
    assert len(runs) == len(continuations.KEY)
    written(lm, root, source="greedy")
    written(lm, root, source="greedy", seed=1)
    assert len(asked) == n * (len(runs) + 2)


def test_keys(llama: LM, tmp_path: Path, asked: list[int]) -> None:
    check_keys(llama, tmp_path, asked)


@pytest.mark.parametrize("left_out", range(len(continuations.KEY)), ids=continuations.KEY)
def test_twin_keys(left_out: int, llama: LM, tmp_path: Path, asked: list[int],
                   monkeypatch: pytest.MonkeyPatch) -> None:
    key = continuations._key

    def broken(*given: Any) -> tuple[str, ...]:
        parts = key(*given)
        return (*parts[:left_out], "", *parts[left_out + 1:])

    monkeypatch.setattr(continuations, "_key", broken)
    with pytest.raises(AssertionError):
        check_keys(llama, tmp_path, asked)


def test_damage(llama: LM, tmp_path: Path, asked: list[int]) -> None:
    """A file whose bytes changed is set aside with a warning, and what it held written again."""
    whole = written(llama, tmp_path)
    victim = min((tmp_path / "_written").glob("continuations-*"))
    victim.write_bytes(victim.read_bytes().replace(b'"ids": [', b'"ids": [9, '))
    with pytest.warns(StoreWarning, match="is damaged"):
        assert written(llama, tmp_path) == whole
    assert victim.with_name(f"_{victim.name}.damaged").exists()
    assert len(asked) == 3
