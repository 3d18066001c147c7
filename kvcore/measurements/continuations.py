"""The continuations of one prompt that are compared: the author's, the model's own, a shuffled one.

All continuations of a text have the same number of tokens, so that none is smoother for being
shorter. What a model writes is kept in ``<store>/_written/`` as files ``continuations-*.jsonl``
(see `kvcore.store.artifacts`), so that it is written once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from kvcore import loading, tokenization
from kvcore.data.texts import Text
from kvcore.engine import limits
from kvcore.errors import KvError
from kvcore.io import digest
from kvcore.measurements import generation
from kvcore.measurements.base import ENGINE, sources_hash
from kvcore.measurements.hidden_states import TokenText
from kvcore.measurements.surrogate_store import FILE_SAMPLES
from kvcore.measurements.text_sources import SOURCES, check_source, temperature_of, writer_of
from kvcore.models.files import ModelFiles, locate
from kvcore.models.lm import LM
from kvcore.store import artifacts
from kvcore.store.artifacts import Key
from kvcore.store.schema import clean
from kvcore.tokenization import Unusable

NEW_TOKENS = 90  # most of a continuation, as in the published study
LEAST_TOKENS = 20  # fewer steps than that say little
KEY = (
    "model_id",
    "dtype",
    "tokenizer",
    "source",
    "seed",
    "n_tokens",
    "method",
    "text_id",
    "prompt_hash",
)
METHOD = "continuations/1"  # its version: raised by hand when texts are meant to change
CODE_SOURCES = (
    *ENGINE,
    "measurements/continuations.py",
    "measurements/generation.py",
    "measurements/text_sources.py",
)
CONTINUATIONS = artifacts.ArtifactKind("continuations", KEY, "ids", {"method": METHOD})
Ids = tuple[int, ...]


@dataclass(frozen=True)
class ContinuationSet:
    """Texts by source, of equal length within each text.

    - `texts`: for each usable text one per source, in the order given.
    - `unusable`: why a text cannot be compared, by its id; such a text has no source at all.
    """

    texts: tuple[TokenText, ...]
    unusable: Mapping[str, str]

    @property
    def dropped(self) -> Mapping[str, int]:
        """Return how many texts were left out, by reason."""
        return dict(sorted(Counter(self.unusable.values()).items()))


def load_continuations(
    lm: LM,
    texts: Sequence[Text],
    sources: Sequence[str] = SOURCES,
    *,
    seed: int = 0,
    root: Path | None = None,
    batch_tokens: int | None = None,
) -> ContinuationSet:
    """Return each text's continuations by the sources asked for.

    Prompt ids are those that the text as a whole begins with.

    Raises KvError for an unknown source, a text twice, or a folder that cannot be read or written.

    Parameters
    ----------
    lm : LM
        From `kvcore.load`; it writes the model's own continuations.
    texts : sequence of Text
        With unique identities.
    sources : sequence of str
        ``human`` is the author's continuation, its first ``NEW_TOKENS`` tokens at most;
        ``greedy`` and ``temperature(x)`` are as many tokens by the model itself, no special one
        among them and none that ends the text; ``greedy(model)`` is what another model writes,
        which must have the same tokenizer; ``shuffled`` are the human tokens in random order.
    seed : int
        Together with a text's id it decides what is sampled and how tokens are shuffled.
    root : Path, optional
        The store's folder: what the model wrote is read from it, and what it writes is added.
        Without it nothing is stored.
    batch_tokens : int, optional
        As `generation.generate` takes it.

    Notes
    -----
    Neither the order of the texts nor what else is asked for changes a continuation, but for
    logits that lie closer than rounding (see `generate`).
    """
    distinct = tuple(dict.fromkeys(sources))
    for source in distinct:
        check_source(source)
    twice = [name for name, n in Counter(text.id for text in texts).items() if n > 1]
    if twice:
        raise KvError(f"two texts have the id {twice[0]!r}; give each its own.")
    human: dict[str, TokenText] = {}
    unusable: dict[str, str] = {}
    for text in texts:
        try:
            human[text.id] = tokenize_text(lm, text)
        except Unusable as reason:
            unusable[text.id] = str(reason)
    by_model = {
        source: _by_model(
            writer_for(lm, source), list(human.values()), own_name(source), seed, root, batch_tokens
        )
        for source in distinct
        if source not in ("human", "shuffled")
    }
    by_text = [
        [continuation_by(s, text, by_model, seed) for s in distinct] for text in human.values()
    ]
    return ContinuationSet(tuple(chain.from_iterable(by_text)), unusable)


def tokenize_text(lm: LM, text: Text) -> TokenText:
    """Tokenize prompt and continuation as one text, and cut the continuation to `NEW_TOKENS`.

    Raises Unusable where a token spans the two, the continuation is too short, the text is too long
    for the model, or it is not valid Unicode.
    """
    prompt = tokenization.encode(lm.tokenizer, text.prompt)
    whole = tokenization.encode(lm.tokenizer, text.prompt + text.continuation)
    if whole[: len(prompt)] != prompt:
        raise Unusable("prompt and continuation merge into one token")
    continuation = whole[len(prompt) :][:NEW_TOKENS]
    if len(continuation) < LEAST_TOKENS:
        raise Unusable(f"fewer than {LEAST_TOKENS} tokens in the continuation")
    limit = limits.exact_positions(lm)
    if 1 + len(prompt) + NEW_TOKENS > limit:
        raise Unusable(f"longer than the {limit} positions the model is exact for")
    return TokenText(text.id, "human", prompt, continuation)


def seed_of(seed: int, name: str, source: str) -> int:
    """Return the seed of one text's randomness, from 0, the same wherever the text stands."""
    return int(digest(str(seed), name, source)[:16], 16)


def continuation_by(
    source: str, human: TokenText, by_model: Mapping[str, Mapping[str, Ids]], seed: int
) -> TokenText:
    """Return the text as one source continues it, as long as the human's.

    `by_model`: what the model wrote, by source and the text's id.
    """
    ids = human.continuation
    if source == "shuffled":
        rng = np.random.Generator(np.random.PCG64(seed_of(seed, human.id, source)))
        ids = tuple(ids[i] for i in rng.permutation(len(ids)))
    elif source != "human":
        ids = by_model[source][human.id][: len(ids)]
    return replace(human, source=source, continuation=ids)


@dataclass(frozen=True)
class Writer:
    """A model that writes: what identifies it, and how it is loaded once something is missing."""

    files: ModelFiles
    load: Callable[[], LM]


def own_name(source: str) -> str:
    """Return a source as its writer's own cell names it, so that both share what is written."""
    return "greedy" if writer_of(source) else source


def writer_for(lm: LM, source: str) -> Writer:
    """Return who writes a source: the model that reads, or the one that the source names.

    What is written is refused with KvError where the writer's vocabulary is another: its ids would
    be another text. Raises MissingResource for a writer that is not on this machine.
    """
    name = writer_of(source)
    if name is None:
        return Writer(lm.files, lambda: lm)

    def load() -> LM:
        other = loading.load(name, device=str(lm.device))
        if other.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
            raise KvError(
                f"source={source!r} must name a model with the vocabulary of {lm.name}; "
                f"{name} has another one."
            )
        return other

    return Writer(locate(name), load)


def _by_model(
    writer: Writer,
    texts: Sequence[TokenText],
    source: str,
    seed: int,
    root: Path | None,
    batch_tokens: int | None,
) -> dict[str, Ids]:
    """Return the model's continuation of each text, `NEW_TOKENS` long, by its id."""

    def write(indices: Sequence[int]) -> list[Ids]:
        lm = writer.load()
        return generation.generate(
            lm,
            [texts[i].prompt for i in indices],
            max_new_tokens=NEW_TOKENS,
            temperature=temperature_of(source),
            stop=(),
            never=generation.special_ids(lm),
            seeds=[seed_of(seed, texts[i].id, source) for i in indices],
            batch_tokens=batch_tokens,
        )

    if root is None:
        written = write(range(len(texts)))
    else:
        written = artifacts.obtain(
            root / artifacts.FOLDER,
            CONTINUATIONS,
            [continuation_key(writer.files, text, source, seed) for text in texts],
            write,
            code=sources_hash(CODE_SOURCES),
            setting=_shared_key(writer.files, source, seed),
            per_file=FILE_SAMPLES,
        )
    return {text.id: tuple(ids) for text, ids in zip(texts, written, strict=True)}


def _shared_key(files: ModelFiles, source: str, seed: int) -> Key:
    """Return the part of a key that all continuations by one source share."""
    drawn = "" if temperature_of(source) == 0 else str(seed)
    return (
        files.model_id,
        files.dtype,
        files.tokenizer_id,
        source,
        drawn,
        str(NEW_TOKENS),
        METHOD,
    )


def continuation_key(files: ModelFiles, text: TokenText, source: str, seed: int) -> Key:
    """Return the key under which a continuation is stored, one entry for each of `KEY`."""
    return (*_shared_key(files, source, seed), clean(text.id), digest(*map(str, text.prompt))[:32])
