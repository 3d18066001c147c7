"""A context switched in mid-answer: what is switched, the ways to do it, and each token by token.

Nothing here touches a model. A switch is planned in two steps: `CachePlan` says which slots are
cached and which tokens are read on top of them, `DecodePlan` what follows, token by token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvcore import tokenization
from kvcore.errors import KvError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Ids = tuple[int, ...]
BOS, ORIGINAL, INJECTED, GENERATED = range(4)
SPANS = ("bos", "original", "injected", "generated")
"""What a slot holds: the new context, or what a control puts in its place, is injected wherever it
stands, also where it was there from the start: on an identical pair also what ignore reads."""


@dataclass(frozen=True)
class Switch:
    """A context, the one that replaces it, and the text during which it does.

    - `id`: unique; the noise control is drawn by it.
    - `original`, `new`: the two contexts, as text or as token ids without special ones. They are
      read as they are: a newline or a question mark between context and text belongs to the
      context.
    - `stream`: the text that goes on behind the original context: up to the switch what was
      generated, behind it what every condition reads.
    - `at`: where in the stream the switch comes: a share of it, between 0 and 1, or a number of
      tokens. At least one token of the stream stands before it and one behind it; a share is
      rounded to the nearest such place, halves to even.
    """

    id: str
    original: str | Sequence[int]
    new: str | Sequence[int]
    stream: str | Sequence[int]
    at: float | int = 0.5


@dataclass(frozen=True)
class TokenizedSwitch:
    """A switch as token ids, none of which is BOS.

    `before`, `after`: the stream, cut at the switch; neither part is empty.
    """

    id: str
    original: Ids
    new: Ids
    before: Ids
    after: Ids

    @property
    def identical(self) -> bool:
        """Whether the new context is the old one: the control that changes nothing."""
        return self.original == self.new


@dataclass(frozen=True)
class SwitchMethod:
    """One way to switch, as its name spells it.

    - `kind`: a key of `METHOD_MEANINGS`.
    - `count`: parts of ``gradual``, tokens of ``partial``; None: all of them.
    - `every`: tokens of the stream from one part of ``gradual`` to the next.
    """

    name: str
    kind: str
    count: int | None = 0
    every: int = 1


METHOD_MEANINGS: Mapping[str, str] = {
    "ignore": "[BOS][original][g] — no switch; a reference",
    "oracle": "[BOS][new][g] — the new context from the start; the other reference. In free "
    "generation [BOS][new] alone: it writes its own text from the start",
    "injection": "[BOS][original][g][new] — the new context is appended to the live cache",
    "gradual": "gradual(p) or gradual(p,k): the new context in p parts, as equal as can be; the "
    "first where injection puts it, each further one k tokens later (default 1)",
    "flush": "[BOS][new][g] — the old cache is dropped, and the tokens so far are read again "
    "behind the new context; on a shared stream that is what oracle reads",
    "partial": "partial(m) or partial(all): of [BOS][original][g] the last m slots give way to "
    "the last m of [BOS][new][g]",
    "noise": "injection of random tokens, as many as the new context has",
    "repetition": "injection of the original context once more",
}
"""Every way to switch; [g] are the tokens generated up to then, g_1 ... g_t.

In all of them slot i has position i. Everything sees everything before it, within the window of
its layer. At the switch g_t has been chosen but not read: every way reads it next, on top of what
it caches, so that the first prediction behind the switch is made by a token that saw the cache as
that way leaves it (ignore, oracle, flush, partial) or by the last injected token.

**partial(m)** counts m back from g_{t-1}, over the generated tokens and then, where m is larger
than t - 1, over the context. What is taken was read behind BOS and the whole new context, and its
keys are rotated to follow on what is kept, so that the positions stay contiguous whatever the
lengths of the contexts. The tokens behind see BOS, what is kept of the original context and of
the text, and what was computed anew; the new context itself they see only where it is counted in.
With m = 0 this is ignore. From m = t - 1 + length of the new context on, and as partial(all),
nothing of the old is left: this is flush.

**gradual(1)** is injection. Parts that are due behind the last token followed are never read."""
METHODS = (
    "oracle",
    "injection",
    "gradual(4)",
    "ignore",
    "flush",
    "partial(8)",
    "noise",
    "repetition",
)


def switch_method(spelled: str | SwitchMethod) -> SwitchMethod:
    """Return the way that a name spells; a way passes through.

    Raises KvError for an unknown name or a number that makes no sense.

    Examples
    --------
    >>> switch_method("gradual(4,2)")
    SwitchMethod(name='gradual(4,2)', kind='gradual', count=4, every=2)
    >>> switch_method("partial(all)").count is None
    True
    """
    if isinstance(spelled, SwitchMethod):
        return spelled
    match = re.fullmatch(r"(\w+)(?:\((\d+|all)(?:,(\d+))?\))?", spelled.replace(" ", ""))
    kind, count, every = match.groups() if match else (spelled, None, None)
    if kind not in METHOD_MEANINGS:
        raise unknown("way to switch", spelled, METHOD_MEANINGS)
    name = f"{kind}({count}{f',{every}' if every else ''})" if count else str(kind)
    fits = {
        "gradual": count not in (None, "all") and int(count) > 0 and every != "0",
        "partial": count is not None and every is None,
    }.get(kind, count is None)
    if not fits:
        raise KvError(
            f"way to switch {spelled!r}: write gradual(parts) or gradual(parts,every) "
            "with numbers from 1, partial(tokens) or partial(all), and the others by "
            "their name alone."
        )
    return SwitchMethod(name, kind, None if count == "all" else int(count or 0), int(every or 1))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, switch: Switch, vocabulary: int
) -> TokenizedSwitch:
    """Turn a switch into token ids; each text is tokenized on its own, without special tokens.

    `vocabulary`: ids lie in 0 .. vocabulary - 1.

    Raises KvError for an empty context, ids outside the vocabulary, BOS, which is put in front by
    whoever reads, or a place outside the stream; it names the switch.
    """
    parts = {}
    for name in ("original", "new", "stream"):
        text = getattr(switch, name)
        try:
            ids = tokenization.encode(tokenizer, text) if isinstance(text, str) else map(int, text)
        except tokenization.Unusable as error:
            raise KvError(f"switch {switch.id!r}: {name} is {error}.") from error
        ids = tuple(ids)
        odd = next((i for i in ids if not 0 <= i < vocabulary), None)
        if not ids or odd is not None:
            what = "holds no tokens" if odd is None else f"holds the id {odd}"
            raise KvError(
                f"switch {switch.id!r}: {name} {what}; pass at least one token id, all "
                f"in 0..{vocabulary - 1}."
            )
        if tokenizer.bos_token_id in ids:
            raise KvError(
                f"switch {switch.id!r}: {name} holds BOS ({tokenizer.bos_token_id}); "
                "leave it out, it is put in front."
            )
        parts[name] = ids
    step = switch_position(switch, len(parts["stream"]))
    stream = parts["stream"]
    return TokenizedSwitch(switch.id, parts["original"], parts["new"], stream[:step], stream[step:])


def switch_position(switch: Switch, length: int) -> int:
    """Return before how many tokens of a stream the switch comes, 1 .. length - 1."""
    at = switch.at
    share = isinstance(at, float)
    if length < 2 or not (0 < at < 1 if share else 1 <= at < length):
        raise KvError(
            f"switch {switch.id!r}: at={at!r} in a stream of {length} tokens; pass a "
            "share between 0 and 1 or a number of tokens from 1 to one less than the "
            "stream has, which is at least 2."
        )
    return min(max(round(at * length), 1), length - 1) if share else int(at)


@dataclass(frozen=True)
class CachePlan:
    """What is cached, and what is read on top, when the token behind the switch is predicted.

    - `runs`: one or two sequences, each read from BOS on, whose slots the cache is made of.
    - `slots_taken`: (int, int); how many first slots of the first run and how many last slots of
      the second; what the second gives is rotated to follow on the first.
    - `cached`: what each of these slots holds, `BOS` ... `GENERATED`.
    - `read`: tokens that are read on top of the cache, the last of which predicts; at least one.
    - `slot_spans`: what each of them is.
    - `later`: what else is injected: after how many of the tokens that follow, and which tokens.
    """

    runs: tuple[Ids, ...]
    slots_taken: tuple[int, int]
    cached: Ids
    read: Ids
    slot_spans: Ids
    later: tuple[tuple[int, Ids], ...] = ()


@dataclass(frozen=True)
class DecodePlan:
    """A cache and the tokens that follow on it, as one pass on top.

    - `read`: all tokens of that pass.
    - `slot_spans`: what each slot holds, the cached ones first.
    - `predicts`: which tokens of the pass predict the tokens followed, one after the other.
    """

    opening: CachePlan
    read: Ids
    slot_spans: Ids
    predicts: Ids

    @property
    def length(self) -> int:
        """Number of positions, the longest run's included where that is longer."""
        return max(len(self.slot_spans), *(len(run) + 1 for run in self.opening.runs))


def plan_cache(
    method: SwitchMethod, switch: TokenizedSwitch, bos_id: int, noise: Ids = ()
) -> CachePlan:
    """Plan the cache of a way to switch.

    `noise`: what the noise control injects.
    """
    if method.kind in ("oracle", "flush"):
        return reprefill(switch.new, INJECTED, switch.before, bos_id)
    if method.kind == "partial":
        return plan_partial(method.count, switch, bos_id)
    old = reprefill(switch.original, ORIGINAL, switch.before, bos_id)
    controls = {"ignore": (), "noise": noise, "repetition": switch.original}
    injected = controls.get(method.kind, switch.new)
    parts = _parts(injected, (method.count or 1) if method.kind == "gradual" else 1)
    return replace(
        old,
        read=(*old.read, *parts[0]),
        slot_spans=(*old.slot_spans, *[INJECTED] * len(parts[0])),
        later=tuple((i * method.every, part) for i, part in enumerate(parts) if i and part),
    )


def reprefill(context: Ids, kind: int, before: Ids, bos_id: int) -> CachePlan:
    """Return what is there after reading a context and a text anew, the last token unread."""
    ids = (bos_id, *context, *before)
    spans = (BOS, *[kind] * len(context), *[GENERATED] * len(before))
    return CachePlan((ids[:-1],), (len(ids) - 1, 0), spans[:-1], ids[-1:], spans[-1:])


def plan_partial(count: int | None, switch: TokenizedSwitch, bos_id: int) -> CachePlan:
    """Plan a cache whose last slots are computed anew, ``count`` of them or all."""
    old = reprefill(switch.original, ORIGINAL, switch.before, bos_id)
    new = reprefill(switch.new, INJECTED, switch.before, bos_id)
    most = new.slots_taken[0] - 1
    recomputed = most if count is None else min(count, most)
    if recomputed in (0, most):
        return new if recomputed else old
    from_old = max(1, old.slots_taken[0] - recomputed)
    return CachePlan(
        (*old.runs, *new.runs),
        (from_old, recomputed),
        (*old.cached[:from_old], *new.cached[-recomputed:]),
        old.read,
        old.slot_spans,
    )


def _parts(ids: Ids, count: int) -> list[Ids]:
    """Cut ids into parts whose lengths differ by one at most, the longer ones first."""
    return [tuple(part.tolist()) for part in np.array_split(np.array(ids, dtype=np.int64), count)]


def plan_decode(opening: CachePlan, followed: Ids) -> DecodePlan:
    """Let tokens follow on a cache; the last one is predicted and not read."""
    read, spans = list(opening.read), list(opening.slot_spans)
    later = dict(opening.later)
    predicts = []
    for number, token in enumerate(followed):
        due = later.get(number, ())
        read += due
        spans += [INJECTED] * len(due)
        predicts.append(len(read) - 1)
        read.append(token)
        spans.append(GENERATED)
    return DecodePlan(opening, tuple(read[:-1]), (*opening.cached, *spans[:-1]), tuple(predicts))


def noise_ids(tokenizer: PreTrainedTokenizerBase, switch: TokenizedSwitch, seed: int) -> Ids:
    """Return the noise control's tokens, as many as the new context has; (seed, id) decide."""
    try:
        return tokenization.random_prefix(tokenizer, len(switch.new), switch.id, seed)
    except tokenization.Unusable as error:
        raise KvError(
            f"switch {switch.id!r}: {error}; leave the noise control out or pass another seed."
        ) from error
