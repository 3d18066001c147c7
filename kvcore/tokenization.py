"""Matched tokenization and prefixes: every condition of a sample uses the same document ids."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kvcore.data.derived_texts import own_texts
from kvcore.data.sample import Sample
from kvcore.errors import KvError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TRIES = 400  # draws per token before a random prefix is given up
LINE_END_TOKENS = 4  # most tokens that a newline is read as: its one byte, and what marks a word
MOST_REMEMBERED = 50_000  # random prefixes of one tokenizer: some 10 MB
Ids = tuple[int, ...]
_ENCODED, _DRAWN, _ORDINARY = "_kvcore_encoded", "_kvcore_drawn", "_kvcore_ordinary_ids"
"""What is remembered of a tokenizer, beside its own attributes: it goes when the tokenizer goes."""


@dataclass(frozen=True)
class Target:
    """What is asked about a document, and the text whose NLL is measured.

    `prompt`, `answer`: with ``{query}`` and ``{answer}`` where the sample's stand; tokenized on
    their own.
    """

    prompt: str
    answer: str


TARGETS = {
    "answer": Target("\nQuery: {query}\nAnswer:", " {answer}"),
    "answer_question": Target("\nQuestion: {query}\nAnswer:", " {answer}"),
    "answer_plain": Target("\n{query}\n", "{answer}"),
    "qdoc": Target("\nThis document is about:", " {query}"),
    "relevance": Target(
        "\nQuery: {query}\nIs this document relevant?",
        " Yes, this document is relevant to the query",
    ),
}
"""The published target first, two rewordings of it, and the other two of ranking."""


class Unusable(KvError):
    """A sample that cannot be measured; the message is the reason it is counted under."""


@dataclass(frozen=True)
class TokenizedSample:
    """One sample as token ids, none of which is BOS.

    - `query_prefix`: ``"{query}\\n"``: the oracle prefix, and the length every random prefix
      matches.
    - `document`: the passage as it is tokenized behind ``"{query}\\n"``, then its padding, if it
      has any.
    - `prompt`, `answer`: the target's two texts, tokenized on their own.
    - `clean_boundary`: whether the passage tokenized on its own gives the same ids as behind the
      prefix.
    - `texts`: the sample's further texts, by name; of two of one name the later counts.
    """

    sample_id: str
    query_prefix: tuple[int, ...]
    document: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    clean_boundary: bool
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Prefix:
    """Tokens that stand beside the document while the cache is built.

    - `kind`: ``none`` is nothing, ``query`` the sample's own query, ``random`` random tokens of the
      query's length, ``literal`` a fixed text, ``own`` a text that each sample brings along (`text`
      is its name in ``Sample.texts``), ``raw`` a fixed text to which no newline is added,
      ``another`` another document, which each sample brings along as it does ``own`` ones, as many
      tokens of it as the sample's document has; all others but ``none`` end in a newline.
    - `times`: how many copies stand in a row.
    """

    kind: Literal["none", "query", "random", "literal", "own", "raw", "another"]
    text: str = ""
    times: int = 1


NO_PREFIX = Prefix("none")


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    """Tokenize a text without special tokens; text that spells one is read as plain text.

    Raises Unusable if the text is not valid Unicode (a lone surrogate).
    """
    known = tokenizer.__dict__.get(_ENCODED, {}).get(text)
    if known is not None:
        return known  # type: ignore[no-any-return]
    if not _is_unicode(text):
        raise Unusable("not valid Unicode (lone surrogate)")
    return encode_batch(tokenizer, [text])[0]


def encode_batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """Tokenize valid texts as `encode` does, in one call: the way there costs more than a text."""
    if not texts:
        return []
    backend = _backend(tokenizer)
    if backend is None:
        ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True).input_ids
        return [tuple(map(int, of_text)) for of_text in ids]
    # What transformers sets before each call.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    read = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [tuple(of_text.ids) for of_text in read]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
    """Return the text of token ids, special ones included."""
    backend = _backend(tokenizer)
    if backend is None or tokenizer.clean_up_tokenization_spaces:
        return str(tokenizer.decode(list(ids)))
    return str(backend.decode(list(ids), skip_special_tokens=False))


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the tokenizer of the library `tokenizers` that does all the work, None if none does.

    It is called itself: the way through transformers takes longer than a short text.
    """
    kind: Any = type(tokenizer)
    return tokenizer.backend_tokenizer if _adds_nothing(kind) else None


@functools.cache
def _adds_nothing(kind: type) -> bool:
    """Whether a class of tokenizers leaves all work to the library `tokenizers`."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    return issubclass(kind, PreTrainedTokenizerFast) and all(
        getattr(kind, name) is getattr(base, name)
        for base, names in {
            PreTrainedTokenizerBase: ("__call__", "decode"),
            PreTrainedTokenizerFast: ("_encode_plus", "_decode"),
        }.items()
        for name in names
    )


@contextmanager
def encoded_together(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Iterator[None]:
    """Tokenize texts in one call; inside the context `encode` need not do so again."""
    valid = [text for text in dict.fromkeys(texts) if _is_unicode(text)]
    outer = tokenizer.__dict__.get(_ENCODED)
    tokenizer.__dict__[_ENCODED] = dict(zip(valid, encode_batch(tokenizer, valid), strict=True))
    try:
        yield
    finally:
        if outer is None:
            del tokenizer.__dict__[_ENCODED]
        else:
            tokenizer.__dict__[_ENCODED] = outer


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_ids(name: str, ids: Iterable[int], size: int, model: str) -> None:
    """Raise KvError for the first id that lies outside a model's vocabulary, 0 .. size - 1."""
    outside = next((i for i in ids if not 0 <= i < size), None)
    if outside is not None:
        raise KvError(f"{name} holds the id {outside}; {model}'s vocabulary is 0..{size - 1}.")


def texts_of(sample: Sample, target: str) -> tuple[str, ...]:
    """Return the texts that `tokenize` reads of a sample, but for its padding.

    Query, query and passage together, prompt, answer and the passage alone.
    """
    asked = TARGETS[target]
    return (
        f"{sample.query}\n",
        f"{sample.query}\n{sample.passage}",
        _fill_in(asked.prompt, sample),
        _fill_in(asked.answer, sample),
        sample.passage,
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, sample: Sample, target: str = "answer"
) -> TokenizedSample:
    """Tokenize a sample once, for all conditions.

    `target`: a key of `TARGETS`.

    Raises Unusable if the boundary between prefix and passage merges into one token, if a part is
    empty, if the passage cannot be padded to the length asked for, or if the text is not valid
    Unicode.
    Raises KvError for an unknown target.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    query_text, together_text, prompt_text, answer_text, passage_text = texts_of(sample, target)
    query_prefix = encode(tokenizer, query_text)
    together = encode(tokenizer, together_text)
    if together[: len(query_prefix)] != query_prefix:
        raise Unusable("prefix and passage merge into one token")
    document = together[len(query_prefix) :]
    prompt, answer = encode(tokenizer, prompt_text), encode(tokenizer, answer_text)
    if not document or not answer:
        raise Unusable("no tokens in the passage or the answer")
    return TokenizedSample(
        sample_id=str(sample.id),
        query_prefix=query_prefix,
        document=pad_document(tokenizer, document, sample),
        prompt=prompt,
        answer=answer,
        clean_boundary=encode(tokenizer, passage_text) == document,
        texts=(*own_texts(sample), *sample.texts),
    )


def _fill_in(text: str, sample: Sample) -> str:
    """Fill in the query and the answer, which may themselves hold braces."""
    parts = {"{query}": sample.query, "{answer}": sample.answer}
    return re.sub(r"\{(?:query|answer)\}", lambda match: parts[match.group()], text)


def pad_document(
    tokenizer: PreTrainedTokenizerBase, document: tuple[int, ...], sample: Sample
) -> tuple[int, ...]:
    """Return the document followed by unrelated passages, as long as the sample asks for.

    Raises Unusable if the document is longer than that, or the sample's padding too short.
    """
    if sample.length is None:
        return document
    if len(document) > sample.length:
        raise Unusable(f"longer than {sample.length} tokens before any padding")
    padded = document
    for text in sample.padding:
        if len(padded) >= sample.length:
            break
        padded += encode(tokenizer, f"\n{text}")
    if len(padded) < sample.length:
        raise Unusable(f"not enough padding for {sample.length} tokens")
    return padded[: sample.length]


def prefix_ids(
    tokenizer: PreTrainedTokenizerBase, tokens: TokenizedSample, prefix: Prefix, seed: int
) -> tuple[int, ...]:
    """Return a prefix's token ids for one sample.

    `seed`: only a random prefix depends on it, together with the sample's id.

    Raises Unusable if no random prefix of this length survives decoding and encoding, or the sample
    brings no text of that name.
    """
    return ids_of_copy(tokenizer, tokens, prefix, seed) * prefix.times


def ids_of_copy(
    tokenizer: PreTrainedTokenizerBase, tokens: TokenizedSample, prefix: Prefix, seed: int
) -> tuple[int, ...]:
    """Return the token ids of a single copy of a prefix; see `prefix_ids`."""
    match prefix.kind:
        case "none":
            return ()
        case "query":
            return tokens.query_prefix
        case "random":
            return random_prefix(tokenizer, len(tokens.query_prefix), tokens.sample_id, seed)
        case "raw":
            return encode(tokenizer, prefix.text)
    text = prefix.text if prefix.kind == "literal" else dict(tokens.texts).get(prefix.text)
    if not text:
        raise Unusable(f"the sample has no text {prefix.text!r}")
    if prefix.kind == "another":
        return fitted(encode(tokenizer, text), len(tokens.document))
    return encode(tokenizer, f"{text}\n")


def fitted(ids: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Return the first ``length`` ids of a text that is read again from its start at its end."""
    return (ids * math.ceil(length / len(ids)))[:length]


def random_prefix(
    tokenizer: PreTrainedTokenizerBase, length: int, sample_id: str, seed: int
) -> Ids:
    """Draw exactly ``length`` token ids: random ordinary tokens, then a newline.

    Each token is uniform over the ordinary vocabulary, given that the text read so far comes
    back unchanged from decoding and encoding; so does the whole prefix.

    `length`: in tokens, at least 1, the newline included.

    Depends on (seed, sample_id) alone: sample order, shards and workers never change it.

    Raises Unusable if none survives decoding and encoding.
    """
    drawn = draw_prefixes(tokenizer, [(length, sample_id)], seed)[0]
    if drawn is None:
        raise Unusable("no random prefix of this length survives decode and encode")
    return drawn


def draw_prefixes(
    tokenizer: PreTrainedTokenizerBase, wanted: Sequence[tuple[int, str]], seed: int
) -> list[Ids | None]:
    """Draw the random prefixes of several samples side by side, each as if it were alone.

    - `wanted`: length and sample id of each; see `random_prefix`.

    What was drawn is remembered: the targets and shards of a sample ask for the same prefix. None
    stands for one that does not survive decoding and encoding.
    """
    known: dict[tuple[int, str, int], Ids | None] = tokenizer.__dict__.setdefault(_DRAWN, {})
    keys = [(length, sample_id, seed) for length, sample_id in wanted]
    draws = {key: _draw(tokenizer, *key) for key in keys if key not in known}
    if len(known) + len(draws) > MOST_REMEMBERED:
        known.clear()
        draws = {key: _draw(tokenizer, *key) for key in keys}
    answers: dict[tuple[int, str, int], Ids | None] = dict.fromkeys(draws)
    while answers:
        texts = dict[tuple[int, str, int], str]()
        for key, ids in answers.items():
            try:
                texts[key] = draws[key].send(ids)
            except StopIteration as end:
                known[key] = end.value
        encoded = encode_batch(tokenizer, list(texts.values()))
        answers = dict(zip(texts, encoded, strict=True))
    return [known[key] for key in keys]


def _draw(
    tokenizer: PreTrainedTokenizerBase, length: int, sample_id: str, seed: int
) -> Generator[str, Ids | None, Ids | None]:
    """Draw one random prefix: yield each text that is to be encoded, and be sent its ids."""
    rng = np.random.Generator(np.random.PCG64(_seed(seed, sample_id)))
    ordinary = ordinary_ids(tokenizer)
    chosen: Ids = ()
    text = yield from _stable_text(tokenizer, chosen)
    tried: str | None = None  # the last text that was ended: a token refused changes nothing
    for _ in range(TRIES * max(1, length)):
        if text not in (None, tried) and length - len(chosen) <= LINE_END_TOKENS:
            tried = text
            ended = yield f"{text}\n"
            if ended is not None and len(ended) == length and ended[: len(chosen)] == chosen:
                return ended
        if len(chosen) >= length:
            chosen = chosen[:-2]
            text = yield from _stable_text(tokenizer, chosen)
        longer = (*chosen, int(ordinary[rng.integers(len(ordinary))]))
        longer_text = yield from _stable_text(tokenizer, longer)
        if longer_text is not None:
            chosen, text = longer, longer_text
    return None


def _stable_text(
    tokenizer: PreTrainedTokenizerBase, ids: Ids
) -> Generator[str, Ids | None, str | None]:
    """Return the text of ids that come back unchanged from decoding and encoding, else None."""
    text = decode(tokenizer, ids)
    if "\ufffd" in text or not _is_unicode(text):
        return None
    again = yield text
    return text if again == ids else None


def ordinary_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids of every token that is neither special nor added, ascending."""
    known = tokenizer.__dict__.get(_ORDINARY)
    if known is None:
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        known = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
        tokenizer.__dict__[_ORDINARY] = known
    return known


def _seed(seed: int, sample_id: str) -> int:
    digest = hashlib.sha256(f"{seed}\x1f{sample_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16], "big")
