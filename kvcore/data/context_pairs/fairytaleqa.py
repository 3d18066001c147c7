"""Pairs from the hub's FairytaleQA: sections of stories that name someone or some place else.

The dataset has no changed problems of its own. They are made here under rules that can be checked
from the text, and a row to which the rules do not apply is dropped and counted. Which row is a
control is decided by `assign_types`; a control could have been changed as well.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from kvcore.data.context_pairs.assignment import PairsAndCounts, assign_types
from kvcore.data.context_pairs.draws import pick
from kvcore.data.context_pairs.pair import ENTITY, Pair, inconsistency
from kvcore.data.hub import HubDataset, HubRow, corpus_of_rows, rows_of, sample_or_reason
from kvcore.data.sample import Sample
from kvcore.io import digest

ANSWER_WORDS = 4  # of a name or a place; longer answers are clauses that fit one sentence only
NAMED = ("character", "setting")  # attributes of FairytaleQA answers that are whom or where
ARTICLES = frozenset("a an the his her their its my our your".split())
LITTLE_WORDS = ARTICLES | frozenset("and at by from in of on to with".split())  # name nothing


def fairytale_sample(row: HubRow) -> Sample | str:
    """Ask a section of a story a question about whom or where; its first answer.

    Card: WorkInTheDark/FairytaleQA (converted to Parquet by the hub).
    """
    attribute, story = row["attribute"].strip(), row["story_name"]
    if attribute not in NAMED:
        return "asks neither whom nor where"
    if row["ex-or-im"].strip() != "explicit":
        return "answer is not in the text"
    question, section = (" ".join(row[name].split()) for name in ("question", "story_section"))
    answer = row["answer1"].strip().rstrip(".").strip()
    id = f"fairytale-{digest(story, row['story_section'], row['question'])[:16]}"
    sample = sample_or_reason(question, section, answer, id, story.strip() or id)
    if isinstance(sample, str):
        return sample
    return replace(sample, texts=(("attribute", attribute),))


FAIRYTALEQA = HubDataset(
    "fairytaleqa",
    "WorkInTheDark/FairytaleQA",
    "fad16faf261459cc55d6d516b6fb3e68c0ddd5a6",
    tuple(f"plain_text/{split}/0000.parquet" for split in ("train", "validation", "test")),
    dict.fromkeys(
        ("story_name", "story_section", "question", "answer1", "attribute", "ex-or-im"), "text"
    ),
    fairytale_sample,
    "story",
    "FairytaleQA, sections of stories that name another answer",
)


def words_in(text: str) -> list[str]:
    """Return a text's words in lower case, apostrophes inside them kept."""
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.casefold())


def telling_words(words: Sequence[str]) -> set[str]:
    """Return the words that name something."""
    return {*words} - LITTLE_WORDS


def bare_name(answer: str) -> tuple[str, ...]:
    """Return an answer's words without a leading article or possessive."""
    words = words_in(answer)
    return tuple(words[1:] if words[:1] and words[0] in ARTICLES else words)


def occurrences(name: Sequence[str]) -> re.Pattern[str]:
    """Return what finds a name as whole words, whatever its case and the blanks in it."""
    spaced = r"\s+".join(map(re.escape, name))
    return re.compile(rf"(?<!\w){spaced}(?!\w)", re.IGNORECASE)


def is_name(words: Sequence[str]) -> bool:
    """Tell whether words name something and are few enough."""
    return bool(telling_words(words)) and len(words) <= ANSWER_WORDS


def names_in_section(sample: Sample) -> set[str]:
    """Return the sample's answer as its section spells it last, or nothing where it does not.

    The last time rather than the first: that is less often the start of the story.
    """
    name = bare_name(sample.answer)
    if not is_name(name):
        return set()
    return {match[0] for match in [*occurrences(name).finditer(sample.passage)][-1:]}


def fairytale_pairs(paths: Sequence[Path], seed: int) -> PairsAndCounts:
    """Make pairs of the files of FairytaleQA; see `fairytale_pairs_of`, KvError as `rows_of`."""
    return fairytale_pairs_of((row for path in paths for row in rows_of(FAIRYTALEQA, path)), seed)


def fairytale_pairs_of(hub_rows: Iterable[HubRow], seed: int) -> PairsAndCounts:
    """Make pairs of FairytaleQA rows: the section names someone or some place else everywhere.

    The answer is a character or a place of at most four words that stands in the section; the
    other one is such an answer, of the same attribute, to another question on the same story.
    Neither is in the question, no word of the other one is in the section, and no word of the
    answer stands in the section outside it. Both problems are the section, a line break and the
    question; there are no equations, and pronouns and grammar are left as they are.

    Raises KvError where no row makes a sample.
    """
    corpus = corpus_of_rows(FAIRYTALEQA, hub_rows)
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample in corpus.samples:
        names[story_and_attribute(sample)] |= names_in_section(sample)
    rows = [
        (
            sample.id,
            partial(fairytale_pair, sample, sorted(names[story_and_attribute(sample)]), seed),
        )
        for sample in corpus.samples
    ]
    pairs, dropped = assign_types(rows, seed)
    return pairs, dict(sorted((Counter(corpus.dropped) + Counter(dropped)).items()))


def story_and_attribute(sample: Sample) -> tuple[str, str]:
    """Return what two samples must have in common to lend each other their answers."""
    return sample.cluster, dict(sample.texts)["attribute"]


def fairytale_pair(
    sample: Sample, names: Sequence[str], seed: int, change: str | None
) -> Pair | str:
    """Make one pair, a control where no change is due, or say why there is none."""
    name = bare_name(sample.answer)
    if not is_name(name):
        return f"answer not 1 to {ANSWER_WORDS} words"
    telling, mentions = telling_words(name), occurrences(name)
    first = mentions.search(sample.passage)
    if not first:
        return "answer is not in the section"
    if telling & {*words_in(sample.query)}:
        return "question names the answer"
    if telling & {*words_in(mentions.sub(" ", sample.passage))}:
        return "part of the answer stands in the section elsewhere"
    question = f"{sample.passage}\n{sample.query}"
    here = {*words_in(question)}
    others = [other for other in names if not telling_words(words_in(other)) & here]
    if not others:
        return "no other answer of its kind in the story"
    if change is None:
        return Pair(sample.id, question, first[0], "", question, first[0], "", None)
    other = pick(others, seed, sample.id)
    passage = mentions.sub(lambda mention: _in_place_of(mention, other), sample.passage)
    alt_problem, alt_answer = f"{passage}\n{sample.query}", _in_place_of(first, other)
    pair = Pair(sample.id, question, first[0], "", alt_problem, alt_answer, "", ENTITY)
    return inconsistency(pair) or pair


def _in_place_of(mention: re.Match[str], other: str) -> str:
    """Spell the other name with a capital where it comes to stand at the start of a sentence."""
    before = mention.string[: mention.start()].rstrip(" \"'\u201c\u2018")
    starts = mention[0][0].isupper() and (not before or before[-1] in ".?!")
    return other[0].upper() + other[1:] if starts else other
