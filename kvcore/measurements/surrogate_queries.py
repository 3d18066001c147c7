"""Surrogate queries that a model writes for passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvcore import tokenization
from kvcore.conditions.registry import STYLES
from kvcore.data.sample import Sample
from kvcore.engine import limits
from kvcore.errors import unknown
from kvcore.measurements import generation
from kvcore.models.lm import LM
from kvcore.tokenization import Unusable

MAX_WORDS = 16  # of a surrogate; what follows is cut off
MAX_NEW_TOKENS, MIN_NEW_TOKENS = 24, 3  # small models like to begin with an empty line
PASSAGE_TOKENS = 256  # of a passage, those that its surrogate is written for
EXAMPLES = (
    (
        "Bread dough rises because yeast turns sugar into gas. In a warm kitchen this takes about "
        "an hour, in a refrigerator a whole night.",
        {
            "keyword": "bread dough rising time",
            "question": "How long does bread dough take to rise?",
            "need": "I want to know how long to let my dough rise.",
        },
    ),
    (
        "The museum opens at ten on weekdays. Children under twelve enter free; groups of more "
        "than eight should book a week ahead.",
        {
            "keyword": "museum group booking",
            "question": "Do groups have to book the museum in advance?",
            "need": "I am planning a visit to the museum with a group.",
        },
    ),
)
REQUESTS = {
    "keyword": "Search keywords:",
    "question": "Question that the text answers:",
    "need": "What a reader of the text wants:",
}
PROMPTS: Mapping[str, tuple[str, str]] = {
    style: (
        "".join(
            f"Text: {text}\n{REQUESTS[style]} {written[style]}\n\n" for text, written in EXAMPLES
        )
        + "Text:",
        f"\n{REQUESTS[style]}",
    )
    for style in STYLES
}
"""What stands before and behind a passage for which a surrogate of a style is written."""
_WRAPPING = " \"'`*_“”\u2018\u2019«»#>-–—•"  # quotes, emphasis and list marks around a query


def surrogates(
    lm: LM, samples: Sequence[Sample], style: str, *, batch_tokens: int | None = None
) -> list[str]:
    """Let the model write a short query for each sample's passage; it sees nothing else.

    Returns one per sample: a line of at most ``MAX_WORDS`` words, or "" where nothing usable came:
    no word, or one of the prompt's own examples again.

    Raises KvError for an unknown style.

    Parameters
    ----------
    samples : sequence of Sample
        Of each only the passage counts, its first ``PASSAGE_TOKENS`` tokens.
    style : str
        One of `kvcore.conditions.registry.STYLES`; `PROMPTS` holds what is asked.
    batch_tokens : int, optional
        As `generation.generate` takes it.
    """
    if style not in PROMPTS:
        raise unknown("style", style, PROMPTS)
    prompts = {s.passage: surrogate_prompt(lm, s.passage, style) for s in samples}
    readable = {passage: ids for passage, ids in prompts.items() if ids}
    ends = generation.end_ids(lm) | generation.newline_ids(lm)
    written = generation.generate(
        lm,
        list(readable.values()),
        max_new_tokens=MAX_NEW_TOKENS,
        min_new_tokens=MIN_NEW_TOKENS,
        stop=ends,
        never=generation.special_ids(lm) - ends,
        batch_tokens=batch_tokens,
    )
    lines = (
        cleaned(str(lm.tokenizer.decode(list(ids), skip_special_tokens=True))) for ids in written
    )
    texts = dict(zip(readable, lines, strict=True))
    copied = {"", *(written[style] for _, written in EXAMPLES)}
    return ["" if texts.get(s.passage, "") in copied else texts[s.passage] for s in samples]


def cleaned(text: str) -> str:
    """Return a written text's first line without what wraps it, "" if no word is in it.

    Examples
    --------
    >>> cleaned(' "How long does it take?"' + chr(10) + "Text:")
    'How long does it take?'
    """
    lines = (
        "".join(c if c.isprintable() and c != "\ufffd" else " " for c in line)
        for line in text.splitlines()
    )
    words = next((line for line in lines if line.strip()), "").strip(_WRAPPING).split()
    query = " ".join(words[:MAX_WORDS]).strip(_WRAPPING).rstrip(",;:")
    return query if any(c.isalpha() for c in query) else ""


def surrogate_prompt(lm: LM, passage: str, style: str) -> tuple[int, ...]:
    """Return the token ids that a surrogate is written behind, () where a passage is unreadable."""
    before, behind = (tokenization.encode(lm.tokenizer, text) for text in PROMPTS[style])
    try:
        ids = tokenization.encode(lm.tokenizer, f" {passage.strip()}")
    except Unusable:
        return ()
    room = limits.exact_positions(lm) - MAX_NEW_TOKENS - len(before) - len(behind) - 1
    ids = ids[: max(0, min(room, PASSAGE_TOKENS))]
    return (*before, *ids, *behind) if ids and passage.strip() else ()
