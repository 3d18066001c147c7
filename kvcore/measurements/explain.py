"""What a condition does to one real sample, drawn from the very tensors the engine receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kvcore.cache import masks
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import (
    Condition,
    Document,
    LayerRange,
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    Truncate,
    sources,
)
from kvcore.conditions.registry import STYLES
from kvcore.data.sample import Corpus, Sample, choose_samples
from kvcore.engine import build, forward, one_pass, prepared
from kvcore.engine.forward import ForwardInput
from kvcore.engine.prepared import PreparedSample
from kvcore.errors import KvError
from kvcore.models.lm import LM
from kvcore.tokenization import Unusable

CANDIDATES = 20  # samples that conditions may be explained on
SHOWN = 6  # tokens shown of each part in the text


@dataclass(frozen=True)
class Panel:
    """One forward pass: its title, a segment label per key slot, and who may attend to whom.

    Attributes
    ----------
    slots : tuple of str
        Segment of each key slot: ``BOS``, ``prefix`` (``prefix 2``, ... for further copies),
        ``doc``, ``after``, ``mean``, ``prompt`` or ``answer``.
    mask : tuple of tuple of int, (queries, slots)
        1 where the token (row) may attend to the slot (column).
    """

    title: str
    slots: tuple[str, ...]
    mask: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Explanation:
    """A condition on one sample: the text, and the masks as pictures can be drawn from them."""

    condition: str
    text: str
    panels: tuple[Panel, ...]


def explain(lm: LM, sample: Sample, given: str | Condition, seed: int = 0) -> str:
    """Explain a condition on one sample: what is cached, what the query sees, what it tests.

    Parameters
    ----------
    lm : LM
    sample : Sample
    given : str or Condition
    seed : int
        Of the random prefix.

    Returns
    -------
    str
        Rendered from the ids, positions and masks that the engine receives.

    Raises
    ------
    Unusable
        If the sample cannot be measured under this condition.
    """
    return exposition(lm, sample, given, seed).text


def exposition(lm: LM, sample: Sample, given: str | Condition, seed: int = 0) -> Explanation:
    """Explain a condition on one sample, with its masks; see `explain`."""
    chosen = condition(given)
    one = prepared.prepare_one(lm, sample, chosen, seed)
    prefills = {leaf: build.prefill_input(lm, leaf, [one]) for leaf in chosen.prefills()}
    made: dict[Recipe, KVCache] = {
        leaf: forward.prefill(lm, read) for leaf, read in prefills.items()
    }
    cache = build.build(lm, chosen.recipe, made, [one])
    asked = build.query_input(lm, cache, [one])
    labels = {leaf: _labels(leaf, one) for leaf in prefills}
    whole = (*_labels(chosen.recipe, one), *_query_slots(one))
    panels = (
        *(
            panel
            for leaf, read in prefills.items()
            for panel in _panels(lm, f"prefill of {_parts(leaf)}", read, labels[leaf])
        ),
        *_panels(lm, "query and answer, on top of the cache", asked, whole),
        *_in_one_pass(lm, chosen, one),
    )
    read_first = [
        line
        for leaf, read in prefills.items()
        for line in ("", f"prefill {_parts(leaf)}", *_tokens(lm, read, labels[leaf]))
    ]
    return Explanation(
        chosen.name, _text(lm, chosen, read_first, cache, asked, whole, panels), panels
    )


def expositions(
    lm: LM, corpus: Corpus, names: Sequence[str], seed: int
) -> tuple[Mapping[str, Any], ...]:
    """Explain conditions on the shortest of a corpus's first samples that all can be measured on.

    Raises
    ------
    KvError
        If there is no such sample among the first 20.
    """
    samples = [_with_placeholders(s) for s in choose_samples(corpus.samples, CANDIDATES, seed)]
    for sample in sorted(samples, key=lambda s: len(s.passage)):
        try:
            explanations = [exposition(lm, sample, name, seed) for name in names]
        except Unusable:
            continue
        return tuple(
            {
                "model": lm.name,
                "condition": explanation.condition,
                "text": explanation.text,
                "masks": [
                    {
                        "title": panel.title,
                        "slots": list(panel.slots),
                        "mask": [list(row) for row in panel.mask],
                    }
                    for panel in explanation.panels
                ],
            }
            for explanation in explanations
        )
    raise KvError(f"{corpus.name}: none of its first samples can be measured with {lm.name}.")


def _with_placeholders(sample: Sample) -> Sample:
    """Give a sample what it lacks of texts that are written elsewhere."""
    known = dict(sample.texts)
    texts = {
        "past_query": "an earlier question about this passage",
        **{
            f"surrogate({style})": f"what the model writes as a {style} for this passage"
            for style in STYLES
        },
    }
    missing = tuple((name, text) for name, text in texts.items() if name not in known)
    return replace(sample, texts=(*sample.texts, *missing))


def _in_one_pass(lm: LM, chosen: Condition, one: PreparedSample) -> list[Panel]:
    """Return the pass that stands for a truncated cache where no other condition shares it."""
    if not isinstance(chosen.recipe, Reposition) or not one_pass.fits_one_pass(chosen.recipe):
        return []
    reading = one_pass.one_pass(one, chosen, lm.bos_id)
    (leaf,) = chosen.prefills()
    labels = [*_labels(leaf, one), *_query_slots(one)]
    if len(labels) < len(reading.ids):
        labels.insert(1 + sum(label.startswith("prefix") for label in labels), "BOS")
    title = "the same in one pass, where nothing else shares the prefill"
    return _panels(lm, title, forward.pad_sequences(lm, [reading]), tuple(labels))


def _text(
    lm: LM,
    chosen: Condition,
    read_first: Sequence[str],
    cache: KVCache,
    asked: ForwardInput,
    whole: Sequence[str],
    panels: Sequence[Panel],
) -> str:
    lines = [f"{chosen.name}: {chosen.tests}", *read_first]
    steps = _steps(chosen.recipe)
    lines += ["", *(f"then: {step}" for step in steps)] if steps else []
    kept = whole[: cache.slots]
    seen = cache.real[0].tolist()
    visible = [name for name, real in zip(kept, seen, strict=True) if real]
    lines += [
        "",
        f"what the query sees: {len(visible)} slots, "
        + ", ".join(
            f"{name} at {where}"
            for name, where in _spans(visible, cache.positions[0][cache.real[0]])
        ),
    ]
    lines += [
        "",
        "query and answer (scored: each answer token, from the token before it)",
        *_tokens(lm, asked, whole[cache.slots :]),
        "",
        "masks (rows attend to columns; first and last tokens of each part)",
    ]
    for panel in panels:
        lines += [panel.title, *_picture(panel)]
    return "\n".join(lines)


def _parts(leaf: Prefill) -> str:
    """Write a prefill's parts down, such as ``[BOS][prefix][doc]``."""
    named = ["[BOS]"]
    for part in leaf.parts:
        if isinstance(part, Document):
            named.append(f"[beacon + {part.every} doc]..." if part.every else "[doc]")
        elif part.kind != "none":
            place = "after" if "[doc]" in named else "prefix"
            named.append(f"[{place}]" + (f" x {part.times}" if part.times > 1 else ""))
    return "".join(named)


def _labels(recipe: Recipe, one: PreparedSample) -> tuple[str, ...]:
    """Say what each slot of a recipe's cache holds."""
    if isinstance(recipe, Mean):
        return ("mean",)
    roles = one.roles(recipe)
    document = [i for i, role in enumerate(roles) if role == prepared.DOCUMENT]
    return tuple(_label(role, bool(document) and i > document[-1]) for i, role in enumerate(roles))


def _label(role: int, after: bool) -> str:
    if role < prepared.COPIES:
        return {prepared.BOS: "BOS", prepared.DOCUMENT: "doc"}[role]
    if after:
        return "after"
    return "prefix" if role == prepared.COPIES else f"prefix {role - prepared.COPIES + 1}"


def _query_slots(one: PreparedSample) -> tuple[str, ...]:
    return ("prompt",) * len(one.tokens.prompt) + ("answer",) * (len(one.tokens.answer) - 1)


def _steps(recipe: Recipe) -> list[str]:
    if isinstance(recipe, Prefill):
        return []
    if isinstance(recipe, Mix):
        return [*_steps(recipe.keys), *_steps(recipe.values), _mixing(recipe)]
    return [*_steps(sources(recipe)[0]), _step(recipe)]


def _step(recipe: Truncate | Reposition | RotateForward | Mean | MaskFromQuery) -> str:
    if isinstance(recipe, Truncate):
        return "drop every slot but BOS's and the document's"
    if isinstance(recipe, Mean):
        return "take the mean of the values, BOS left out"
    if isinstance(recipe, MaskFromQuery):
        return f"of the prefix's copies, the query sees {recipe.see}"
    if isinstance(recipe, RotateForward):
        return "turn the document's keys forward by the prefix's length"
    if recipe.rope_base == "none":
        return "count positions anew from 0, and leave the keys as they are"
    how = {"own": "each layer's own rope base", "full_attention": "the full-attention base"}
    inexact = ", in the model's own precision" if recipe.precision == "model" else ""
    return f"turn the keys back to positions 0, 1, 2, ..., with {how[recipe.rope_base]}{inexact}"


def _mixing(mix: Mix) -> str:
    whose = "the mean value" if isinstance(mix.values, Mean) else "the values of the second cache"
    how = f"{mix.weight} parts of {whose}" if mix.weight < 1 else whose
    where = [] if mix.layers == LayerRange.all() else [f"layers {mix.layers}"]
    where += [] if mix.share == 1 else [f"the first {mix.share} of the document"]
    return f"keep the first cache's keys; give the document {how}" + (
        f", in {' and '.join(where)} only" if where else ""
    )


def _panels(lm: LM, title: str, given: ForwardInput, slots: tuple[str, ...]) -> list[Panel]:
    """Return one panel per kind of layer whose mask differs from the kinds before it."""
    built = masks.for_model(
        lm, given.positions, given.key_positions(), given.key_real(), given.blocked
    )
    named = built if isinstance(built, dict) else {masks.layer_kinds(lm)[0]: built}
    panels: dict[tuple[tuple[int, ...], ...], Panel] = {}
    for kind in sorted(named):  # full before sliding
        mask = named[kind][0, 0]
        allowed = mask if mask.dtype.is_floating_point is False else mask == 0
        rows = tuple(tuple(row) for row in allowed.int().tolist())
        note = (
            f" (layers that see {lm.config.sliding_window} positions back)"
            if kind == masks.SLIDING
            else ""
        )
        panels.setdefault(rows, Panel(title + note, slots, rows))
    return list(panels.values())


def _tokens(lm: LM, given: ForwardInput, slots: Sequence[str]) -> list[str]:
    """List the tokens of one pass by part: how many, at which positions, which ones."""
    lines = []
    for name, start, stop in _stretches(slots):
        ids = given.ids[0, start:stop].tolist()
        at = given.positions[0, start:stop].tolist()
        shown = ids if len(ids) <= 2 * SHOWN else [*ids[:SHOWN], None, *ids[-SHOWN:]]
        words = " ".join("…" if i is None else repr(lm.tokenizer.decode([i])) for i in shown)
        lines.append(f"  {name:<8}{len(ids):>4} tokens, positions {at[0]}..{at[-1]}: {words}")
    return lines


def _stretches(slots: Sequence[str]) -> list[tuple[str, int, int]]:
    starts = [i for i in range(len(slots)) if i == 0 or slots[i] != slots[i - 1]]
    stops = [*starts[1:], len(slots)]
    return [(slots[a], a, b) for a, b in zip(starts, stops, strict=True)]


def _spans(slots: Sequence[str], positions: torch.Tensor) -> list[tuple[str, str]]:
    return [
        (name, f"positions {int(positions[a])}..{int(positions[b - 1])}")
        for name, a, b in _stretches(slots)
    ]


def _picture(panel: Panel) -> list[str]:
    """Draw a mask with the first and the last two tokens of each part."""
    columns = _ends(panel.slots)
    offset = len(panel.slots) - len(panel.mask)
    rows = [c for c in columns if c >= offset]
    return [
        f"  {panel.slots[r]:<8}"
        + "".join("█" if panel.mask[r - offset][c] else "·" for c in columns)
        for r in rows
    ]


def _ends(slots: Sequence[str]) -> list[int]:
    picked: set[int] = set()
    for _, a, b in _stretches(slots):
        picked |= {a, min(a + 1, b - 1), max(b - 2, a), b - 1}
    return sorted(picked)
