"""A context switched in mid-answer, as plainly as it can be written: one way, one sequence.

The oracle of the tests of context switches and of attention shares. It imports nothing from
``kvcore``: no cache is cut and no key is rotated. What is computed anew is prefilled at the
positions where it will stand, and everything else is one forward over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

Ids = tuple[int, ...]
BOS, ORIGINAL, INJECTED, GENERATED = range(4)


@dataclass(frozen=True)
class Plain:
    """Ids of a switch: two contexts and the text before and behind the switch."""

    original: Ids
    new: Ids
    before: Ids
    after: Ids


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model makes of it, one entry per token behind the switch.

    Attributes
    ----------
    logps : (n, vocab) float64
    hidden : (n, hidden size) float64
        What the LM head gets.
    shares : (layer, n, 4) float64 or None
        Attention on BOS, original, injected and generated slots, mean over heads.
    """

    logps: torch.Tensor
    hidden: torch.Tensor
    shares: torch.Tensor | None


def read(
    model: Any, bos: int, name: str, one: Plain, noise: Ids = (), *, attention: bool = False
) -> Seen:
    """Read a switch one way.

    Parameters
    ----------
    name : str
        ``ignore``, ``oracle``, ``flush``, ``injection``, ``noise``, ``repetition``,
        ``gradual(p)``, ``gradual(p,k)``, ``partial(m)`` or ``partial(all)``.
    attention : bool
        The model must have eager attention then.
    """
    kind, _, numbers = name.rstrip(")").partition("(")
    if kind == "partial":
        return _partial(model, bos, numbers, one, attention)
    if kind in ("oracle", "flush"):
        tokens = [(bos, BOS), *_all(one.new, INJECTED), *_all(one.before, GENERATED)]
        parts: dict[int, Ids] = {}
    else:
        tokens = [(bos, BOS), *_all(one.original, ORIGINAL), *_all(one.before, GENERATED)]
        parts = {
            "ignore": {},
            "injection": {0: one.new},
            "noise": {0: noise},
            "repetition": {0: one.original},
            "gradual": _pieces(one.new, numbers),
        }[kind]
    predicting = []
    for number, token in enumerate(one.after):
        tokens += _all(parts.get(number, ()), INJECTED)
        predicting.append(len(tokens) - 1)
        tokens.append((token, GENERATED))
    ids, spans = zip(*tokens[:-1], strict=True)
    return _seen(model, None, ids, spans, predicting, attention)


def _all(ids: Sequence[int], span: int) -> list[tuple[int, int]]:
    return [(token, span) for token in ids]


def _pieces(ids: Ids, numbers: str) -> dict[int, Ids]:
    """Deal a context out in parts, the first ones a token longer where it does not come out."""
    count, every = [*(int(x) for x in numbers.split(",") if x), 1, 1][:2]
    found, start = {}, 0
    for part in range(count):
        size = len(ids) // count + (part < len(ids) % count)
        if size:
            found[part * every] = ids[start : start + size]
        start += size
    return found


def _partial(model: Any, bos: int, numbers: str, one: Plain, attention: bool) -> Seen:
    old, new = (bos, *one.original, *one.before[:-1]), (bos, *one.new, *one.before[:-1])
    anew = len(new) - 1 if numbers == "all" else min(int(numbers), len(new) - 1)
    if anew == 0:
        return read(model, bos, "ignore", one, attention=attention)
    if anew == len(new) - 1:
        return read(model, bos, "oracle", one, attention=attention)
    kept = max(1, len(old) - anew)
    first = _prefilled(model, old, 0)
    last = _prefilled(model, new, kept + anew - len(new))
    layers = [
        (
            torch.cat([a[:, :, :kept], c[:, :, -anew:]], dim=2),
            torch.cat([b[:, :, :kept], d[:, :, -anew:]], dim=2),
        )
        for (a, b), (c, d) in zip(first, last, strict=True)
    ]
    spans = [BOS, *[ORIGINAL] * len(one.original), *[GENERATED] * len(one.before)][:kept]
    spans += [BOS, *[INJECTED] * len(one.new), *[GENERATED] * (len(one.before) - 1)][-anew:]
    ids = (one.before[-1], *one.after[:-1])
    return _seen(model, layers, ids, (*spans, *[GENERATED] * len(ids)), range(len(ids)), attention)


def _prefilled(model: Any, ids: Ids, start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    cache = DynamicCache()  # without a config: sliding layers, too, keep every slot
    with torch.inference_mode():
        model(
            input_ids=torch.tensor([ids]),
            past_key_values=cache,
            use_cache=True,
            position_ids=torch.arange(start, start + len(ids)).unsqueeze(0),
        )
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _seen(
    model: Any,
    past: list[tuple[torch.Tensor, torch.Tensor]] | None,
    ids: Sequence[int],
    spans: Sequence[int],
    predicting: Sequence[int],
    attention: bool,
) -> Seen:
    cache, start = DynamicCache(), 0
    for index, (keys, values) in enumerate(past or []):
        cache.update(keys, values, index)
        start = keys.shape[2]
    taken: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, inputs: taken.append(inputs[0])
    )
    try:
        with torch.inference_mode():
            out = model(
                input_ids=torch.tensor([list(ids)]),
                past_key_values=cache,
                position_ids=torch.arange(start, start + len(ids)).unsqueeze(0),
                output_attentions=attention,
            )
    finally:
        handle.remove()
    rows = list(predicting)
    return Seen(
        out.logits[0, rows].double().log_softmax(dim=-1),
        taken[0][0, rows].double(),
        _shares(out.attentions, rows, spans) if attention else None,
    )


def _shares(
    attentions: Sequence[torch.Tensor], rows: list[int], spans: Sequence[int]
) -> torch.Tensor:
    where = torch.tensor(list(spans))
    return torch.stack(
        [
            torch.stack(
                [
                    layer[0, :, rows][..., where == span].double().sum(dim=-1).mean(dim=0)
                    for span in range(4)
                ],
                dim=-1,
            )
            for layer in attentions
        ]
    )


def next_token_logps(
    model: Any, bos: int, context: Ids, before: Ids, ids: Sequence[int]
) -> torch.Tensor:
    """Return log-probabilities over the vocabulary at each of some ids, by one plain forward.

    Returns
    -------
    (len(ids), vocab) float64
        Behind BOS, the context, what stands before and the ids before each.
    """
    sequence = [bos, *context, *before, *ids]
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([sequence]), use_cache=False).logits[0]
    return logits[-len(ids) - 1 : -1].double().log_softmax(-1)
