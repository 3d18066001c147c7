"""Texts are paragraphs of running text, cut behind their first full stop."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.children import child
from invariants.support.comparing import must_see
from invariants.support.patching import Fault, patched
from kvcore.data import hub, texts
from kvcore.data.docstrings import prose
from kvcore.data.texts import WIKITEXT, Dropped, TextCorpus, load_texts
from kvcore.errors import KvError, MissingResource

CLOSING = "\"')]\u201d\u2019"
SPLIT = texts.split_at_full_stop


# --- prompts -----------------------------------------------------------------------------------

CUTS = (
    ("It rained here. He left.", "It rained here."),
    ("It rained. He left.", "It rained."),  # the blank is character 11
    ("It snows. He left.", None),  # the blank is character 10
    ("It snows. He left. So it was.", "It snows. He left."),
    ("Soaked: Mr. Brown got wet . He left .", "Soaked: Mr."),  # an abbreviation ends it, too
    ("About 3.5 of them left. 7 stayed.", "About 3.5 of them left."),
    ("the mean value. and more. End.", "the mean value."),
    ("Is it really so? It is.", None),
    ("It rained here.\nHe left. So it was.", "It rained here.\nHe left."),
    ("One long sentence.", None),
    ("", None),
)


def check_cuts() -> None:
    """Known paragraphs are cut behind the first full stop before a blank beyond character 10."""
    for paragraph, prompt in CUTS:
        made = texts.split_at_full_stop(paragraph)
        assert (made and made[0]) == prompt, paragraph
        assert made is None or "".join(made) == paragraph


def test_cuts() -> None:
    """Catches a paragraph that is cut elsewhere than the published ones were."""
    check_cuts()


@pytest.mark.parametrize(
    "fault",
    [
        patched(texts, "LEAST_PROMPT", 9),
        patched(texts, "LEAST_PROMPT", 11),
        patched(texts, "STOP", "."),
        patched(texts, "split_at_full_stop", lambda text: SPLIT(" ".join(text.split()))),
    ],
    ids=["earlier", "later", "any-stop", "blanks"],
)
def test_twin_cuts(fault: Fault) -> None:
    """Twin: catches another least length, any full stop, and white space that is lost."""
    must_see(fault, check_cuts)


@given(paragraph=st.text(st.sampled_from('aB. !?\n"(1)'), max_size=40))
def test_a_cut_loses_nothing(paragraph: str) -> None:
    """Catches a cut that loses text, or that is not behind a full stop."""
    made = texts.split_at_full_stop(paragraph)
    if made is None:
        return
    prompt, continuation = made
    assert prompt + continuation == paragraph
    assert len(prompt) >= 10
    assert (prompt[-1], continuation[0]) == (".", " ")


# --- Python's language reference ---------------------------------------------------------------


def without_signs(text: str) -> str:
    """Return the letters and digits of a text alone."""
    return "".join(c for c in text if c.isalnum())


def check_pydoc() -> None:
    """Paragraphs of running text, each once, that stand in the source; of them 80 to 120 tokens."""
    corpus = load_texts("pydoc")
    joined = [text.prompt + text.continuation for text in corpus.texts]
    assert len(corpus.texts) >= 400
    counts = dict(zip(joined, itertools.cycle((79, 80, 120, 121)), strict=False))
    fitting = [text for n, text in enumerate(corpus.texts) if n % 4 in (1, 2)]
    assert list(corpus.fitting(counts.__getitem__)) == fitting
    assert len({text.id for text in corpus.texts}) == len({*joined}) == len(joined)
    sources_ = {name: without_signs(text) for name, text in topics.items()}
    for text, paragraph in zip(corpus.texts, joined, strict=True):
        assert without_signs(paragraph) in sources_[text.id.rsplit("-", 1)[0]], text.id
        assert not re.search(r"\n|  |::|>>>|^\*|-{3}|={3}", paragraph), text.id
        assert paragraph[0].isupper() or not paragraph[0].isalpha()
        assert paragraph.rstrip(CLOSING)[-1] in ".!?"
        assert len(text.prompt) >= 10, text.id
        assert text.prompt.endswith("."), text.id


def test_pydoc() -> None:
    """Catches a text that is too long, no prose, or not in the source, and one that comes twice."""
    check_pydoc()


def test_pydoc_drops_with_reasons() -> None:
    """Catches a block of the source that is neither a text nor counted."""
    corpus = load_texts("pydoc")
    blocks = sum(1 for text in topics.values() for _ in prose.blocks_of(text))
    assert len(corpus.texts) + sum(corpus.dropped.values()) == blocks
    assert {"list, table, code or grammar", "repeated", texts.NO_STOP} <= {*corpus.dropped}


def test_pydoc_is_the_same_everywhere() -> None:
    """Catches texts that change with the hash seed of the process."""
    code = (
        "import json; from kvcore.data.texts import load_texts; c = load_texts('pydoc'); "
        "print(json.dumps([c.revision, [[t.id, t.content_hash] for t in c.texts]]))"
    )
    corpus = load_texts("pydoc")
    here = [corpus.revision, [[text.id, text.content_hash] for text in corpus.texts]]
    assert child(code, PYTHONHASHSEED="7") == here


@pytest.mark.parametrize(
    "fault",
    [
        patched(texts, "TOKENS", (79, 120)),
        patched(texts, "TOKENS", (80, 121)),
        patched(texts, "drop_reason", lambda _paragraph, _seen: None),
    ],
    ids=["shorter", "longer", "anything"],
)
def test_twin_pydoc(fault: Fault) -> None:
    """Twin: catches bounds moved by a token, and paragraphs that nobody looks at."""
    must_see(fault, check_pydoc)


PROSE = " ".join(["The *value* is read twice.", *["It has one name."] * 15])
END = "Then it ends. So it does. It is over."
TOPIC = "\n\n".join(
    [
        "Values\n******",
        PROSE.replace(". ", ".\n", 3),
        f"   {PROSE}  {END.replace('. ', '.  ')}",
        f"* {PROSE}",
        f"   >>> {PROSE}",
        f"   name ::= {PROSE}",
        f"| {PROSE}",
        f"{PROSE[:-1]}.See it there.",
        f"{PROSE[0].lower()}{PROSE[1:]}",
        f"See https://x.org. {PROSE}",
    ]
)


def check_topic() -> None:
    """Of a topic only running text is left, its line breaks and emphasis undone."""
    plain = PROSE.replace("*", "")
    paragraphs = list(texts.topic_paragraphs(TOPIC))
    assert [x for x in paragraphs if isinstance(x, str)] == [
        "Values ******",  # a heading: dropped later, it does not end as a sentence does
        plain,
        f"{plain} {END}",
    ]
    assert Counter(x.reason for x in paragraphs if isinstance(x, Dropped)) == {
        "list, table, code or grammar": 5,
        "sentences run together": 1,
        "begins in mid-sentence": 1,
    }


def test_topic() -> None:
    """Catches a list, code or grammar taken for prose, and marks or line breaks that stay."""
    check_topic()


@pytest.mark.parametrize(
    "fault",
    [
        patched(texts, "is_running_text", lambda _block: True),
        patched(texts, "GRAMMAR", re.compile("(?!)")),
        patched(texts, "GLUED", re.compile("(?!)")),
        patched(prose, "plain", " ".join),
    ],
    ids=["lists", "grammar", "glued", "marks"],
)
def test_twin_topic(fault: Fault) -> None:
    """Twin: catches lists, grammar, glued sentences or marks let through."""
    must_see(fault, check_topic)


# --- the hub -----------------------------------------------------------------------------------

FIRST = "The river 's upper course is well @-@ known , and long ."
LONG = " ".join([FIRST, *["Its 2 @.@ 5 mile bed turns north ."] * 9])
SHORT = "Too short . It is ."
LINES = (
    "",
    " = River = \n",
    f" {LONG} \n",
    "",
    " = = Upper course = = \n",
    f" {LONG} \n",
    f" {SHORT} \n",
    f" {LONG} {LONG} \n",
    " ".join(["word"] * 70) + " .\n",
    f" {LONG[:-2]} \n",
    " = = = Sources = = = \n",
    f" = {LONG} \n",
)


def wiki_file(folder: Path) -> Path:
    """Write lines in the schema of the hub's card."""
    path = folder / "test-00000-of-00001.parquet"
    features = Features({"text": Value("string")})
    Dataset.from_list([{"text": line} for line in LINES], features=features).to_parquet(path)
    assert Features.from_arrow_schema(pq.read_schema(path)) == features
    return path


def check_wikitext(folder: Path) -> None:
    """Headings and empty lines are counted; spelling stays; length is in tokens, prompts cut."""
    corpus = texts.from_hub(WIKITEXT, [wiki_file(folder)])
    paragraphs = [text.prompt + text.continuation for text in corpus.texts]
    assert paragraphs == [LONG, SHORT, f"{LONG} {LONG}", f"= {LONG}"]
    assert [text.prompt for text in corpus.texts[:2]] == [FIRST, "Too short ."]
    assert corpus.dropped == {
        "empty": 2,
        "heading": 3,
        "repeated": 1,
        texts.NO_STOP: 1,
        "does not end with a sentence": 1,
    }
    counted = dict(zip(paragraphs, (80, 79, 121, 120), strict=True))
    assert corpus.fitting(counted.__getitem__) == (corpus.texts[0], corpus.texts[3])
    assert (corpus.name, corpus.revision) == ("wikitext2", WIKITEXT.revision)


def test_wikitext(tmp_path: Path) -> None:
    """Catches a heading taken for a text, another spelling, and a line that is not counted."""
    check_wikitext(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", WIKITEXT.revision)


@pytest.mark.parametrize(
    "fault",
    [
        patched(texts, "HEADING", re.compile("(?!)")),
        patched(texts, "TOKENS", (79, 120)),
        patched(texts, "TOKENS", (80, 121)),
        patched(texts, "LEAST_PROMPT", 13),
        patched(texts, "drop_reason", lambda line, _: "empty" if "@-@" in line else None),
    ],
    ids=["headings", "shortest", "longest", "prompt", "spelling"],
)
def test_twin_wikitext(fault: Fault, tmp_path: Path) -> None:
    """Twin: catches headings let through, another length or prompt, paragraphs left out."""
    must_see(fault, check_wikitext, tmp_path)


def test_wikitext_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a message without the command that fetches the file at its revision."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(
        MissingResource, match=f"hf download Salesforce/wikitext .*parquet .*{WIKITEXT.revision}"
    ) as error:
        load_texts("wikitext2")
    assert "\n" not in str(error.value)


# --- files -------------------------------------------------------------------------------------

ROWS = (
    {"text": " It rained. He left. ", "id": "a"},
    {"text": "It rained. He left.", "id": "b"},
    {"text": None, "id": "c"},
    {"text": "One sentence.", "id": "d"},
    {"text": "It snowed.\n\nHe left. So it was.", "id": None},
)


def a_file(folder: Path, ending: str, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    """Write rows as a file of this ending."""
    path = folder / f"mine{ending}"
    if ending == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_files(ending: str, tmp_path: Path) -> None:
    """Catches a text of a file that is bound in length, changed inside, or dropped uncounted."""
    corpus = load_texts(str(a_file(tmp_path, ending)))
    assert isinstance(corpus, TextCorpus)
    assert [(t.id, t.prompt, t.continuation) for t in corpus.texts] == [
        ("a", "It rained.", " He left."),
        (corpus.texts[1].id, "It snowed.\n\nHe left.", " So it was."),
    ]
    assert corpus.texts[1].id.startswith("t-")
    assert corpus.dropped == {"empty": 1, texts.NO_STOP: 1, "repeated": 1}
    assert (corpus.name, len(corpus.revision)) == ("mine", 64)


def test_one_clear_line(tmp_path: Path) -> None:
    """Catches a traceback, or more than a line, for unknown names, bad files and bad rows."""
    same: list[dict[str, Any]] = [
        {"text": "It rained. He left.", "id": "a"},
        {"text": "It snowed. He left.", "id": "a"},
    ]
    asked: list[tuple[str, str]] = [
        ("did you mean 'pydoc'", "pydocs"),
        ("extension '.tsv' is unknown", "a/b.tsv"),
        ("cannot be read", str(tmp_path / "none.jsonl")),
    ]
    bad: list[tuple[str, list[dict[str, Any]]]] = [
        ("column 'text' is missing on line 1", [{"txt": "x"}]),
        ("'text' on line 1 is int, not text", [{"text": 1}]),
        ("two texts have the id 'a'", same),
        ("no text left; dropped: {'empty': 1}", [{"text": ""}]),
        ("there was none", []),
    ]
    for number, (said, rows) in enumerate(bad):
        (tmp_path / str(number)).mkdir()
        asked.append((said, str(a_file(tmp_path / str(number), ".jsonl", rows))))
    for said, name in asked:
        with pytest.raises(KvError, match=re.escape(said)) as error:
            load_texts(name)
        assert "\n" not in str(error.value)
