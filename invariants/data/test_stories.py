"""Stories without arithmetic: one fact differs, its question names it not, and every word is once.

The twins break the generator and must see the checks fail.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariants.support.comparing import must_see
from invariants.support.patching import Fault, each, patched
from kvcore.data.context_pairs import stories, story_templates
from kvcore.data.context_pairs.load import DEFAULT_N, load_pairs
from kvcore.data.context_pairs.pair import ENTITY
from kvcore.data.context_pairs.solutions import worked_solutions
from kvcore.errors import KvError


def words_of(text: str) -> list[str]:
    """Return the words of a text, however they are written."""
    return re.findall(r"\w+", text.casefold())


def check_stories(n: int = 200, seed: int = 0) -> None:
    """Read word by word, the two stories of a pair differ in the answer alone.

    1. Words of both problems side by side: those that differ are the two answers.
    2. The answers as the pair states them.
    """
    pairs = stories.stories(n, seed)
    kinds = Counter(pair.variation_type for pair in pairs)
    assert set(kinds) <= {None, ENTITY}
    if n >= 32:
        assert 0.20 <= kinds[None] / n <= 0.24
    known: set[str] = set()
    for pair in pairs:
        before, after = words_of(pair.question), words_of(pair.alt_problem)
        assert len(before) == len(after)
        changed = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
        answers = (pair.answer.casefold(), pair.alt_answer.casefold())
        assert changed == (set() if pair.variation_type is None else {answers})
        body, question = pair.question.rsplit("\n", 1)
        assert answers[0] in words_of(body)
        assert not {*answers} & {*words_of(question)}
        assert not {pair.question, pair.alt_problem} & known
        known |= {pair.question, pair.alt_problem}
        assert "{" not in pair.question + pair.alt_problem


@given(st.integers(1, 12), st.integers(-(2**31), 2**31))
def test_stories_differ_in_one_fact(n: int, seed: int) -> None:
    """Catches a story that changes elsewhere too, or whose question gives the answer away."""
    check_stories(n, seed)


def test_the_published_number_of_stories_is_made() -> None:
    """Catches templates too few for 500 pairs, or an order that hangs on the number."""
    check_stories(DEFAULT_N)
    corpus = load_pairs("stories")
    assert len(corpus.pairs) == DEFAULT_N == 500
    assert load_pairs("stories", 40).pairs == corpus.pairs[:40]
    assert load_pairs("stories", 40, 1).pairs != corpus.pairs[:40]
    assert load_pairs("stories", 1, 1).revision != corpus.revision


UNCHECKED = patched(stories, "checked", lambda pair: pair)
REAL_OTHER = stories.with_another_fact


@each(
    patched(stories, "with_another_fact", lambda draft, *_: draft),
    patched(
        stories,
        "with_another_fact",
        lambda draft, *key: dataclasses.replace(
            REAL_OTHER(draft, *key), facts={**REAL_OTHER(draft, *key).facts, "hero": "Nobody"}
        ),
    ),
    patched(stories, "planned_type", lambda _index: ENTITY),
    patched(stories, "draw_story", lambda *_key: stories_first()),
)
def test_a_story_that_changes_wrongly_is_noticed(fault: Fault) -> None:
    """Twin: catches a fact that stays, a second one that changes, no controls, one story only."""
    check_stories()
    with pytest.MonkeyPatch.context() as patch:
        UNCHECKED(patch)
        fault(patch)
        with pytest.raises((AssertionError, KvError)):
            check_stories()


FIRST = stories.draw_story(0, 0, 0)


def stories_first() -> stories.StoryDraft:
    """Return always the same story."""
    return FIRST


CONTRADICTIONS = {
    "the two questions differ": {"alt_problem": "A hen ran.\nWho went?"},
    "an answer is not in its story": {"alt_answer": "cow"},
    "the question names an answer": {
        "question": "A fox ran.\nDid the fox?",
        "alt_problem": "A hen ran.\nDid the fox?",
    },
    "the two stories differ in more than the answer": {"alt_problem": "A hen hid.\nWho ran?"},
    "the two stories differ in more than the answer ": {
        "question": "A fox ran. A hen hid.\nWho ran?",
        "alt_problem": "A hen ran. A hen hid.\nWho ran?",
    },
}


def check_contradictions() -> None:
    """Each flaw is called what it is, and a sound pair has none."""
    sound = dataclasses.replace(
        stories.stories(1, 0)[0],
        question="A fox ran.\nWho ran?",
        answer="fox",
        alt_problem="A hen ran.\nWho ran?",
        alt_answer="hen",
        variation_type=ENTITY,
    )
    assert stories.story_contradiction(sound) is None
    for reason, changes in CONTRADICTIONS.items():
        said = stories.story_contradiction(dataclasses.replace(sound, **changes))  # type: ignore[arg-type]
        assert said == reason.strip(), (reason, said)


def test_every_contradiction_is_told() -> None:
    """Catches a story that contradicts itself and is taken all the same."""
    check_contradictions()


def test_a_check_that_sees_nothing_is_noticed() -> None:
    """Twin: catches a check that never tells anything."""
    must_see(patched(stories, "story_contradiction", lambda _pair: None), check_contradictions)


def check_words(words: dict[str, tuple[str, ...]]) -> None:
    """No word stands for two facts, and each is one word."""
    every = [word.casefold() for options in words.values() for word in options]
    assert [word for word, n in Counter(every).items() if n > 1] == []
    assert all(re.fullmatch(r"\w+", word) for word in every)
    assert all(len(options) >= 4 for options in words.values())


def test_a_word_tells_its_fact() -> None:
    """Catches a word of two facts, which would stand in a story twice."""
    check_words(dict(story_templates.WORDS))
    for story in story_templates.STORIES:
        facts = set(re.findall(r"{(\w+)}", story.text))
        assert {*story.questions} <= facts
        assert not re.search(r"\ban? {(animal|job)}", story.text) or all(
            word[0] not in "aeiou"
            for name in ("animal", "job")
            for word in story_templates.WORDS[name]
        )
        for fact, question in story.questions.items():
            assert f"{{{fact}}}" not in question
    texts = itertools.chain(*(words_of(story.text) for story in story_templates.STORIES))
    templates = {*texts} - {*story_templates.WORDS}
    assert not templates & {w.casefold() for ws in story_templates.WORDS.values() for w in ws}


def test_a_word_of_two_facts_is_noticed() -> None:
    """Twin: catches a check of words that sees none of two facts."""
    with pytest.raises(AssertionError):
        check_words({**story_templates.WORDS, "food": ("bread", "chess", "soup", "beans")})


def test_a_solution_quotes_the_story() -> None:
    """Catches a solution in words that does not hold the changed answer."""
    for pair in stories.stories(20, 0):
        for solution, answer in zip(
            worked_solutions(pair), (pair.answer, pair.alt_answer), strict=True
        ):
            assert solution.endswith(f"The answer is {answer}.")
            assert solution.casefold().count(answer.casefold()) >= 2


def test_a_number_out_of_range_is_one_line() -> None:
    """Catches a traceback where no story is asked for."""
    with pytest.raises(KvError, match="stories: n must be 1 or more; got 0"):
        stories.stories(0, 0)
