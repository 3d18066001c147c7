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
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch

from kvcore.engine import batching, forward, hooks, limits
from kvcore.engine.hooks import PARTS, Seen
from kvcore.errors import KvError, NotExact, unknown
from kvcore.measurements import token_kinds
from kvcore.models.lm import LM

STATS = ("smoothness", "norm", "norm_variance", "relative_step", "cosine")
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
LOGIT_BYTES = {"cpu": 2**27, "cuda": 2**31}  # of one pass: all tokens of a text are predicted
CHUNK = 32  # tokens whose log-softmax is held at once
SUM_TOLERANCE = 1e-3  # of a step between layers; float32 leaves 1e-6
_SUMS: weakref.WeakSet[LM] = weakref.WeakSet()  # models whose layers are known to add up


@dataclass(frozen=True)
class TokenText:
    """A text as token ids, none of which is BOS.

    Parameters
    ----------
    id : str
        Which text it is.
    source : str
        Who wrote the continuation, as `kvcore.sources` names it.
    prompt, continuation : tuple of int
        BOS is put before; the prompt may be empty.
    """

    id: str
    source: str
    prompt: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Return prompt and continuation."""
        return self.prompt + self.continuation


class Series(NamedTuple):
    """What a stream of hidden states does, token by token; float64.

    Attributes
    ----------
    norm : (batch, n)
        Euclidean length of each state.
    step : (batch, n - 1)
        Length of the difference from each state to the next.
    relative_step : (batch, n - 1)
        Step by the norm of the state that it leaves.
    cosine : (batch, n - 2)
        Between each step and the next, -1 to 1; NaN where one of them has length 0.
    """

    norm: torch.Tensor
    step: torch.Tensor
    relative_step: torch.Tensor
    cosine: torch.Tensor


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
    lm : LM
        From `kvcore.load`.
    texts : sequence of TokenText
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
    chosen = check_parts(lm, parts)
    check_ids(lm, texts)
    rows: dict[int, dict[str, Any]] = {
        n: _row(text, why, chosen) for n, text in enumerate(texts) if (why := _unusable(lm, text))
    }
    for part in _batches(lm, [n for n in range(len(texts)) if n not in rows], texts, batch_tokens):
        found = _or_halves(
            lm,
            [texts[n] for n in part],
            partial(_measure, parts=chosen),
            partial(_row, status="out of memory", parts=chosen),
        )
        rows.update(zip(part, found, strict=True))
    names = (*COLUMNS, *(_column(part, stat) for part in chosen for stat in STATS))
    return _frame([rows[n] for n in range(len(texts))], names)


def trace(
    lm: LM, texts: Sequence[TokenText], layer: int, *, batch_tokens: int | None = None
) -> pd.DataFrame:
    """Return what the residual stream behind one layer does at every token of the continuations.

    Parameters
    ----------
    layer : int
        0 is the first; -1 is the last, and so on.
    texts, batch_tokens
        As `dynamics` takes them.

    Returns
    -------
    pandas.DataFrame
        One row per token of a continuation, texts that cannot be measured left out: `id`,
        `source`, `position` (from 0, in the continuation), `token_id`, `token` (its text), `kind`
        (see `kinds_of`), `norm`, then of the step that arrives here `step`, `relative_step` (by
        the norm it left) and `cosine` (with the step before), NaN where there is none, and `nll`
        in nats.

    Raises
    ------
    KvError
        A layer that the model does not have, or ids outside the vocabulary.
    """
    depth = len(hooks.layers_of(lm))
    if not -depth <= layer < depth:
        raise KvError(f"trace: layer {layer}; {lm.name} has {depth}, pass {-depth}..{depth - 1}.")
    check_ids(lm, texts)
    rows: dict[int, list[dict[str, Any]]] = {}
    usable = [n for n, text in enumerate(texts) if not _unusable(lm, text)]
    for part in _batches(lm, usable, texts, batch_tokens):
        found = _or_halves(
            lm, [texts[n] for n in part], partial(_follow, layer=layer % depth), lambda _text: []
        )
        rows.update(zip(part, found, strict=True))
    return _frame([row for n in sorted(rows) for row in rows[n]], TRACE)


def check_parts(lm: LM, parts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts, each once, checked against what the model's layers really add."""
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    chosen = tuple(dict.fromkeys(parts))
    if set(chosen) - {"residual"} and lm not in _SUMS:
        _assert_adds_up(lm)
        _SUMS.add(lm)
    return chosen


def _assert_adds_up(lm: LM) -> None:
    """Refuse a model whose layers are not the sum of their input, attention and MLP."""
    held: dict[tuple[str, int], torch.Tensor] = {}

    def keep(part: str, layer: int, stream: torch.Tensor) -> None:
        held[part, layer] = stream.double()

    ids = [i % int(lm.config.vocab_size) for i in range(lm.bos_id + 3, lm.bos_id + 24, 7)]
    with hooks.watching(lm, PARTS, keep):
        forward.logits(lm, forward.pad_ids(lm, [[lm.bos_id, *ids]], [0]), ((), ()))
    tolerance = {"float32": SUM_TOLERANCE}.get(lm.dtype, 0.1)
    for layer in range(1, len(hooks.layers_of(lm))):
        moved = held["residual", layer] - held["residual", layer - 1]
        off = moved - held["attention", layer] - held["mlp", layer]
        # By token: rounding is that of the stream, which may be far longer than what is added.
        allowed = tolerance * moved.norm(dim=-1) + 1e-2 * tolerance * held["residual", layer].norm(
            dim=-1
        )
        if bool((off.norm(dim=-1) > allowed).any()):
            raise NotExact(
                f"{lm.name}: layer {layer} is not the sum of its input, attention and "
                "MLP; ask for the residual stream only."
            )


def series(stream: torch.Tensor) -> Series:
    """Return norms, steps and turns of hidden states, (batch, n, hidden size)."""
    states = stream.float()
    between = states[:, 1:] - states[:, :-1]
    norm, step = (torch.linalg.vector_norm(x, dim=-1).double() for x in (states, between))
    dot = torch.linalg.vecdot(between[:, 1:], between[:, :-1]).double()
    cosine = dot / (step[:, 1:] * step[:, :-1])
    return Series(norm, step, step / norm[:, :-1], cosine)


def reduced(stream: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Reduce hidden states to `STATS`.

    Parameters
    ----------
    stream : (batch, n, hidden size)
    inside : (batch, n) bool
        Which tokens count; steps between two of them, and turns at one between two of them, do.

    Returns
    -------
    (batch, len(STATS)) float64
        NaN where nothing counts.
    """
    found = series(stream)
    pairs = inside[:, 1:] & inside[:, :-1]
    turns = pairs[:, 1:] & pairs[:, :-1] & found.cosine.isfinite()
    norm = _mean(found.norm, inside)
    return torch.stack(
        [
            _mean(found.step, pairs),
            norm,
            _mean((found.norm - norm.unsqueeze(1)) ** 2, inside),
            _mean(found.relative_step, pairs),
            _mean(found.cosine, turns),
        ],
        dim=1,
    )


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    return torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1)


def _measure(lm: LM, group: Sequence[TokenText], parts: Sequence[str]) -> list[dict[str, Any]]:
    """Measure texts in one pass."""
    inside = torch.tensor(_inside(group), device=lm.device)
    columns = inside.any(dim=0).nonzero().flatten()
    span = slice(int(columns[0]), int(columns[-1]) + 1)
    found: dict[str, list[torch.Tensor]] = {part: [] for part in parts}

    def reduce(part: str, _layer: int, stream: torch.Tensor) -> None:
        found[part].append(reduced(stream[:, span], inside[:, span]))

    nlls = _read(lm, group, parts, reduce)
    stats = {part: torch.stack(layers, dim=2).tolist() for part, layers in found.items()}
    return [
        _measured_row(text, nll, {part: stats[part][n] for part in parts})
        for n, (text, nll) in enumerate(zip(group, nlls, strict=True))
    ]


def _follow(lm: LM, group: Sequence[TokenText], layer: int) -> list[list[dict[str, Any]]]:
    """Follow texts through one layer, token by token."""
    held: list[Series] = []
    nlls = _read(
        lm, group, ("residual",), lambda _part, _layer, stream: held.append(series(stream)), [layer]
    )
    followed = []
    for n, (text, nll) in enumerate(zip(group, nlls, strict=True)):
        start, stop = 1 + len(text.prompt), 1 + len(text.ids)
        norm, step, relative, cosine = (x[n].tolist() for x in held[0])
        count = stop - start
        lead = [math.nan] * 2
        columns = {
            "position": range(count),
            "token_id": text.continuation,
            "token": token_kinds.spelled(lm, text.continuation),
            "kind": token_kinds.kinds_of(lm, text.ids)[len(text.prompt) :],
            "norm": norm[start:stop],
            "step": [*lead[:1], *step[start : stop - 1]],
            "relative_step": [*lead[:1], *relative[start : stop - 1]],
            "cosine": [*lead[:count], *cosine[start : stop - 2]],
            "nll": nll[len(text.prompt) :],
        }
        followed.append(
            [
                {"id": text.id, "source": text.source, **dict(zip(columns, values, strict=True))}
                for values in zip(*columns.values(), strict=True)
            ]
        )
    return followed


def _read(
    lm: LM,
    group: Sequence[TokenText],
    parts: Sequence[str],
    seen: Seen,
    layers: Sequence[int] | None = None,
) -> list[list[float]]:
    """Read texts in one pass under watch; return the NLL of every token but BOS, in nats."""
    given = forward.pad_ids(lm, [(lm.bos_id, *text.ids) for text in group], [0] * len(group))
    rows = [n for n, text in enumerate(group) for _ in text.ids]
    columns = [i for text in group for i in range(len(text.ids))]
    targets = torch.tensor([i for text in group for i in text.ids], device=lm.device)
    with torch.inference_mode(), hooks.watching(lm, parts, seen, layers):
        logits = forward.logits(lm, given, (rows, columns))
    nlls = iter(
        [
            nll
            for some, wanted in zip(logits.split(CHUNK), targets.split(CHUNK), strict=True)
            for nll in torch.nn.functional.cross_entropy(
                some.float(), wanted, reduction="none"
            ).tolist()
        ]
    )
    return [[next(nlls) for _ in text.ids] for text in group]


def _inside(group: Sequence[TokenText]) -> list[list[bool]]:
    """Return for every slot of a right-padded batch whether it holds a continuation's token."""
    width = 1 + max(len(text.ids) for text in group)
    return [[1 + len(text.prompt) <= i < 1 + len(text.ids) for i in range(width)] for text in group]


def check_ids(lm: LM, texts: Sequence[TokenText]) -> None:
    size = int(lm.config.vocab_size)
    for text in texts:
        odd = next((i for i in text.ids if not 0 <= i < size), None)
        if odd is not None:
            raise KvError(
                f"text {text.id!r} holds the id {odd}; {lm.name}'s vocabulary is 0..{size - 1}."
            )


def _unusable(lm: LM, text: TokenText) -> str | None:
    """Return why a text cannot be measured, or None."""
    limit = limits.exact_positions(lm)
    if 1 + len(text.ids) > limit:
        return f"longer than the {limit} positions the model is exact for"
    return "fewer than 2 tokens in the continuation" if len(text.continuation) < 2 else None


def _batches(
    lm: LM, usable: Sequence[int], texts: Sequence[TokenText], batch_tokens: int | None
) -> Iterator[list[int]]:
    """Cut the texts, sorted by length, into passes whose tokens and logits fit."""
    kind = lm.device.type
    per_token = int(lm.config.vocab_size) * getattr(torch, lm.dtype).itemsize
    budget = batch_tokens or min(
        limits.BATCH_TOKENS.get(kind, 4096), LOGIT_BYTES.get(kind, 2**29) // per_token
    )
    ordered = sorted(usable, key=lambda n: (len(texts[n].ids), n))
    widths = [1 + len(texts[n].ids) for n in ordered]
    for start, stop in batching.cut_into_passes(widths, budget, limits.PASS_COST.get(kind, 256)):
        yield ordered[start:stop]


def _or_halves(
    lm: LM,
    group: Sequence[TokenText],
    measure: Callable[[LM, Sequence[TokenText]], list[Any]],
    given_up: Callable[[TokenText], Any],
) -> list[Any]:
    """Measure a batch; where memory runs out its halves, and say so."""
    try:
        return measure(lm, group)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not limits.is_out_of_memory(error):
            raise
    if len(group) == 1:
        return [given_up(group[0])]
    middle = len(group) // 2
    warnings.warn(
        f"out of memory with {len(group)} texts at once: going on with {middle}; a "
        "smaller --kv-batch-tokens avoids this.",
        RuntimeWarning,
        stacklevel=2,
    )
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
    return [
        *_or_halves(lm, group[:middle], measure, given_up),
        *_or_halves(lm, group[middle:], measure, given_up),
    ]


def _measured_row(
    text: TokenText, nlls: Sequence[float], stats: Mapping[str, Any]
) -> dict[str, Any]:
    own = nlls[len(text.prompt) :]
    needed = [value for found in stats.values() for layers in found[:4] for value in layers]
    if not all(math.isfinite(x) for x in (*nlls, *needed)):
        return _row(text, "the model's activations or logits are not finite", tuple(stats))
    return _row(text, "ok", ()) | {
        "ce": math.fsum(nlls) / len(nlls),
        "ce_continuation": math.fsum(own) / len(own),
        **{
            _column(part, stat): list(layers)
            for part, found in stats.items()
            for stat, layers in zip(STATS, found, strict=True)
        },
    }


def _row(text: TokenText, status: str, parts: Sequence[str]) -> dict[str, Any]:
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


def _frame(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """Return rows as a frame; texts as objects, for an id may hold what pandas' strings refuse."""
    texts = {"id", "source", "status", "token", "kind"}
    columns = {name: [row[name] for row in rows] for name in names}
    return pd.DataFrame(
        {
            name: pd.Series(values, dtype=object)
            if name in texts or any(isinstance(value, list) for value in values)
            else values
            for name, values in columns.items()
        }
    )
