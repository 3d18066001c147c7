"""Little stories without arithmetic, each with the same story in which one fact is another.

A problem is a story of four sentences, a line break and a question about one of its facts; in the
changed one that fact is another one of its kind, and nothing else differs. What a pair says is
drawn from (seed, place) alone, and pairs are made in the order of their places, so that a larger
number is a superset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kvcore.data.context_pairs.assignment import numbered, planned_type
from kvcore.data.context_pairs.draws import pick
from kvcore.data.context_pairs.pair import ENTITY, Pair, WrittenProblem, inconsistency
from kvcore.data.context_pairs.story_templates import STORIES, WORDS, Story
from kvcore.errors import KvError

ATTEMPTS = 500  # draws until a story is new: one or two are usual


@dataclass(frozen=True)
class StoryDraft:
    """A story before it is written out."""

    story: Story
    asked: str  # the fact that its question asks for
    facts: Mapping[str, str]  # all that it says, by name

    @property
    def signature(self) -> tuple[object, ...]:
        """What it says and asks, whoever its hero is."""
        said = sorted(item for item in self.facts.items() if item[0] != "hero")
        return (self.story.text, self.asked, *said)

    def written(self) -> WrittenProblem:
        """Write the story, its question and the answer out."""
        question = self.story.questions[self.asked]
        text = f"{self.story.text}\n{question}".format(**self.facts)
        return WrittenProblem(text, self.facts[self.asked], "")


def draw_story(*key: object) -> StoryDraft:
    """Draw a story, what it says, and which of its facts is asked for."""
    story = pick(STORIES, *key, "story")
    named = re.findall(r"{(\w+)}", story.text)
    facts = {name: pick(WORDS[name], *key, name) for name in dict.fromkeys(named)}
    return StoryDraft(story, pick(sorted(story.questions), *key, "asked"), facts)


def with_another_fact(draft: StoryDraft, *key: object) -> StoryDraft:
    """Change the fact that is asked for."""
    others = [word for word in WORDS[draft.asked] if word != draft.facts[draft.asked]]
    return replace(draft, facts={**draft.facts, draft.asked: pick(others, *key, "other")})


def stories(n: int, seed: int) -> tuple[Pair, ...]:
    """Make pairs of stories; no two pairs hold the same story and question, heroes left aside.

    - `n`: how many, 1 or more. A larger number is a superset. Two in nine are controls (20 to 24 %
      from 32 pairs on).
    - `seed`: another seed makes other pairs, with other ids.

    Raises KvError where n is below 1, or where so many new stories cannot be found.
    """
    if n < 1:
        raise KvError(f"stories: n must be 1 or more; got {n}.")
    known: set[tuple[object, ...]] = set()
    pairs = []
    for index in range(n):
        change = None if planned_type(index) is None else ENTITY
        drafts = _draw_new_pair(change, known, seed, index)
        known |= {draft.signature for draft in drafts}
        original, changed = (draft.written() for draft in drafts)
        pairs.append(checked(Pair.of(f"st-{seed}-{index}", original, changed, change)))
    return numbered(pairs)


def _draw_new_pair(
    change: str | None, known: set[tuple[object, ...]], seed: int, index: int
) -> tuple[StoryDraft, StoryDraft]:
    """Draw until both stories are new."""
    for attempt in range(ATTEMPTS):
        draft = draw_story(seed, index, attempt)
        changed = with_another_fact(draft, seed, index, attempt) if change else draft
        if not {draft.signature, changed.signature} & known:
            return draft, changed
    raise KvError(
        f"stories: no new story in {ATTEMPTS} draws after {index} pairs; pass n = {index} or fewer."
    )


def checked(pair: Pair) -> Pair:
    """Return a pair that does not contradict itself; AssertionError where it does."""
    contradiction = inconsistency(pair) or story_contradiction(pair)
    if contradiction:
        raise AssertionError(f"stories: pair {pair.id} contradicts itself: {contradiction}")
    return pair


def story_contradiction(pair: Pair) -> str | None:
    """Say in which way a pair's two stories differ other than in the fact asked for, or None.

    Both are read back from their texts: the answer stands in its own story as a whole word and in
    neither question, the other answer does not, and cut at the answers the two leave the same.
    """
    (body, question), (other_body, other_question) = (
        problem.text.rsplit("\n", 1) for problem in pair.problems
    )
    pieces, other_pieces = (
        _cut(body, pair.answer),
        _cut(other_body, pair.alt_answer),
    )
    if question != other_question:
        return "the two questions differ"
    if len(pieces) < 2 or len(other_pieces) < 2:
        return "an answer is not in its story"
    if len(_cut(question, pair.answer)) > 1 or len(_cut(question, pair.alt_answer)) > 1:
        return "the question names an answer"
    if pieces != other_pieces:
        return "the two stories differ in more than the answer"
    return None


def _cut(text: str, word: str) -> list[str]:
    return re.split(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE)
