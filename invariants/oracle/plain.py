"""The measurement as plainly as it can be written: one sample, one cache, no batching.

This is the oracle that the engine is held against, and the baseline it is timed against. It
imports nothing from ``kvcore``, so that an error there cannot hide here. Three routes lead to
the same numbers: rotate the keys of a truncated cache (:func:`truncated_nlls`), prefill at
shifted positions so that nothing needs rotating (:func:`shifted_nlls`), and one masked forward
without any cache (:func:`one_pass_nlls`). The further conditions have one route each, the one
with the least in common with the engine.

Every function takes token ids without special tokens, adds ``bos`` itself, and returns the
negative log-likelihood of each answer token in nats, computed from float32 logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

Ids = Sequence[int]
INTERLEAVED = frozenset({"glm", "glm4", "cohere", "cohere2", "ernie4_5"})
"""Model types that turn neighbouring dimensions together; all others turn halves."""

LayerKeysValues = list[tuple[Tensor, Tensor]]
"""Per layer, keys and values of shape (1, kv_head, slot, head_dim)."""


@torch.inference_mode()
def truncated_nlls(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score an answer against a truncated cache, the way the original notebook did.

    Prefill ``[BOS][prefix][doc]``, keep BOS and the document, rotate the document's keys back by
    the length of the prefix, then read the query and the answer in one short pass each. An empty
    prefix gives the bare condition.
    """
    kept = _truncated(
        model, bos, prefix, doc, lambda layer, keys: _moved(model, layer, keys, -len(prefix))
    )
    return _answer_nlls(model, kept, query, answer)


@torch.inference_mode()
def one_base_nlls(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score as :func:`truncated_nlls` does, every layer turned with the full-attention base."""
    kept = _truncated(
        model,
        bos,
        prefix,
        doc,
        lambda layer, keys: _moved(model, layer, keys, -len(prefix), "full_attention"),
    )
    return _answer_nlls(model, kept, query, answer)


@torch.inference_mode()
def unturned_nlls(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score as :func:`truncated_nlls` does, with the keys left as they were prefilled."""
    return _answer_nlls(
        model, _truncated(model, bos, prefix, doc, lambda _, keys: keys), query, answer
    )


def _truncated(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, moved: Callable[[int, Tensor], Tensor]
) -> LayerKeysValues:
    """Return BOS and the primed document, whose keys `moved` turns."""
    layers = _prefill(model, [bos, *prefix, *doc], first_position=0)
    cut = 1 + len(prefix)
    return [
        (
            torch.cat([keys[:, :, :1], moved(i, keys[:, :, cut:])], dim=2),
            torch.cat([values[:, :, :1], values[:, :, cut:]], dim=2),
        )
        for i, (keys, values) in enumerate(layers)
    ]


@torch.inference_mode()
def keys_only_nlls(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score against the keys of :func:`shifted_layers` with the values of the bare document."""
    bare = _prefill(model, [bos, *doc], first_position=0)
    primed = shifted_layers(model, bos, prefix, doc)
    layers = [(keys, values) for (keys, _), (_, values) in zip(primed, bare, strict=True)]
    return _answer_nlls(model, layers, query, answer)


@torch.inference_mode()
def mixed_nlls(
    model: PreTrainedModel,
    bos: int,
    prefix: Ids,
    doc: Ids,
    query: Ids,
    answer: Ids,
    *,
    layers: Collection[int],
    tokens: int,
    weight: float,
    start: int = 0,
) -> list[float]:
    """Score against bare keys, with primed values mixed into some layers and tokens.

    Each value of `tokens` tokens of the document, from `start` on, becomes (1 - weight) of its
    own and `weight` of the one that the same token has behind the prefix.
    """
    primed = _prefill(model, [bos, *prefix, *doc], first_position=0)
    cut = 1 + len(prefix) + start
    return _with_values(
        model,
        bos,
        doc,
        query,
        answer,
        layers,
        weight,
        [values[:, :, cut : cut + tokens] for _, values in primed],
        start,
    )


@torch.inference_mode()
def foreign_values_nlls(
    model: PreTrainedModel,
    bos: int,
    prefix: Ids,
    other: Ids,
    doc: Ids,
    query: Ids,
    answer: Ids,
) -> list[float]:
    """Score against the document's bare keys with the values of another one behind the prefix.

    `other` is as long as `doc`; it is read where its values are to stand, so that nothing is cut.
    """
    bare = _prefill(model, [bos, *doc], first_position=0)
    foreign = shifted_layers(model, bos, prefix, other)
    layers = [(keys, values) for (keys, _), (_, values) in zip(bare, foreign, strict=True)]
    return _answer_nlls(model, layers, query, answer)


@torch.inference_mode()
def injected_nlls(
    model: PreTrainedModel,
    bos: int,
    question: Ids,
    doc: Ids,
    query: Ids,
    answer: Ids,
    *,
    layers: Collection[int],
    weight: float,
) -> list[float]:
    """Score against bare keys, every value pulled towards the mean one of ``[BOS][question]``."""
    asked = _prefill(model, [bos, *question], first_position=0)
    means = [values[:, :, 1:].sum(dim=2) / len(question) for _, values in asked]
    return _with_values(
        model,
        bos,
        doc,
        query,
        answer,
        layers,
        weight,
        [mean.unsqueeze(2).expand(-1, -1, len(doc), -1) for mean in means],
    )


def _with_values(
    model: PreTrainedModel,
    bos: int,
    doc: Ids,
    query: Ids,
    answer: Ids,
    layers: Collection[int],
    weight: float,
    others: Sequence[Tensor],
    start: int = 0,
) -> list[float]:
    """Score against the bare cache, others' values mixed in from the document's `start` on."""
    bare = _prefill(model, [bos, *doc], first_position=0)
    first = 1 + start
    for layer in layers:
        part = bare[layer][1][:, :, first : first + others[layer].shape[2]]
        part.copy_((1 - weight) * part + weight * others[layer])
    return _answer_nlls(model, bare, query, answer)


@torch.inference_mode()
def kept_nlls(
    model: PreTrainedModel,
    bos: int | None,
    prefix: Ids,
    doc: Ids,
    query: Ids,
    answer: Ids,
    *,
    first: int,
    stop: int,
) -> list[float]:
    """Score as :func:`shifted_nlls` does, some tokens of the prefix kept behind BOS.

    `first` to `stop` are the tokens kept, counted in the prefix. Nothing is rotated: the whole is
    read once at positions that put the kept tokens behind BOS, once more at positions that put the
    document behind those, and each part is taken from its own reading. Without a `bos`, what is
    kept of the prefix, or the document, comes first.
    """
    head: list[int] = [] if bos is None else [bos]
    ids, count, start = [*head, *prefix, *doc], stop - first, len(head)
    pieces = [(_prefill(model, head, first_position=0), 0, 1)] if head else []
    pieces += [
        (_prefill(model, ids, first_position=-first), start + first, start + stop),
        (_prefill(model, ids, first_position=count - len(prefix)), start + len(prefix), len(ids)),
    ]
    layers = [
        (
            torch.cat([read[i][0][:, :, a:b] for read, a, b in pieces], dim=2),
            torch.cat([read[i][1][:, :, a:b] for read, a, b in pieces], dim=2),
        )
        for i in range(len(pieces[0][0]))
    ]
    return _answer_nlls(model, layers, query, answer)


@torch.inference_mode()
def sink_of(model: PreTrainedModel, bos: int | None, prefix: Ids, doc: Ids) -> int:
    """Return which of BOS (0) and the prefix's tokens (1, 2, ...) has the largest hidden state.

    Without a `bos` the prefix's tokens are 0, 1, ....

    That of the stream halfway up the layers, from the model's own list of hidden states, by its
    Euclidean norm.
    """
    before = [*([] if bos is None else [bos]), *prefix]
    ids = [*before, *doc]
    states = model(
        input_ids=_row(model, ids), output_hidden_states=True, use_cache=False
    ).hidden_states
    middle = states[max(1, (len(states) - 1) // 2)][0].float()
    norms = [float(vector.pow(2).sum().sqrt()) for vector in middle[: len(before)]]
    return norms.index(max(norms))


@torch.inference_mode()
def beacon_layers(
    model: PreTrainedModel, bos: int, beacon: Ids, every: int, doc: Ids
) -> LayerKeysValues:
    """Return BOS and the document, read with a beacon before every `every` of its tokens.

    Nothing is rotated: the whole is read once per chunk, at positions that put this chunk where
    it belongs without any beacon, and only that chunk is taken.
    """
    chunks = [doc[start : start + every] for start in range(0, len(doc), every)]
    ids = [bos, *(token for chunk in chunks for token in (*beacon, *chunk))]
    pieces = [_prefill(model, [bos], first_position=0)]
    at = 1
    for number, chunk in enumerate(chunks, start=1):
        at += len(beacon)
        read = _prefill(model, ids, first_position=-number * len(beacon))
        pieces.append(
            [
                (keys[:, :, at : at + len(chunk)], values[:, :, at : at + len(chunk)])
                for keys, values in read
            ]
        )
        at += len(chunk)
    return [
        (
            torch.cat([keys for keys, _ in layer], dim=2),
            torch.cat([values for _, values in layer], dim=2),
        )
        for layer in zip(*pieces, strict=True)
    ]


@torch.inference_mode()
def beacon_nlls(
    model: PreTrainedModel, bos: int, beacon: Ids, every: int, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score an answer against the cache of :func:`beacon_layers`."""
    return _answer_nlls(model, beacon_layers(model, bos, beacon, every, doc), query, answer)


@torch.inference_mode()
def shifted_nlls(
    model: PreTrainedModel,
    bos: int,
    prefix: Ids,
    doc: Ids,
    query: Ids,
    answer: Ids,
    *,
    behind: Ids = (),
) -> list[float]:
    """Score as :func:`truncated_nlls` does, without rotating anything.

    The prefill's positions start at -len(prefix), so that the document lands on 1 … D at once;
    BOS comes from a prefill of its own, at position 0. What stands `behind` the document stays.
    """
    layers = shifted_layers(model, bos, prefix, [*doc, *behind])
    return _answer_nlls(model, layers, query, answer)


@torch.inference_mode()
def shifted_layers(model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids) -> LayerKeysValues:
    """Return the cache of :func:`shifted_nlls`: BOS at 0, the primed document at 1 ... D."""
    layers = _prefill(model, [bos, *prefix, *doc], first_position=-len(prefix))
    lone_bos = _prefill(model, [bos], first_position=0)
    cut = 1 + len(prefix)
    return [
        (
            torch.cat([bos_keys, keys[:, :, cut:]], dim=2),
            torch.cat([bos_values, values[:, :, cut:]], dim=2),
        )
        for (bos_keys, bos_values), (keys, values) in zip(lone_bos, layers, strict=True)
    ]


@torch.inference_mode()
def one_pass_nlls(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score as :func:`truncated_nlls` does, in one masked forward without any cache.

    The sequence is ``[BOS][prefix][BOS2][doc][query][answer]``. BOS2 sits at position
    len(prefix) and sees only itself; the document sees BOS, the prefix and itself; query and
    answer see BOS2, the document and themselves. Attention is relative, so this is truncation
    plus re-positioning. Windows are counted over positions.
    """
    ids = [bos, *prefix, bos, *doc, *query, *answer]
    before = list(range(1 + len(prefix)))
    after = list(range(len(prefix), len(prefix) + 1 + len(doc) + len(query) + len(answer)))
    parts = "b" + "p" * len(prefix) + "B" + "d" * len(doc) + "q" * (len(query) + len(answer))
    sees = {"b": "b", "p": "bp", "B": "B", "d": "bpd", "q": "Bdq"}
    return _masked_nlls(model, ids, before + after, parts, sees, answer)


@torch.inference_mode()
def blocks_nlls(
    model: PreTrainedModel,
    bos: int,
    copies: Sequence[Ids],
    doc: Ids,
    query: Ids,
    answer: Ids,
    *,
    isolated: bool,
    seen: Collection[int],
) -> list[float]:
    """Score ``[BOS][copy 0][copy 1]...[doc][query][answer]`` in one masked forward.

    Every copy sees BOS and itself, and where they are not `isolated` the copies before it; the
    document sees all; query and answer see the copies that are `seen`, BOS and the document.
    """
    names = "0123456789"[: len(copies)]
    ids = [bos, *(token for copy in copies for token in copy), *doc, *query, *answer]
    parts = "b" + "".join(name * len(copy) for name, copy in zip(names, copies, strict=True))
    parts += "d" * len(doc) + "q" * (len(query) + len(answer))
    sees = {name: "b" + (name if isolated else names) for name in names}
    sees |= {"b": "b", "d": "bd" + names, "q": "bdq" + "".join(names[i] for i in seen)}
    return _masked_nlls(model, ids, list(range(len(ids))), parts, sees, answer)


def _masked_nlls(
    model: PreTrainedModel,
    ids: Ids,
    positions: list[int],
    parts: str,
    sees: Mapping[str, str],
    answer: Ids,
) -> list[float]:
    """Score the last tokens of one forward in which `sees` says which part sees which."""
    logits = model(
        input_ids=_row(model, ids),
        position_ids=_row(model, positions),
        attention_mask=_attention_mask(model, parts, positions, sees),
        use_cache=False,
    ).logits
    return _last_nlls(logits, answer)


def bare_nlls(model: PreTrainedModel, bos: int, doc: Ids, query: Ids, answer: Ids) -> list[float]:
    """Score ``[BOS][doc][query][answer]`` by teacher forcing, without any cache."""
    return full_context_nlls(model, bos, [], doc, query, answer)


@torch.inference_mode()
def full_context_nlls(
    model: PreTrainedModel, bos: int, prefix: Ids, doc: Ids, query: Ids, answer: Ids
) -> list[float]:
    """Score ``[BOS][prefix][doc][query][answer]`` by teacher forcing, without any cache."""
    ids = [bos, *prefix, *doc, *query, *answer]
    # Positions without a gap: transformers takes a gap for the start of a packed sequence.
    logits = model(
        input_ids=_row(model, ids),
        position_ids=_row(model, range(len(ids))),
        use_cache=False,
    ).logits
    return _last_nlls(logits, answer)


def _prefill(model: PreTrainedModel, ids: Ids, first_position: int) -> LayerKeysValues:
    """Return each layer's keys and values after reading `ids` from an empty cache."""
    cache = DynamicCache()  # without a config: sliding layers, too, keep every slot
    positions = range(first_position, first_position + len(ids))
    model(
        input_ids=_row(model, ids),
        position_ids=_row(model, positions),
        past_key_values=cache,
        use_cache=True,
    )
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _answer_nlls(
    model: PreTrainedModel, layers: LayerKeysValues, query: Ids, answer: Ids
) -> list[float]:
    """Read query, then answer, against a cache whose slots lie at positions 0, 1, 2, …"""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    start = layers[0][0].shape[2]
    logits = [
        model(
            input_ids=_row(model, ids),
            position_ids=_row(model, range(first, first + len(ids))),
            past_key_values=cache,
            use_cache=True,
        ).logits
        for ids, first in ((query, start), (answer, start + len(query)))
    ]
    return _last_nlls(torch.cat(logits, dim=1), answer)


def _last_nlls(logits: Tensor, answer: Ids) -> list[float]:
    """Return the NLL of each answer token, the answer being the last tokens read."""
    predicting = logits[0, -len(answer) - 1 : -1].float()
    log_probs = torch.log_softmax(predicting, dim=-1)
    rows = torch.arange(len(answer), device=logits.device)
    return [-x for x in log_probs[rows, list(answer)].tolist()]


def _moved(
    model: PreTrainedModel, layer: int, keys: Tensor, delta: int, base: str | None = None
) -> Tensor:
    """Move a layer's keys by `delta` positions, turning pair i by delta times its frequency.

    `base` names the layer type whose frequencies are used instead of the layer's own.

    Dimensions past the rotary ones (partial rotary embeddings) stay as they are, and so do whole
    layers without rotary embeddings.
    """
    config = model.config.get_text_config()
    rotates = getattr(config, "no_rope_layers", None)  # 1 where a layer does rotate
    if rotates and not rotates[layer]:
        return keys
    frequencies = _frequencies(model, base or _layer_types(model)[layer])
    turning, still = keys.float().split(
        [2 * len(frequencies), keys.shape[-1] - 2 * len(frequencies)], dim=-1
    )
    angle = delta * frequencies.double()
    turn = _turn_neighbours if config.model_type in INTERLEAVED else _turn_halves
    turned = turn(turning, angle.cos().float(), angle.sin().float())
    return torch.cat([turned, still], dim=-1).to(keys.dtype)


def _turn_halves(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn dimension i together with dimension i + half."""
    first, second = keys.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _turn_neighbours(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn dimension 2i together with dimension 2i + 1."""
    first, second = keys.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def _frequencies(model: PreTrainedModel, kind: str) -> Tensor:
    """Return a kind of layer's rotary frequencies, radians per position, as the model holds them.

    Models with several bases keep one buffer per layer type in the same module.
    """
    rotary = next(m for name, m in model.named_modules() if name.endswith("rotary_emb"))
    return _buffer(rotary, "inv_freq", f"{kind}_inv_freq")


def _buffer(module: nn.Module, *names: str) -> Tensor:
    """Return the first of the named buffers that the module has."""
    held = dict(module.named_buffers(recurse=False))
    return next(held[name] for name in names if name in held)


def _layer_types(model: PreTrainedModel) -> list[str]:
    """Return ``full_attention`` or ``sliding_attention`` for each layer."""
    config = model.config.get_text_config()
    sliding = getattr(config, "sliding_window", None) is not None
    default = ["sliding_attention" if sliding else "full_attention"] * config.num_hidden_layers
    return list(getattr(config, "layer_types", None) or default)


def _attention_mask(
    model: PreTrainedModel, parts: str, positions: list[int], sees: Mapping[str, str]
) -> Tensor | dict[str, Tensor]:
    """Return the mask of one pass: one for all layers, or one per layer type that a model has."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    windows = {"full_attention": None, "sliding_attention": window}
    masks = {
        kind: _in_model_form(model, _may_attend(parts, positions, windows[kind], sees))
        for kind in set(_layer_types(model))
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _may_attend(
    parts: str, positions: list[int], window: int | None, sees: Mapping[str, str]
) -> list[list[bool]]:
    """Spell out, token by token, which earlier tokens each token sees."""
    return [
        [
            k <= q
            and parts[k] in sees[parts[q]]
            and (window is None or positions[q] - positions[k] < window)
            for k in range(len(parts))
        ]
        for q in range(len(parts))
    ]


def _in_model_form(model: PreTrainedModel, may_attend: list[list[bool]]) -> Tensor:
    """Turn a truth table into what the attention route takes: bool, or for eager an added bias."""
    allowed = torch.tensor(may_attend, device=model.device)[None, None]
    if model.config._attn_implementation != "eager":
        return allowed
    bias = torch.zeros(allowed.shape, dtype=model.dtype, device=model.device)
    return bias.masked_fill(~allowed, torch.finfo(model.dtype).min)


def _row(model: PreTrainedModel, numbers: Ids) -> Tensor:
    """Return integers as a batch of one, on the model's device."""
    return torch.tensor([list(numbers)], device=model.device)
