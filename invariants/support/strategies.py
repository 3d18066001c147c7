"""What the invariants are tried on: small samples, sizes first and everything else from them."""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st

from kvcore.data.sample import Sample

once = settings(max_examples=1, deadline=None)
few = settings(max_examples=6, deadline=None)
several = settings(max_examples=25, deadline=None)
some = settings(max_examples=60, deadline=None)
"""For tests that score with models, build caches, and compute with numbers alone."""

WORDS = tuple(
    "the sample mean is sum of entries along an axis and number divided by nothing else what "
    "does function do it returns query prefix document position key value naïve 3.14 (x) <s> "
    "größe 数 token".split()
)
"""Ordinary words, text outside ASCII, and text that spells the tiny tokenizers' own BOS."""

MAX_SHIFT = 120
"""Positions a key is moved by, at most: two moves stay within the shortest exact length of 256."""


def texts(min_words: int, max_words: int) -> st.SearchStrategy[str]:
    """Text of words that the tiny tokenizers cut into one to several tokens each."""
    return st.lists(st.sampled_from(WORDS), min_size=min_words, max_size=max_words).map(" ".join)


def samples(*, max_words: int = 18) -> st.SearchStrategy[Sample]:
    """Samples whose documents are shorter and longer than the tiny sliding window of 8.

    They bring along what some conditions read: a past query, surrogates, another passage.
    """
    brought = st.tuples(
        *(
            st.tuples(st.just(name), texts(1, 3))
            for name in (
                "past_query",
                "surrogate(need)",
                "keywords(passage)",
                "keywords(another)",
                "shuffled(need)",
                "another(need)",
            )
        ),
        st.tuples(st.just("other_passage"), texts(1, max_words)),
    )
    return st.builds(
        Sample,
        query=texts(1, max(1, max_words // 4)),
        passage=texts(1, max_words),
        answer=texts(1, 4),
        texts=brought,
    )


def batches(max_size: int = 5, *, max_words: int = 18) -> st.SearchStrategy[list[Sample]]:
    """Two or more samples of different lengths, no two of them alike."""
    return st.lists(
        samples(max_words=max_words), min_size=2, max_size=max_size, unique_by=lambda s: s.id
    )


def shifts() -> st.SearchStrategy[int]:
    """Position changes of either sign."""
    return st.integers(min_value=-MAX_SHIFT, max_value=MAX_SHIFT)


def offsets() -> st.SearchStrategy[int]:
    """Lengths of a prefix, in tokens."""
    return st.integers(min_value=1, max_value=MAX_SHIFT)


def token_ids(
    vocabulary: int, *, min_size: int = 1, max_size: int = 24
) -> st.SearchStrategy[list[int]]:
    """Ordinary token ids: the first three are the tiny tokenizers' special ones."""
    return st.lists(
        st.integers(min_value=3, max_value=vocabulary - 1), min_size=min_size, max_size=max_size
    )


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[list[int]], list[list[bool]], int, int | None]:
    """Key positions, which of them are real, the length of the pass, and a window.

    Positions rise slot by slot, with gaps (dropped prefixes) and repeats (padding) among them.
    """
    rows = draw(st.integers(1, 3))
    slots = draw(st.integers(1, 12))
    steps = st.lists(st.integers(0, 4), min_size=slots, max_size=slots)
    positions = [
        [sum(s[: i + 1]) for i in range(slots)]
        for s in draw(st.lists(steps, min_size=rows, max_size=rows))
    ]
    flags = st.lists(st.booleans(), min_size=slots, max_size=slots)
    real = draw(st.lists(flags, min_size=rows, max_size=rows))
    return positions, real, draw(st.integers(1, slots)), draw(st.none() | st.integers(1, 9))


IDS = token_ids(384)
"""Ordinary ids of the tiny models."""


def literals() -> st.SearchStrategy[str]:
    """Any text that is one UTF-16 unit per character, quotes, backslashes and newlines too."""
    return st.text(st.characters(codec="utf-8", max_codepoint=0xFFFF), min_size=1, max_size=12)


def prefix_names() -> st.SearchStrategy[str]:
    """Every prefix, spelled the way conditions spell it themselves; repeats nest."""
    counts = st.integers(1, 9)
    simple = (
        st.sampled_from(["random", "oracle", "static_fact", "unrelated", "first_sentence"])
        | st.sampled_from(["fact", "definition", "procedure", "quantity", "problem"]).map(
            "static({})".format
        )
        | st.sampled_from(["keyword", "question", "need"]).map("llm_surrogate({})".format)
        | st.sampled_from(["keyword", "question", "need"]).map("shuffled_surrogate({})".format)
        | st.sampled_from(["keyword", "question", "need"]).map("surrogate_of_another({})".format)
        | st.sampled_from(["query", "passage", "another"]).map("keywords({})".format)
        | counts.map("click_history({})".format)
        | literals().map(lambda x: json.dumps(x, ensure_ascii=False)).map("literal({})".format)
    )
    return st.recursive(
        simple, lambda inner: st.builds("repeat({},{})".format, inner, counts), max_leaves=3
    )


def share_pairs() -> st.SearchStrategy[str]:
    """Two rising shares, spelled as arguments."""
    return st.sampled_from(["0,0.25", "0.25,0.5", "0.5,0.75", "0.75,1", "0.1,0.9"])


def condition_names() -> st.SearchStrategy[str]:
    """Every condition that comes with the instrument, spelled the way it spells itself."""
    shares = st.floats(0, 1, allow_nan=False).map(abs)
    counts = st.integers(1, 40)
    layers = st.integers(0, 40)
    several = st.sampled_from([0, *range(2, 41)])  # 1 would be ambiguous
    more: dict[str, tuple[st.SearchStrategy[object], ...]] = {
        "full_context": (),
        "one_base": (),
        "no_reposition": (),
        "rope_roundtrip": (),
        "suffix": (),
        "values_only": (),
        "keys_only": (),
        "values_of_another": (),
        "with_separator": (),
        "values_layers": (share_pairs(),),
        "values_positions": (share_pairs(),),
        "amplified": (st.sampled_from([1.5, 2, 5]),),
        "reposition": (st.sampled_from(["float32", "model"]),),
        "blocks": (counts, st.sampled_from(["first", "last", "none", "all"])),
        "values_early_layers": (several | shares,),
        "values_layer": (layers,),
        "values_early_positions": (shares,),
        "interp": (shares,),
        "beacons": (counts,),
    }
    composed = [
        st.builds(
            "{}({})".format,
            st.just(name),
            st.tuples(prefix_names(), *kinds).map(lambda given: ",".join(map(str, given))),
        )
        for name, kinds in more.items()
    ]
    plain = st.sampled_from(["bare", "bos_only", "framed", "bare_again", "separator"])
    return st.one_of(plain, shares.map("qvi({})".format), prefix_names(), *composed)
