"""What a condition does to one real sample, drawn from the very tensors the engine receives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvcore.cache import masks
from kvcore.cache.kv_cache import KVCache
from kvcore.conditions import parse
from kvcore.conditions.recipes import (
    AnotherDocument,
    Condition,
    Document,
    DropPrefix,
    LayerRange,
    MaskFromQuery,
    Mean,
    Mix,
    Prefill,
    Recipe,
    Reposition,
    RotateForward,
    SwapBos,
    Truncate,
    TruncateBut,
    sources,
)
from kvcore.conditions.registry import STYLES
from kvcore.data import derived_texts
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

    - `slots`: segment of each key slot: ``BOS``, ``prefix`` (``prefix 2``, ... for further copies),
      ``doc``, ``another`` (another sample's document), ``after``, ``mean``, ``prompt`` or
      ``answer``.
    - `mask`: 1 where the token (row) may attend to the slot (column).
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


def explain(lm: LM, sample: Sample, condition: str | Condition, seed: int = 0) -> str:
    """Explain a condition on one sample: what is cached, what the query sees, what it tests.

    The text is rendered from the ids, positions and masks that the engine receives; `seed` is that
    of the random prefix. Raises Unusable if the sample cannot be measured under this condition.
    """
    return exposition(lm, sample, condition, seed).text


def exposition(lm: LM, sample: Sample, condition: str | Condition, seed: int = 0) -> Explanation:
    """Explain a condition on one sample, with its masks; see `explain`."""
    # 1. Run the very passes that a score takes.
    parsed = parse.condition(condition)
    ready = prepared.prepare_one(lm, sample, parsed, seed)
    prefills = {p: build.prefill_input(lm, p, [ready]) for p in parsed.prefills()}
    caches: dict[Recipe, KVCache] = {p: forward.prefill(lm, step) for p, step in prefills.items()}
    cache = build.build(lm, parsed.recipe, caches, [ready])
    query = build.query_input(lm, cache, [ready])

    # 2. Name every slot.
    labels = {p: _slot_labels(p, ready) for p in prefills}
    all_labels = (*_slot_labels(parsed.recipe, ready), *_query_labels(ready))

    # 3. Draw one panel a mask, and write everything down.
    panels = [
        panel
        for p, step in prefills.items()
        for panel in mask_panels(lm, f"prefill of {_spell_prefill(p, ready.bos)}", step, labels[p])
    ]
    panels += mask_panels(lm, "query and answer, on top of the cache", query, all_labels)
    panels += _one_pass_panels(lm, parsed, ready)
    lines = [
        f"{parsed.name}: {parsed.tests}",
    ]
    for p, step in prefills.items():
        spelled = _spell_prefill(p, ready.bos)
        lines += ["", f"prefill {spelled}", *token_lines(lm, step, labels[p])]
    if steps := [f"then: {step}" for step in _steps(parsed.recipe)]:
        lines += ["", *steps]
    lines += [
        "",
        visible_line(cache, all_labels),
        "",
        "query and answer (scored: each answer token, from the token before it)",
        *token_lines(lm, query, all_labels[cache.slots :]),
        "",
        "masks (rows attend to columns; first and last tokens of each part)",
        *(line for panel in panels for line in (panel.title, *picture(panel))),
    ]
    return Explanation(parsed.name, "\n".join(lines), tuple(panels))


def expositions(
    lm: LM, corpus: Corpus, names: Sequence[str], seed: int
) -> tuple[Mapping[str, Any], ...]:
    """Explain conditions as `on_one_sample` does, as reports take them."""
    _, explanations = on_one_sample(lm, corpus, names, seed)
    return records(lm, explanations)


def records(lm: LM, explanations: Iterable[Explanation]) -> tuple[Mapping[str, Any], ...]:
    """Return explanations as reports take them."""
    return tuple(
        {
            "model": lm.name,
            "condition": explanation.condition,
            "text": explanation.text,
            "masks": [asdict(panel) for panel in explanation.panels],
        }
        for explanation in explanations
    )


def on_one_sample(
    lm: LM, corpus: Corpus, names: Sequence[str], seed: int
) -> tuple[Sample, list[Explanation]]:
    """Explain conditions on the shortest of a corpus's first samples that all can be measured on.

    Raises KvError if there is no such sample among the first 20.
    """
    samples = _with_further_texts(choose_samples(corpus.samples, CANDIDATES, seed), corpus, seed)
    for sample in sorted(samples, key=lambda s: len(s.passage)):
        try:
            return sample, [exposition(lm, sample, name, seed) for name in names]
        except Unusable:
            continue
    raise KvError(f"{corpus.name}: none of its first samples can be measured with {lm.name}.")


def _with_further_texts(samples: Sequence[Sample], corpus: Corpus, seed: int) -> tuple[Sample, ...]:
    """Give samples the texts that follow from their corpus, and placeholders for written ones."""
    others = derived_texts.others_of(samples, corpus.samples, seed)
    names = [
        *derived_texts.OF_CORPUS,
        *(f"{what}({style})" for what in ("shuffled", "another") for style in STYLES),
    ]
    return derived_texts.with_derived(
        [_with_placeholders(sample) for sample in samples],
        {name: _with_placeholders(other) for name, other in others.items()},
        derived_texts.keywords_in([sample.passage for sample in corpus.samples]),
        names,
        seed,
    )


def _with_placeholders(sample: Sample) -> Sample:
    """Give a sample what it lacks of texts that are written elsewhere."""
    texts = {"past_query": "an earlier question about this passage"} | {
        f"surrogate({style})": f"what the model writes as a {style} for this passage"
        for style in STYLES
    }
    return replace(sample, texts=tuple((texts | dict(sample.texts)).items()))


# --- masks ---------------------------------------------------------------------------------------


def mask_panels(lm: LM, title: str, step: ForwardInput, slots: tuple[str, ...]) -> list[Panel]:
    """Return a pass's masks, one panel per kind of layer whose mask differs from those before."""
    built = masks.for_model(lm, step.positions, step.key_positions(), step.key_real(), step.blocked)
    by_kind = built if isinstance(built, dict) else {masks.layer_kinds(lm)[0]: built}
    panels: dict[tuple[tuple[int, ...], ...], Panel] = {}
    for kind in sorted(by_kind):  # full before sliding
        mask = by_kind[kind][0, 0]
        allowed = mask == 0 if mask.dtype.is_floating_point else mask
        rows = tuple(map(tuple, allowed.int().tolist()))
        sliding = kind == masks.SLIDING
        note = f" (layers that see {lm.config.sliding_window} positions back)" if sliding else ""
        panels.setdefault(rows, Panel(title + note, slots, rows))
    return list(panels.values())


def _one_pass_panels(lm: LM, condition: Condition, sample: PreparedSample) -> list[Panel]:
    """Return the pass that stands for a truncated cache where no other condition shares it."""
    recipe = condition.recipe
    if not isinstance(recipe, Reposition) or not one_pass.fits_one_pass(recipe):
        return []
    sequence = one_pass.one_pass(sample, condition, lm.bos_id)
    (prefill,) = condition.prefills()
    labels = [*_slot_labels(prefill, sample), *_query_labels(sample)]
    end = labels.index("doc")
    kept = sample.kept_slots(recipe.source) if isinstance(recipe.source, TruncateBut) else ()
    again = labels[: kept.stop] if kept else []
    if len(labels) < len(sequence.ids):
        labels[end:end] = [*again, *["BOS"] * sample.bos]
    title = "the same in one pass, where nothing else shares the prefill"
    return mask_panels(lm, title, forward.pad_sequences(lm, [sequence]), tuple(labels))


def picture(panel: Panel) -> list[str]:
    """Draw a mask with the first and the last two tokens of each part."""
    columns: set[int] = set()
    for _, start, stop in _stretches(panel.slots):
        columns |= {start, min(start + 1, stop - 1), max(stop - 2, start), stop - 1}
    offset = len(panel.slots) - len(panel.mask)
    return [
        f"  {panel.slots[row]:<8}"
        + "".join("█" if panel.mask[row - offset][column] else "·" for column in sorted(columns))
        for row in sorted(columns)
        if row >= offset
    ]


# --- lines of text -------------------------------------------------------------------------------


def visible_line(cache: KVCache, slots: Sequence[str]) -> str:
    """Say which slots of the cache the query sees, and at which positions."""
    real = cache.real[0]
    own = zip(slots[: cache.slots], real.tolist(), strict=True)
    visible = [name for name, seen in own if seen]
    spans = slot_spans(visible, cache.positions[0][real].tolist())
    return f"what the query sees: {len(visible)} slots, {', '.join(spans)}"


def slot_spans(slots: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Say of each run of slots with one label at which positions it stands."""
    return [
        f"{name} at positions {positions[start]}..{positions[stop - 1]}"
        for name, start, stop in _stretches(slots)
    ]


def token_lines(lm: LM, step: ForwardInput, slots: Sequence[str]) -> list[str]:
    """List the tokens of one pass by part: how many, at which positions, which ones."""
    lines = []
    for name, start, stop in _stretches(slots):
        ids = step.ids[0, start:stop].tolist()
        positions = step.positions[0, start:stop].tolist()
        shown = ids if len(ids) <= 2 * SHOWN else [*ids[:SHOWN], None, *ids[-SHOWN:]]
        words = " ".join("…" if i is None else repr(lm.tokenizer.decode([i])) for i in shown)
        place = f"positions {positions[0]}..{positions[-1]}"
        lines.append(f"  {name:<8}{len(ids):>4} tokens, {place}: {words}")
    return lines


def _stretches(slots: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the runs of slots with one label: label, start, stop."""
    starts = [i for i in range(len(slots)) if i == 0 or slots[i] != slots[i - 1]]
    return [(slots[a], a, b) for a, b in zip(starts, [*starts[1:], len(slots)], strict=True)]


# --- names ---------------------------------------------------------------------------------------


def _spell_prefill(prefill: Prefill, bos: bool = True) -> str:
    """Write a prefill's parts down, such as ``[BOS][prefix][doc]``."""
    words = ["[BOS]"] * bos
    for part in prefill.parts:
        if isinstance(part, Document):
            words.append(f"[beacon + {part.every} doc]..." if part.every else "[doc]")
        elif isinstance(part, AnotherDocument):
            words.append("[another doc]")
        elif part.kind != "none":
            place = "after" if "[doc]" in words else "prefix"
            words.append(f"[{place}]" + (f" x {part.times}" if part.times > 1 else ""))
    return "".join(words)


def _slot_labels(recipe: Recipe, sample: PreparedSample) -> tuple[str, ...]:
    """Say what each slot of a recipe's cache holds."""
    if isinstance(recipe, Mean):
        return ("mean",)
    roles = sample.roles(recipe)
    if isinstance(recipe, Prefill) and AnotherDocument() in recipe.parts:
        return tuple(
            "another" if role == prepared.DOCUMENT else slot_label(role, False) for role in roles
        )
    document = [i for i, role in enumerate(roles) if role == prepared.DOCUMENT]
    return tuple(
        slot_label(role, bool(document) and i > document[-1]) for i, role in enumerate(roles)
    )


def slot_label(role: int, after: bool) -> str:
    """Name what a slot holds; `after` says that it stands behind the document."""
    if role < prepared.COPIES:
        return {prepared.BOS: "BOS", prepared.DOCUMENT: "doc"}[role]
    if after:
        return "after"
    return "prefix" if role == prepared.COPIES else f"prefix {role - prepared.COPIES + 1}"


def _query_labels(sample: PreparedSample) -> tuple[str, ...]:
    tokens = sample.tokens
    return ("prompt",) * len(tokens.prompt) + ("answer",) * (len(tokens.answer) - 1)


def _steps(recipe: Recipe) -> list[str]:
    if isinstance(recipe, Prefill):
        return []
    if isinstance(recipe, Mix):
        return [*_steps(recipe.keys), *_steps(recipe.values), _mixing(recipe)]
    if isinstance(recipe, SwapBos):
        swap = "give the first cache BOS's keys and values of the second"
        return [*_steps(recipe.source), *_steps(recipe.bos), swap]
    return [*_steps(sources(recipe)[0]), _step(recipe)]


def _step(
    recipe: Truncate | TruncateBut | DropPrefix | Reposition | RotateForward | Mean | MaskFromQuery,
) -> str:
    if isinstance(recipe, Truncate):
        return "drop every slot but BOS's and the document's"
    if isinstance(recipe, TruncateBut):
        sink = "whichever of BOS and the prefix has the largest hidden norm"
        kept = sink if recipe.keep == "sink" else f"the prefix's first {recipe.keep}"
        return f"drop every slot but BOS's, the document's and {kept}"
    if isinstance(recipe, DropPrefix):
        return "drop every slot between BOS and the document"
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


def _positions(share: float | tuple[float, float]) -> str:
    if isinstance(share, tuple):
        return f"the document from {share[0]} to {share[1]} of its tokens"
    return f"the first {share} of the document"


def _mixing(mix: Mix) -> str:
    whose = "the mean value" if isinstance(mix.values, Mean) else "the values of the second cache"
    how = f"{mix.weight} parts of {whose}" if mix.weight != 1 else whose
    where = [] if mix.layers == LayerRange.all() else [f"layers {mix.layers}"]
    where += [] if mix.share == 1 else [_positions(mix.share)]
    return f"keep the first cache's keys; give the document {how}" + (
        f", in {' and '.join(where)} only" if where else ""
    )
