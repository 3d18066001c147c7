"""The residual stream while a text is read: how long it is and how far it goes from token to token.

Hooks see what each decoder layer hands on and reduce it at once to a few numbers per text, so
that no layer's hidden states outlive the layer. They change nothing and are removed whatever
happens.

What is seen is the residual stream behind each layer, before the model's final norm: h_t of
layer l is what layer l + 1 reads at token t, and for the last layer what the final norm reads.
Counted are the continuation's own tokens only: neither BOS nor the prompt, whose first tokens
can have norms a hundred times those of all others (attention sinks), and no step from the
prompt into the continuation.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import torch

from kvcore import tokenization
from kvcore.engine import batching, forward, hooks, limits
from kvcore.engine.forward import NO_TOKENS
from kvcore.engine.hooks import PARTS, Seen
from kvcore.errors import KvError, NotExact, unknown
from kvcore.measurements import stream_stats, token_kinds
from kvcore.measurements.frames import frame_of
from kvcore.measurements.stream_stats import STATS, Series
from kvcore.measurements.token_nlls import token_nlls
from kvcore.models.lm import LM

Result = TypeVar("Result")
Row = dict[str, Any]

COLUMNS = ("id", "source", "status", "ce", "ce_continuation", "n_tokens", "n_continuation")
TRACE = (
    "id",
    "source",
    "position",
    "token_id",
    "token",
    "kind",
    "norm",
    "step",
    "relative_step",
    "cosine",
    "nll",
)
TEXT_COLUMNS = ("id", "source", "status", "token", "kind")
LOGIT_BYTES = {"cpu": 2**27, "cuda": 2**31}  # of one pass: all tokens of a text are predicted
SUM_TOLERANCE = 1e-3  # of a step between layers; float32 leaves 1e-6
_ADDS_UP: weakref.WeakSet[LM] = weakref.WeakSet()  # models whose layers are known to add up


@dataclass(frozen=True)
class TokenText:
    """A text as token ids, none of which is BOS.

    - `id`: which text it is.
    - `source`: who wrote the continuation, as `continuations` names it.
    - `prompt`, `continuation`: BOS is put before; the prompt may be empty.
    """

    id: str
    source: str
    prompt: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Return prompt and continuation."""
        return self.prompt + self.continuation


def dynamics(
    lm: LM,
    texts: Sequence[TokenText],
    *,
    batch_tokens: int | None = None,
    parts: Sequence[str] = ("residual",),
) -> pd.DataFrame:
    """Read every text once and return its cross-entropy and each layer's dynamics.

    Parameters
    ----------
    batch_tokens : int, optional
        Most tokens in one forward pass; changes speed and memory, never a number beyond rounding.
    parts : sequence of str
        Of `PARTS`.

    Returns
    -------
    pandas.DataFrame
        One row per text, in the order given: `id`, `source`, `status` (``"ok"`` or why it could
        not be measured), `ce` and `ce_continuation` (mean NLL in nats of all tokens but BOS, and
        of the continuation's), `n_tokens` and `n_continuation`. Then a list with one number per
        layer for each of `STATS`, over the n tokens of the continuation:

        - `smoothness`: mean of the n - 1 steps |h_(t+1) - h_t|, lower is smoother;
        - `norm`, `norm_variance`: mean and variance (ddof 0) of the n norms |h_t|;
        - `relative_step`: mean of |h_(t+1) - h_t| / |h_t|;
        - `cosine`: mean cosine of the n - 2 pairs of successive steps, NaN where there is none.

        Those of other parts have the part's name before, as in ``attention_smoothness``.

    Raises
    ------
    KvError
        An unknown part, or ids outside the vocabulary.
    NotExact
        Where a model's layers are not the sum of what attention and MLP add, if those are asked.

    Notes
    -----
    Exact: batching, padding and order change a number by rounding only, below 1e-5 of it in
    float32. States are taken in the model's dtype, their norms in float32, means in float64.
    Cost: one forward pass per batch, LM head on every token included.
    """
    distinct = check_parts(lm, parts)
    check_ids(lm, texts)
    rows = {
        n: _row(text, reason, distinct)
        for n, text in enumerate(texts)
        if (reason := _unusable(lm, text))
    }
    rows |= _run_batches(
        lm,
        texts,
        partial(measure_batch, lm, parts=distinct),
        partial(_row, status="out of memory", parts=distinct),
        batch_tokens,
    )
    names = (*COLUMNS, *(_column(part, stat) for part in distinct for stat in STATS))
    return frame_of([rows[n] for n in range(len(texts))], names, TEXT_COLUMNS)


def trace(
    lm: LM, texts: Sequence[TokenText], layer: int, *, batch_tokens: int | None = None
) -> pd.DataFrame:
    """Return what the residual stream behind one layer does at every token of the continuations.

    - `layer`: 0 is the first; -1 is the last, and so on.
    - `texts`, `batch_tokens`: as `dynamics` takes them.

    Raises KvError for a layer that the model does not have, or ids outside the vocabulary.

    Returns
    -------
    pandas.DataFrame
        One row per token of a continuation, texts that cannot be measured left out: `id`,
        `source`, `position` (from 0, in the continuation), `token_id`, `token` (its text), `kind`
        (see `token_kinds`), `norm`, then of the step that arrives here `step`, `relative_step` (by
        the norm it left) and `cosine` (with the step before), NaN where there is none, and `nll`
        in nats.
    """
    depth = len(hooks.layers_of(lm))
    if not -depth <= layer < depth:
        raise KvError(f"layer={layer} must be in {-depth}..{depth - 1} for {lm.name}.")
    check_ids(lm, texts)
    rows = _run_batches(
        lm,
        texts,
        partial(trace_batch, lm, layer=layer % depth),
        lambda _text: [],
        batch_tokens,
    )
    in_order = [row for n in sorted(rows) for row in rows[n]]
    return frame_of(in_order, TRACE, TEXT_COLUMNS)


# --- what can be measured ------------------------------------------------------------------------


def check_parts(lm: LM, parts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts, each once, checked against what the model's layers really add.

    Raises KvError for an unknown part.
    Raises NotExact where the layers are not the sum of what attention and MLP add, if those are
    asked.
    """
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    distinct = tuple(dict.fromkeys(parts))
    if set(distinct) - {"residual"} and lm not in _ADDS_UP:
        _assert_adds_up(lm)
        _ADDS_UP.add(lm)
    return distinct


def _assert_adds_up(lm: LM) -> None:
    """Refuse a model whose layers are not the sum of their input, attention and MLP."""
    states: dict[tuple[str, int], torch.Tensor] = {}

    def store(part: str, layer: int, stream: torch.Tensor) -> None:
        states[part, layer] = stream.double()

    ids = [i % int(lm.config.vocab_size) for i in range(lm.bos_id + 3, lm.bos_id + 24, 7)]
    with hooks.watching(lm, PARTS, store):
        forward.logits(lm, forward.pad_ids(lm, [[lm.bos_id, *ids]], [0]), NO_TOKENS)
    tolerance = SUM_TOLERANCE if lm.dtype == "float32" else 0.1
    for layer in range(1, len(hooks.layers_of(lm))):
        moved = states["residual", layer] - states["residual", layer - 1]
        off = moved - states["attention", layer] - states["mlp", layer]
        # By token: rounding is that of the stream, which may be far longer than what is added.
        length = states["residual", layer].norm(dim=-1)
        allowed = tolerance * moved.norm(dim=-1) + 1e-2 * tolerance * length
        if bool((off.norm(dim=-1) > allowed).any()):
            raise NotExact(
                f"{lm.name}: layer {layer} is not the sum of its input, attention and MLP; ask "
                "for the residual stream only."
            )


def check_ids(lm: LM, texts: Sequence[TokenText]) -> None:
    """Refuse a text that holds an id outside the vocabulary."""
    for text in texts:
        name = f"text {text.id!r}"
        tokenization.check_ids(name, text.ids, int(lm.config.vocab_size), lm.name)


def _unusable(lm: LM, text: TokenText) -> str | None:
    """Return why a text cannot be measured, or None."""
    limit = limits.exact_positions(lm)
    if 1 + len(text.ids) > limit:
        return f"longer than the {limit} positions the model is exact for"
    return "fewer than 2 tokens in the continuation" if len(text.continuation) < 2 else None


# --- batches -------------------------------------------------------------------------------------


def _run_batches(
    lm: LM,
    texts: Sequence[TokenText],
    run: Callable[[Sequence[TokenText]], Sequence[Result]],
    give_up: Callable[[TokenText], Result],
    batch_tokens: int | None,
) -> dict[int, Result]:
    """Return the result of each usable text, by its number; what does not fit runs in halves."""
    usable = [n for n, text in enumerate(texts) if not _unusable(lm, text)]
    results: dict[int, Result] = {}
    for batch in text_batches(lm, [texts[n] for n in usable], batch_tokens):
        numbers = [usable[i] for i in batch]
        own = limits.run_or_halve(lm, [texts[n] for n in numbers], run, give_up, what="texts")
        results |= dict(zip(numbers, own, strict=True))
    return results


def text_batches(
    lm: LM, texts: Sequence[TokenText], batch_tokens: int | None = None
) -> list[list[int]]:
    """Cut texts, sorted by length, into passes whose tokens and logits fit.

    Returns the numbers of each pass's texts.
    """
    budget, cost = limits.pass_limits(lm, batch_tokens)
    if not batch_tokens:  # one that is asked for counts alone
        bytes_per_token = int(lm.config.vocab_size) * getattr(torch, lm.dtype).itemsize
        budget = min(budget, LOGIT_BYTES.get(lm.device.type, 2**29) // bytes_per_token)
    return batching.passes_by_size([1 + len(text.ids) for text in texts], budget, cost)


def measure_batch(lm: LM, texts: Sequence[TokenText], parts: Sequence[str]) -> list[Row]:
    """Measure texts in one pass and return their rows of `dynamics`."""
    counted = torch.tensor(continuation_slots(texts), device=lm.device)
    columns = counted.any(dim=0).nonzero().flatten()
    span = slice(int(columns[0]), int(columns[-1]) + 1)
    by_layer: dict[str, list[torch.Tensor]] = {part: [] for part in parts}

    def reduce(part: str, _layer: int, stream: torch.Tensor) -> None:
        by_layer[part].append(stream_stats.reduced(stream[:, span], counted[:, span]))

    nlls = read_nlls(lm, texts, parts, reduce)
    stats = {part: torch.stack(layers, dim=2).tolist() for part, layers in by_layer.items()}
    by_text = [{part: stats[part][n] for part in parts} for n in range(len(texts))]
    return [measured_row(*row) for row in zip(texts, nlls, by_text, strict=True)]


def trace_batch(lm: LM, texts: Sequence[TokenText], layer: int) -> list[list[Row]]:
    """Follow texts through one layer in one pass and return their rows of `trace`."""
    by_token: list[Series] = []

    def reduce(_part: str, _layer: int, stream: torch.Tensor) -> None:
        by_token.append(stream_stats.series(stream))

    nlls = read_nlls(lm, texts, ("residual",), reduce, [layer])
    return [
        _trace_rows(lm, text, of_text, [x[n].tolist() for x in by_token[0]])
        for n, (text, of_text) in enumerate(zip(texts, nlls, strict=True))
    ]


def _trace_rows(
    lm: LM, text: TokenText, nlls: Sequence[float], by_token: Sequence[list[float]]
) -> list[Row]:
    """Return one row per token of a continuation, from the series of all its slots."""
    norm, step, relative, cosine = by_token
    start, stop = 1 + len(text.prompt), 1 + len(text.ids)
    before_first, before_second = [math.nan], [math.nan] * min(2, stop - start)
    columns = {
        "position": range(stop - start),
        "token_id": text.continuation,
        "token": token_kinds.spelled(lm, text.continuation),
        "kind": token_kinds.kinds_of(lm, text.ids)[len(text.prompt) :],
        "norm": norm[start:stop],
        "step": [*before_first, *step[start : stop - 1]],
        "relative_step": [*before_first, *relative[start : stop - 1]],
        "cosine": [*before_second, *cosine[start : stop - 2]],
        "nll": nlls[len(text.prompt) :],
    }
    return [
        {"id": text.id, "source": text.source, **dict(zip(columns, values, strict=True))}
        for values in zip(*columns.values(), strict=True)
    ]


def read_nlls(
    lm: LM,
    texts: Sequence[TokenText],
    parts: Sequence[str],
    seen: Seen,
    layers: Sequence[int] | None = None,
) -> list[list[float]]:
    """Read texts in one pass and return the NLL of every token but BOS, in nats.

    `parts`, `seen`, `layers`: as `kvcore.engine.hooks.watching` takes them.
    """
    step = forward.pad_ids(lm, [(lm.bos_id, *text.ids) for text in texts], [0] * len(texts))
    rows = [n for n, text in enumerate(texts) for _ in text.ids]
    columns = [i for text in texts for i in range(len(text.ids))]
    with torch.inference_mode(), hooks.watching(lm, parts, seen, layers):
        logits = forward.logits(lm, step, (rows, columns))
    return token_nlls(logits, [text.ids for text in texts])


def continuation_slots(texts: Sequence[TokenText]) -> list[list[bool]]:
    """Return for every slot of a right-padded batch whether it holds a continuation's token."""
    width = 1 + max(len(text.ids) for text in texts)
    return [[1 + len(text.prompt) <= i < 1 + len(text.ids) for i in range(width)] for text in texts]


# --- rows ----------------------------------------------------------------------------------------


def measured_row(text: TokenText, nlls: Sequence[float], stats: Mapping[str, Any]) -> Row:
    """Return a text's row of `dynamics`.

    - `nlls`: of every token but BOS.
    - `stats`: by part: one list for each of `STATS`, one number per layer in each.
    """
    own = nlls[len(text.prompt) :]
    # Cosines may be NaN: some streams do not move.
    needed = [value for part in stats.values() for layers in part[:4] for value in layers]
    if not all(math.isfinite(x) for x in (*nlls, *needed)):
        return _row(text, "the model's activations or logits are not finite", tuple(stats))
    return _row(text, "ok", ()) | {
        "ce": math.fsum(nlls) / len(nlls),
        "ce_continuation": math.fsum(own) / len(own),
        **{
            _column(part, stat): list(layers)
            for part, by_stat in stats.items()
            for stat, layers in zip(STATS, by_stat, strict=True)
        },
    }


def _row(text: TokenText, status: str, parts: Sequence[str]) -> Row:
    """Return the row of a text that could not be measured."""
    return {
        "id": text.id,
        "source": text.source,
        "status": status,
        "ce": math.nan,
        "ce_continuation": math.nan,
        "n_tokens": len(text.ids),
        "n_continuation": len(text.continuation),
        **{_column(part, stat): [] for part in parts for stat in STATS},
    }


def _column(part: str, stat: str) -> str:
    return stat if part == "residual" else f"{part}_{stat}"
