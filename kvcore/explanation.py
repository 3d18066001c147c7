"""What a condition does to one real sample, drawn from the very tensors the engine receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvcore import forward, masks, scoring
from kvcore.conditions import Condition, Prefill, Recipe, Truncate, condition

if TYPE_CHECKING:
    import torch

    from kvcore.cache import KVCache
    from kvcore.corpora import Sample
    from kvcore.forward import Pass
    from kvcore.models import LM
    from kvcore.scoring import Prepared

SHOWN = 6  # tokens shown of each part in the text


@dataclass(frozen=True)
class Panel:
    """One forward pass: its title, a segment label per key slot, and who may attend to whom.

    Attributes
    ----------
    slots : tuple of str
        Segment of each key slot: ``BOS``, ``prefix``, ``doc``, ``prompt`` or ``answer``.
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
    one = scoring.prepare_one(lm, sample, chosen, seed)
    prefills = {leaf: scoring.leaf_pass(lm, leaf, [one]) for leaf in chosen.leaves()}
    leaves = {leaf: forward.run(lm, read)[1] for leaf, read in prefills.items()}
    cache = scoring.build(lm, chosen.recipe, leaves, [one])
    asked = scoring.query_pass(lm, cache, [one])
    panels = (*(panel for leaf, read in prefills.items() for panel in _panels(
                  lm, f"prefill of {_parts(leaf)}", read, _leaf_slots(leaf, one))),
              *_panels(lm, "query and answer, on top of the cache", asked,
                       (*_kept_slots(chosen.recipe, one), *_query_slots(one))))
    return Explanation(chosen.name, _text(lm, chosen, prefills, cache, asked, panels), panels)


def _text(lm: LM, chosen: Condition, prefills: dict[Prefill, Pass], cache: KVCache, asked: Pass,
          panels: Sequence[Panel]) -> str:
    lines = [f"{chosen.name}: {chosen.tests}"]
    for leaf, read in prefills.items():
        slots = next(p.slots for p in panels if p.title.startswith(f"prefill of {_parts(leaf)}"))
        lines += ["", f"prefill {_parts(leaf)}", *_tokens(lm, read, slots)]
    steps = _steps(chosen.recipe)
    lines += ["", *(f"then: {step}" for step in steps)] if steps else []
    kept = panels[-1].slots[: cache.slots]
    lines += ["", f"what the query sees: {cache.slots} slots, "
              + ", ".join(f"{name} at {where}" for name, where in _spans(kept, cache.positions[0]))]
    lines += ["", "query and answer (scored: each answer token, from the token before it)",
              *_tokens(lm, asked, panels[-1].slots[cache.slots:]),
              "", "masks (rows attend to columns; first and last tokens of each part)"]
    for panel in panels:
        lines += [panel.title, *_picture(panel)]
    return "\n".join(lines)


def _parts(leaf: Prefill) -> str:
    prefix = "" if leaf.prefix.kind == "none" else "[prefix]"
    return f"[BOS]{prefix}{'[doc]' if leaf.document else ''}"


def _leaf_slots(leaf: Prefill, one: Prepared) -> tuple[str, ...]:
    document = len(one.tokens.document) if leaf.document else 0
    return ("BOS", *["prefix"] * len(one.prefixes[leaf.prefix]), *["doc"] * document)


def _kept_slots(recipe: Recipe, one: Prepared) -> tuple[str, ...]:
    if isinstance(recipe, Prefill):
        return _leaf_slots(recipe, one)
    before = _kept_slots(recipe.source, one)
    return tuple(s for s in before if s != "prefix") if isinstance(recipe, Truncate) else before


def _query_slots(one: Prepared) -> tuple[str, ...]:
    return ("prompt",) * len(one.tokens.prompt) + ("answer",) * (len(one.tokens.answer) - 1)


def _steps(recipe: Recipe) -> list[str]:
    if isinstance(recipe, Prefill):
        return []
    if isinstance(recipe, Truncate):
        return [*_steps(recipe.source), "drop the prefix's slots, keep BOS and the document"]
    how = {"own": "each layer's own rope base", "full_attention": "the full-attention base"}
    way = "back" if recipe.sign < 0 else "forward"
    return [*_steps(recipe.source),
            f"turn the document's keys {way} by the prefix's length, with {how[recipe.base]}"]


def _panels(lm: LM, title: str, given: Pass, slots: tuple[str, ...]) -> list[Panel]:
    """Return one panel per kind of layer whose mask differs from the kinds before it."""
    built = masks.for_model(lm, given.positions, given.key_positions(), given.key_real())
    named = built if isinstance(built, dict) else {masks.layer_kinds(lm)[0]: built}
    panels: dict[tuple[tuple[int, ...], ...], Panel] = {}
    for kind in sorted(named):  # full before sliding
        mask = named[kind][0, 0]
        allowed = mask if mask.dtype.is_floating_point is False else mask == 0
        rows = tuple(tuple(row) for row in allowed.int().tolist())
        note = (f" (layers that see {lm.config.sliding_window} positions back)"
                if kind == masks.SLIDING else "")
        panels.setdefault(rows, Panel(title + note, slots, rows))
    return list(panels.values())


def _tokens(lm: LM, given: Pass, slots: Sequence[str]) -> list[str]:
    """List the tokens of one pass by part: how many, at which positions, which ones."""
    lines = []
    for name, start, stop in _stretches(slots):
        ids = given.ids[0, start:stop].tolist()
        at = given.positions[0, start:stop].tolist()
        shown = ids if len(ids) <= 2 * SHOWN else [*ids[:SHOWN], None, *ids[-SHOWN:]]
        words = " ".join("…" if i is None else repr(lm.tokenizer.decode([i])) for i in shown)
        lines.append(f"  {name:<7}{len(ids):>4} tokens, positions {at[0]}..{at[-1]}: {words}")
    return lines


def _stretches(slots: Sequence[str]) -> list[tuple[str, int, int]]:
    starts = [i for i in range(len(slots)) if i == 0 or slots[i] != slots[i - 1]]
    stops = [*starts[1:], len(slots)]
    return [(slots[a], a, b) for a, b in zip(starts, stops, strict=True)]


def _spans(slots: Sequence[str], positions: torch.Tensor) -> list[tuple[str, str]]:
    return [(name, f"positions {int(positions[a])}..{int(positions[b - 1])}")
            for name, a, b in _stretches(slots)]


def _picture(panel: Panel) -> list[str]:
    """Draw a mask with the first and the last two tokens of each part."""
    columns = _ends(panel.slots)
    offset = len(panel.slots) - len(panel.mask)
    rows = [c for c in columns if c >= offset]
    return [f"  {panel.slots[r]:<7}" + "".join(
        "█" if panel.mask[r - offset][c] else "·" for c in columns) for r in rows]


def _ends(slots: Sequence[str]) -> list[int]:
    picked: set[int] = set()
    for _, a, b in _stretches(slots):
        picked |= {a, min(a + 1, b - 1), max(b - 2, a), b - 1}
    return sorted(picked)
