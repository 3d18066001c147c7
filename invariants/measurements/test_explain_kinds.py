"""Every kind of measurement explains itself, from the masks and tokens that its passes receive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from invariants.support.comparing import Fault, must_see
from kvcore import loading
from kvcore.conditions import switching
from kvcore.data.context_pairs.load import load_pairs
from kvcore.data.datasets import load_corpus
from kvcore.data.texts import load_texts
from kvcore.engine import forward
from kvcore.measurements import context_switch, divergence, explain, explain_kinds
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.context_switch import cases
from kvcore.measurements.continuations import load_continuations
from kvcore.measurements.kinds import context_switch as switch_kind
from kvcore.measurements.registry import all_kinds, kind_of
from kvcore.models.files import locate
from kvcore.models.lm import LM

NEEDS = {
    "answer_nll": ("bare", "random@lists"),
    "attention_sinks": ("bare", "keep_sink(random)"),
    "divergence": ("bare~random", "bare~bare"),
    "hidden_states": ("human", "greedy", "temperature(0.7)", "shuffled"),
    "context_switch": (
        "injection",
        "gradual(4)",
        "partial(8)",
        "flush",
        "noise",
        "free:injection",
        "free:oracle",
        "injection@own",
    ),
}
DATASETS = {
    "answer_nll": "docstrings",
    "attention_sinks": "docstrings",
    "divergence": "docstrings",
    "hidden_states": "pydoc",
    "context_switch": "word_problems",
}


@pytest.fixture(scope="module")
def lm() -> Iterator[LM]:
    """A small model, and fewer tokens where a model writes or is followed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switch_kind, "STEPS", 8)
        patch.setattr(switch_kind, "NEW_TOKENS", 6)
        patch.setattr(switch_kind, "OWN_TOKENS", 16)
        yield loading.load("tiny-llama", device="cpu")


def explanations(lm: LM, name: str, needs: tuple[str, ...]) -> dict[str, Any]:
    """Return what a kind explains, by need."""
    kind = kind_of(name)
    assert kind.explain is not None, f"{name} explains nothing"
    asked = MeasureRequest(
        locate(lm.name), lambda: lm, DATASETS[name], needs, 6, 0, None, Path("none")
    )
    shown = kind.explain(asked)
    return {each["condition"]: each for each in shown}


@pytest.mark.parametrize("name", sorted(all_kinds()))
def test_every_kind_explains_each_of_its_needs(lm: LM, name: str) -> None:
    """Catches a kind for which ``--kv-explain`` prints nothing, or a need that it leaves out."""
    shown = explanations(lm, name, NEEDS[name])
    assert list(shown) == [need.partition("@lists")[0] for need in NEEDS[name]]
    for need, each in shown.items():
        assert each["text"].startswith(f"{need}: "), need
        assert each["masks"], need
        for panel in each["masks"]:
            assert {len(row) for row in panel["mask"]} == {len(panel["slots"])}, panel["title"]
            assert panel["title"] in each["text"], "a mask that is not drawn"


# --- against what the model receives ------------------------------------------------------------

Truth = tuple[tuple[int, ...], ...]


def received(lm: LM, measure: Any) -> set[Truth]:
    """Return the distinct masks of single sequences that the model is handed meanwhile."""
    seen: set[Truth] = set()

    def note(_module: Any, _ids: Any, chosen: dict[str, Any]) -> None:
        mask = chosen["attention_mask"]
        allowed = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
        seen.add(tuple(tuple(row) for row in allowed.int().tolist()))

    handle = lm.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        measure()
    finally:
        handle.remove()
    return seen


def check_switch_masks(lm: LM, way: str) -> None:
    """Compare an explanation's masks with those of a measurement of the same switch.

    1. What `explain` draws of the way.
    2. What the model is handed when that way is followed, a sequence a pass.
    """
    pairs = load_pairs("word_problems", 6, 0).pairs
    changed = [pair for pair in pairs if pair.question != pair.alt_problem]
    pair = min(changed, key=lambda p: len(p.question + p.alt_problem))
    switch = switch_kind.switch_of(pair, 0)
    shown = explanations(lm, "context_switch", (way,))[way]
    drawn = {panel["mask"] for panel in shown["masks"]}
    followed = received(
        lm, lambda: context_switch.follow(lm, [switch], [way], steps=8, batch_tokens=1)
    )
    assert drawn <= followed, "a mask that the model does not receive"
    (panel,) = [p for p in shown["masks"] if p["title"].startswith("what is read")]
    injected = panel["slots"].count("injected")
    tokens = len(cases.tokenize_all(lm, [switch])[0].new)
    assert injected == {"ignore": 0, "partial(8)": injected}.get(way, tokens)


@pytest.mark.parametrize("way", ["injection", "flush", "partial(8)", "ignore", "noise"])
def test_switches_are_drawn_from_what_the_model_receives(lm: LM, way: str) -> None:
    """Catches a mask that is not the pass's, or an injected span of another length."""
    check_switch_masks(lm, way)


def draw_whole_masks(patch: pytest.MonkeyPatch) -> None:
    """Draw every token as if it saw all others."""
    right = explain.mask_panels

    def seeing(lm: LM, title: str, step: forward.ForwardInput, slots: tuple[str, ...]) -> Any:
        panels = right(lm, title, step, slots)
        return [
            replace(panel, mask=tuple(tuple(1 for _ in row) for row in panel.mask))
            for panel in panels
        ]

    patch.setattr(explain, "mask_panels", seeing)


def label_nothing_injected(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(switching, "SPANS", ("bos", "original", "original", "generated"))


@pytest.mark.parametrize("fault", [draw_whole_masks, label_nothing_injected])
def test_twin_switches(lm: LM, fault: Fault) -> None:
    """Would catch a check blind to another mask or to slots of another name."""
    must_see(fault, check_switch_masks, lm, "injection")


def check_pair(lm: LM) -> None:
    """Compare the numbers in a pair's explanation with those of its row on the same sample."""
    shown = explanations(lm, "divergence", ("bare~random",))["bare~random"]
    sample, _ = explain.on_one_sample(lm, load_corpus("docstrings"), ["bare", "random"], 0)
    row = divergence.between(lm, [sample], [("bare", "random")]).iloc[0]
    (said,) = re.findall(r"Jensen-Shannon (\S+) nats", shown["text"])
    assert float(said) == pytest.approx(row.js, rel=1e-2, abs=1e-7)
    (kept, either) = re.findall(r"kept of each: (\d+); of either: (\d+)", shown["text"])[0]
    assert int(kept) <= int(either) <= 2 * int(kept)


def test_a_pair_shows_the_divergence_of_its_row(lm: LM) -> None:
    """Catches an explanation with another sample's or another pair's number."""
    check_pair(lm)

    def back(patch: pytest.MonkeyPatch) -> None:
        other = SimpleNamespace(**{**vars(divergence), "js": divergence.kl})
        patch.setattr(explain_kinds, "divergence", other)

    must_see(back, check_pair, lm)


def check_texts(lm: LM) -> None:
    """Compare the parts of a source's explanation with the text that is measured."""
    shown = explanations(lm, "hidden_states", ("human", "shuffled"))
    texts = load_texts("pydoc").texts[: explain.CANDIDATES]
    for text in sorted(texts, key=lambda t: len(t.prompt + t.continuation)):
        written = load_continuations(lm, [text], ("human",)).texts
        if written:
            break
    for each in shown.values():
        (panel,) = each["masks"]
        parts = [panel["slots"].count(name) for name in ("bos", "prompt", "continuation")]
        assert parts == [1, len(written[0].prompt), len(written[0].continuation)]
    assert shown["human"]["text"] != shown["shuffled"]["text"]


def test_a_source_is_explained_on_a_text_that_is_measured(lm: LM) -> None:
    """Catches parts of other lengths than those that count; the twin drops the prompt."""
    check_texts(lm)

    def without_prompt(patch: pytest.MonkeyPatch) -> None:
        right = load_continuations

        def load(*args: Any, **kwargs: Any) -> Any:
            found = right(*args, **kwargs)
            return replace(found, texts=tuple(replace(t, prompt=()) for t in found.texts))

        patch.setattr(explain_kinds, "load_continuations", load)

    must_see(without_prompt, check_texts, lm)
