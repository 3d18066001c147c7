"""Explanations are drawn from the very tensors that the model receives."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from invariants.support.comparing import (
    Fault,
    must_see,
)
from invariants.support.plain_routes import EXPECTED, Case
from invariants.support.samples import LONG
from kvcore import loading
from kvcore.conditions import registry
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import (
    Condition,
    MaskFromQuery,
    Mix,
)
from kvcore.conditions.registry import QUERY, truncation
from kvcore.data.sample import Sample
from kvcore.engine import build, one_pass, prepared, rope_probe
from kvcore.measurements import answer_nll, explain
from kvcore.models.lm import LM

Truth = tuple[tuple[int, ...], ...]


def received(lm: LM, sample: Sample, name: str, route: answer_nll.Route) -> set[Truth]:
    """Return the distinct masks that the model itself is handed while a score is made."""
    seen: set[Truth] = set()

    def note(_module: Any, _ids: Any, chosen: dict[str, Any]) -> None:
        mask = chosen["attention_mask"]
        for one in mask.values() if isinstance(mask, dict) else [mask]:
            allowed = one[0, 0] if one.dtype == torch.bool else one[0, 0] == 0
            seen.add(tuple(tuple(row) for row in allowed.int().tolist()))

    handle = lm.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        answer_nll.score(lm, [sample], [name], route=route)
    finally:
        handle.remove()
    return seen


def check_explanation(lm: LM, sample: Sample, name: str) -> None:
    """Compare an explanation's masks with the model's, and what the query sees with the row's."""
    rope_probe.rope_plan(lm)
    shown = explain.exposition(lm, sample, name)
    assert shown.text.startswith(f"{name}: ")
    assert shown.text == explain.explain(lm, sample, name)
    for panel in shown.panels:
        assert {len(row) for row in panel.mask} == {len(panel.slots)}, panel.title
    apart = {p.mask for p in shown.panels if not p.title.startswith("the same in one pass")}
    assert apart == received(lm, sample, name, "cache"), "other masks than the engine's"
    single = {p.mask for p in shown.panels} - apart
    assert single <= received(lm, sample, name, "auto"), "another single pass than the engine's"
    (seen,) = re.findall(r"what the query sees: (\d+) slots, (.*)", shown.text)
    row = answer_nll.score(lm, [sample], [name]).iloc[0]
    spans = re.findall(r"([a-zA-Z]+(?: \d+)?) at positions (\d+)\.\.(\d+)", seen[1])
    assert int(seen[0]) == row.cache_len, "another number of slots than the engine's"
    assert sum(int(b) - int(a) + 1 for _, a, b in spans) == row.cache_len, "slots left out"
    assert {"BOS"} <= {what for what, _, _ in spans}
    copies_ = [what for what, _, _ in spans if what.startswith("prefix")]
    assert copies_ == VISIBLE_COPIES.get(name, copies_), "other copies than the query sees"


VISIBLE_COPIES = {
    "blocks(oracle,3,first)": ["prefix"],
    "blocks(oracle,3,last)": ["prefix 3"],
    "blocks(oracle,3,none)": [],
    "blocks(oracle,2,all)": ["prefix", "prefix 2"],
    "oracle": [],
    "bare": [],
    "full_context(oracle)": ["prefix"],
}


@pytest.mark.parametrize("name", list(EXPECTED))
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gemma3"])
def test_explanations_are_drawn_from_what_the_model_receives(model: str, name: str) -> None:
    """Would catch masks that are not the model's, or slots that the query does not see."""
    spelled = condition(name).name
    check_explanation(loading.load(model, device="cpu"), LONG, spelled)


def draw_causal_masks(patch: pytest.MonkeyPatch) -> None:
    """Draw each pass as if nothing were blind in it."""
    right = explain.mask_panels
    patch.setattr(
        explain,
        "mask_panels",
        lambda lm, title, step, slots: right(lm, title, replace(step, blocked=None), slots),
    )


def list_hidden_copies(patch: pytest.MonkeyPatch) -> None:
    right = build.build
    patch.setattr(
        build,
        "build",
        lambda lm, recipe, made, group: right(
            lm, recipe.source if isinstance(recipe, MaskFromQuery) else recipe, made, group
        ),
    )


def forget_a_span(patch: pytest.MonkeyPatch) -> None:
    right = explain.slot_spans
    patch.setattr(explain, "slot_spans", lambda *given_: right(*given_)[:-1])


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (draw_causal_masks, "blocks(oracle,3,first)"),
        (draw_causal_masks, "oracle"),
        (list_hidden_copies, "blocks(oracle,3,none)"),
        (forget_a_span, "bare"),
    ],
)
def test_twin_explanations(llama: LM, fault: Fault, name: str) -> None:
    """Would catch a check blind to another mask, a hidden copy or a part left out."""
    must_see(fault, check_explanation, llama, LONG, name)


def check_labels(lm: LM, sample: Sample, name: str) -> None:
    """Demand that a single pass's labels stand where its BOS tokens stand."""
    chosen = condition(name)
    ready = prepared.prepare_one(lm, sample, chosen)
    reading = one_pass.one_pass(ready, chosen, lm.bos_id)
    single = [
        p
        for p in explain.exposition(lm, sample, name).panels
        if p.title.startswith("the same in one pass")
    ]
    assert single, "no single pass was drawn"
    for panel in single:
        labelled = [i for i, label in enumerate(panel.slots) if label == "BOS"]
        assert labelled == [i for i, token in enumerate(reading.ids) if token == lm.bos_id]


@pytest.mark.parametrize("name", ["oracle", "random", "static_fact"])
def test_labels_of_a_single_pass_stand_where_its_tokens_do(llama: LM, name: str) -> None:
    """Would catch a second BOS labelled where it does not stand."""
    check_labels(llama, LONG, name)


def test_twin_labels(llama: LM) -> None:
    """Would catch a check blind to a label a token off."""

    def label_one_off(patch: pytest.MonkeyPatch) -> None:
        right = explain.slot_label
        labels = {"n": 0}

        def broken(role: int, after_: bool) -> str:
            labels["n"] += 1
            return "BOS" if labels["n"] % 7 == 3 else right(role, after_)

        patch.setattr(explain, "slot_label", broken)

    must_see(label_one_off, check_labels, llama, LONG, "oracle")


def test_the_second_bos_is_labelled_behind_all_copies(llama: LM) -> None:
    """Would catch a repeated prefix whose copies are counted as one."""
    check_labels(llama, LONG, "repeat(oracle,2)")


def test_two_prefills_of_like_parts_are_told_apart(llama: LM) -> None:
    """Would catch a prefill shown with another one's tokens."""
    both = Condition("both", Mix(truncation(QUERY), truncation(registry.STATIC_FACT)), "a test")
    text = explain.explain(llama, LONG, both)
    size = len(Case(llama, LONG).static)
    assert re.search(rf"prefix +{size} tokens, positions 1\.\.{size}:", text), text
