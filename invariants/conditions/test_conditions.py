"""Every condition is what its name says: recipes, spelling, sharing, targets, padding, passes.

Each property is a ``check_...`` function, and its twins break the production code and see it
fail. The oracle is :mod:`invariants.plain`, one sample and one ``DynamicCache`` at a time, on token
ids that are encoded here from the texts as the conditions' definition spells them.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from invariants.oracle import plain
from invariants.support import strategies
from invariants.support.comparing import (
    PREFILL_TOLERANCE,
    Fault,
    assert_close_per_layer,
    assert_rows_equal,
    assert_scores,
    in_one_batch,
    must_see,
)
from kvcore import errors, io, loading, tokenization
from kvcore.cache import kv_cache, masks, rope
from kvcore.conditions import parse, recipes, registry
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition, Document, Mix, Prefill, Recipe
from kvcore.conditions.registry import BARE, QUERY, primed, truncation
from kvcore.corpora import padding
from kvcore.corpora.sample import Sample
from kvcore.engine import batching, build, forward, one_pass, prepared, rope_probe
from kvcore.errors import KvError
from kvcore.measurements import answer_nll, answer_nll_rows, explain
from kvcore.models import tiny_configs
from kvcore.models.lm import LM

TWO_BASES = ("tiny-gemma3",)
TEXTS = (("past_query", "the mean of what"), ("surrogate(need)", "i need the mean"))
LONG = Sample(
    "what does the mean do",
    "it returns the sum of entries along an axis divided by the number of entries and nothing else",
    "the sample mean",
    texts=TEXTS,
)
SHORT = Sample("key", "<s> value", "prefix", texts=TEXTS)
DEPTH = 3  # layers of every tiny model

once = settings(max_examples=1, deadline=None)
few = settings(max_examples=5, deadline=None)
some = settings(max_examples=60, deadline=None)


# --- every condition against its plain route ----------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One sample as a plain route takes it; texts are encoded here, by the tokenizer alone."""

    lm: LM
    sample: Sample
    target: tuple[str, str] = ("\nQuery: {query}\nAnswer:", " {answer}")

    def ids(self, text: str) -> list[int]:
        read = self.lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(read["input_ids"])

    @property
    def question(self) -> list[int]:
        return self.ids(f"{self.sample.query}\n")

    @property
    def static(self) -> list[int]:
        return self.ids("What are the key facts I need to know?\n")

    @property
    def random(self) -> list[int]:
        ids = tokenization.random_prefix(
            self.lm.tokenizer, len(self.question), str(self.sample.id), seed=0
        )
        assert len(ids) == len(self.question)
        return list(ids)

    def own(self, name: str) -> list[int]:
        return self.ids(f"{dict(self.sample.texts)[name]}\n")

    @property
    def document(self) -> list[int]:
        joined = self.ids(f"{self.sample.query}\n{self.sample.passage}")
        return joined[len(self.question) :]

    @property
    def asked(self) -> tuple[list[int], list[int]]:
        prompt, answer = (
            text.replace("{query}", self.sample.query).replace("{answer}", self.sample.answer)
            for text in self.target
        )
        return self.ids(prompt), self.ids(answer)

    def run(self, route: Callable[..., list[float]], *before: Any, **more: Any) -> list[float]:
        """Run a plain route on what stands before the document, the document and the question."""
        return route(self.lm.model, self.lm.bos_id, *before, self.document, *self.asked, **more)


def full(prefix: Callable[[Case], list[int]]) -> Callable[[Case], list[float]]:
    return lambda c: c.run(plain.full_context_nlls, prefix(c))


def after(*texts: str) -> Callable[[Case], list[float]]:
    """Read texts behind the document, which all stays in sight."""
    return lambda c: plain.full_context_nlls(
        c.lm.model,
        c.lm.bos_id,
        [],
        [*c.document, *(i for t in texts for i in c.ids(t.format(query=c.sample.query)))],
        *c.asked,
    )


def dropped(prefix: Callable[[Case], list[int]]) -> Callable[[Case], list[float]]:
    return lambda c: c.run(plain.shifted_nlls, prefix(c))


def mixed(
    layers: Sequence[int] = range(DEPTH), share: float = 1.0, weight: float = 1.0
) -> Callable[[Case], list[float]]:
    return lambda c: c.run(
        plain.mixed_nlls,
        c.question,
        layers=layers,
        weight=weight,
        tokens=round(share * len(c.document)),
    )


def copies(times: int, seen: Sequence[int]) -> Callable[[Case], list[float]]:
    return lambda c: c.run(plain.blocks_nlls, [c.question] * times, isolated=True, seen=seen)


def question(c: Case) -> list[int]:
    return c.question


EXPECTED: Mapping[str, Callable[[Case], list[float]]] = {
    "bare": full(lambda _: []),
    "bos_only": lambda c: plain.bare_nlls(c.lm.model, c.lm.bos_id, [], *c.asked),
    "framed": full(lambda c: c.ids("Document:\n")),
    "bare_again": full(lambda _: []),
    "separator": after("\n\nRelated question: "),
    "random": dropped(lambda c: c.random),
    "oracle": dropped(question),
    "static_fact": dropped(lambda c: c.static),
    "static(procedure)": dropped(lambda c: c.ids("How do I do this step by step?\n")),
    "llm_surrogate(need)": dropped(lambda c: c.own("surrogate(need)")),
    "click_history(2)": dropped(lambda c: c.own("past_query") * 2),
    "repeat(oracle,3)": dropped(lambda c: c.question * 3),
    'literal("Read this.")': dropped(lambda c: c.ids("Read this.\n")),
    "full_context(oracle)": full(question),
    "full_context(repeat(random,2))": full(lambda c: c.random * 2),
    "one_base(oracle)": lambda c: c.run(plain.one_base_nlls, c.question),
    "no_reposition(oracle)": lambda c: c.run(plain.unturned_nlls, c.question),
    "reposition(oracle,model)": dropped(question),
    "reposition(random,float32)": dropped(lambda c: c.random),
    "rope_roundtrip(static_fact)": full(lambda _: []),
    "blocks(oracle,3,first)": copies(3, [0]),
    "blocks(oracle,3,last)": copies(3, [2]),
    "blocks(oracle,3,none)": copies(3, []),
    "blocks(oracle,2,all)": copies(2, [0, 1]),
    "suffix(oracle)": after("\n\nRelated question: ", "{query}\n"),
    "values_only(oracle)": mixed(),
    "values_early_layers(oracle,2)": mixed(range(2)),
    "values_early_layers(oracle,0.47)": mixed(range(1)),
    "values_layer(oracle,1)": mixed([1]),
    "values_early_positions(oracle,0.25)": mixed(share=0.25),
    "interp(oracle,0.25)": mixed(weight=0.25),
    "qvi(0.1)": lambda c: c.run(plain.injected_nlls, c.question, layers=range(2), weight=0.1),
    'beacons("go",5)': lambda c: c.run(plain.beacon_nlls, c.ids("go\n"), 5),
}
FURTHER: Mapping[str, Callable[[Case], list[float]]] = {  # too long for every drawn sample
    "beacons(oracle,8)": lambda c: c.run(plain.beacon_nlls, c.question, 8),
    "beacons(oracle,1000)": dropped(question),
}


def test_every_name_is_tried() -> None:
    """Each condition and each prefix that can be spelled has a plain route here."""

    def heads(names: Sequence[str]) -> set[str]:
        return {name.split("(")[0] for name in names}

    assert heads(list(EXPECTED)) == heads(registry.NAMES)


def check_conditions_equal_plain(
    lm: LM, batch: Sequence[Sample], expected: Mapping[str, Callable[[Case], list[float]]]
) -> None:
    """Score all conditions at once, caches shared, and each by its plain route alone."""
    rows = in_one_batch(lm, batch, list(expected), "cache")
    for (sample, name), row in zip(
        itertools.product(batch, expected), rows.itertuples(), strict=True
    ):
        assert row.status == "ok", f"{name}: {row.status}"
        assert (row.sample_id, row.condition) == (sample.id, name)
        assert_scores(row.token_nlls, expected[name](Case(lm, sample)), name)


@once
@given(batch=strategies.batches(2, max_words=8))
@example(batch=[LONG, SHORT])
def test_every_condition_equals_its_plain_route(lm: LM, batch: list[Sample]) -> None:
    """Hybrids built from shared prefills score as each does when built from scratch by hand."""
    check_conditions_equal_plain(lm, batch, EXPECTED)


def test_long_conditions_equal_their_plain_route(lm: LM) -> None:
    """Beacons of the query's length too, and those whose stride no document reaches."""
    check_conditions_equal_plain(lm, [LONG, SHORT], FURTHER)


def check_routes_agree(lm: LM, batch: Sequence[Sample], names: Sequence[str]) -> None:
    """Score each condition by itself on the default route, and all of them through caches."""
    together = in_one_batch(lm, batch, names, "cache")
    for name in names:
        alone = in_one_batch(lm, batch, [name], "auto")
        assert_rows_equal(alone, together[together.condition == name], f"{name} by itself")


@once
@given(batch=strategies.batches(2, max_words=8))
@example(batch=[LONG, SHORT])
def test_one_pass_and_caches_agree_on_every_condition(lm: LM, batch: list[Sample]) -> None:
    """Which route a score takes changes it by rounding only."""
    check_routes_agree(lm, batch, list(EXPECTED))


# What is broken in the production code; each takes monkeypatch and leaves one fault behind.


def changing_mix(name: str, change: Callable[..., tuple[Any, ...]]) -> Fault:
    """Make a fault that changes what `KVCache.mix` is given."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = kv_cache.KVCache.mix
        patch.setattr(kv_cache.KVCache, "mix", lambda self, *given_: right(self, *change(*given_)))

    fault.__name__ = name
    return fault


def changing_layers(name: str, change: Callable[[range], range]) -> Fault:
    """Make a fault that changes which layers `KVCache.with_values` takes."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = kv_cache.KVCache.with_values
        patch.setattr(
            kv_cache.KVCache,
            "with_values",
            lambda self, other, layers: right(self, other, change(layers)),
        )

    fault.__name__ = name
    return fault


take_the_other_weight = changing_mix(
    "take_the_other_weight", lambda other, index, slots, weight: (other, index, slots, 1 - weight)
)
mix_further_layers = changing_layers(  # by two: the values of layer 0 depend on no prefix
    "mix_further_layers", lambda layers: range(layers.start, min(layers.stop + 2, DEPTH))
)
only_from_layer_zero = changing_layers(
    "only_from_layer_zero", lambda layers: layers if layers.start == 0 else range(0)
)
values_of_the_neighbour = changing_mix(
    "values_of_the_neighbour",
    lambda other, index, slots, weight: (other, (index - 1).clamp(min=0), slots, weight),
)
values_of_the_first_slots = changing_mix(
    "values_of_the_first_slots",
    lambda other, index, slots, weight: (
        other,
        torch.arange(index.shape[1]).clamp(max=other.slots - 1).expand_as(index),
        slots,
        weight,
    ),
)
mix_bos_too = changing_mix(
    "mix_bos_too",
    lambda other, index, slots, weight: (
        other,
        index,
        slots | (torch.arange(slots.shape[1]) == 0),
        weight,
    ),
)
last_positions_first = changing_mix(
    "last_positions_first",
    lambda other, index, slots, weight: (other, index.flip(1), slots.flip(1), weight),
)


def mix_keys_too(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.mix

    def broken(self: kv_cache.KVCache, other: kv_cache.KVCache, *more: Any) -> kv_cache.KVCache:
        swapped = right(replace(self, values=self.keys), replace(other, values=other.keys), *more)
        return replace(right(self, other, *more), keys=swapped.values)

    some = kv_cache.KVCache.with_values
    patch.setattr(kv_cache.KVCache, "mix", broken)
    patch.setattr(
        kv_cache.KVCache,
        "with_values",
        lambda self, other, layers: replace(some(self, other, layers), keys=other.keys),
    )


def count_bos_into_the_mean(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.mean
    patch.setattr(kv_cache.KVCache, "mean", lambda self, _: right(self, self.real))


def show_all_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(one_pass, "hidden_copies", lambda _see, _copies: [])


def show_the_other_end(patch: pytest.MonkeyPatch) -> None:
    right = one_pass.hidden_copies
    other = {"first": "last", "last": "first", "none": "none", "all": "all"}
    patch.setattr(one_pass, "hidden_copies", lambda see, found: right(other[see], found))


def let_copies_see_each_other(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forward, "blocked_pairs", lambda *_: None)


def leave_positions_old(patch: pytest.MonkeyPatch) -> None:
    """Ask where the untruncated cache would have ended."""
    patch.setattr(kv_cache.KVCache, "renumber", lambda self, _: self)


def turn_them_anyway(patch: pytest.MonkeyPatch) -> None:
    right = build._moved
    patch.setattr(
        build,
        "_moved",
        lambda lm, recipe, *more: right(
            lm,
            replace(recipe, rope_base="own") if isinstance(recipe, recipes.Reposition) else recipe,
            *more,
        ),
    )


def move_chunks_alike(patch: pytest.MonkeyPatch) -> None:
    """Close the first gap only, as if the prefix stood there once."""
    right = kv_cache.KVCache.reposition

    def broken(
        self: kv_cache.KVCache, lm: LM, plan: Any, deltas: torch.Tensor, **more: Any
    ) -> kv_cache.KVCache:
        first = deltas[:, 1:2].expand_as(deltas) * (deltas != 0)
        done = right(self, lm, plan, first, **more)
        return replace(done, positions=self.positions + deltas)

    patch.setattr(kv_cache.KVCache, "reposition", broken)


def lay_out(name: str, change: Callable[[Prefill], Prefill]) -> Fault:
    """Make a fault that reads a prefill's parts otherwise."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = prepared.PreparedSample.leaf
        patch.setattr(prepared.PreparedSample, "leaf", lambda self, leaf: right(self, change(leaf)))

    fault.__name__ = name
    return fault


read_parts_in_reverse = lay_out(
    "read_parts_in_reverse", lambda leaf: replace(leaf, parts=leaf.parts[::-1])
)
one_beacon_only = lay_out(
    "one_beacon_only",
    lambda leaf: replace(
        leaf,
        parts=tuple(
            replace(p, every=1000) if isinstance(p, Document) and p.every else p for p in leaf.parts
        ),
    ),
)


def one_copy_only(patch: pytest.MonkeyPatch) -> None:
    right = tokenization.prefix_ids
    patch.setattr(
        tokenization,
        "prefix_ids",
        lambda tok, read, prefix, seed: right(tok, read, replace(prefix, times=1), seed),
    )


def hand_caches_out_in_reverse(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.rows
    patch.setattr(kv_cache.KVCache, "rows", lambda self, index: right(self, list(index)[::-1]))


def round_depth_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        build,
        "layer_range",
        lambda layers, depth: range(
            *(n if isinstance(n, int) else min(depth, int(n * depth) + 1) for n in layers)
        ),
    )


TWINS: tuple[tuple[str, Fault, str], ...] = (
    ("other weight", take_the_other_weight, "interp(oracle,0.25)"),
    ("other weight", take_the_other_weight, "qvi(0.1)"),
    ("further layers", mix_further_layers, "values_early_layers(oracle,2)"),
    ("further layers", mix_further_layers, "values_layer(oracle,1)"),
    ("depth rounded up", round_depth_up, "values_early_layers(oracle,0.47)"),
    ("values of the neighbour", values_of_the_neighbour, "values_only(oracle)"),
    ("values of the prefix", values_of_the_first_slots, "values_only(oracle)"),
    ("BOS mixed", mix_bos_too, "qvi(0.1)"),
    ("from the end", last_positions_first, "values_early_positions(oracle,0.25)"),
    ("keys mixed", mix_keys_too, "values_only(oracle)"),
    ("BOS in the mean", count_bos_into_the_mean, "qvi(0.1)"),
    ("all copies seen", show_all_copies, "blocks(oracle,3,none)"),
    ("the other copy seen", show_the_other_end, "blocks(oracle,3,first)"),
    ("the other copy seen", show_the_other_end, "blocks(oracle,3,last)"),
    ("copies not isolated", let_copies_see_each_other, "blocks(oracle,3,none)"),
    ("old positions", leave_positions_old, "no_reposition(oracle)"),
    ("turned anyway", turn_them_anyway, "no_reposition(oracle)"),
    ("chunks moved alike", move_chunks_alike, 'beacons("go",5)'),
    ("one beacon", one_beacon_only, 'beacons("go",5)'),
    ("suffix first", read_parts_in_reverse, "suffix(oracle)"),
    ("suffix first", read_parts_in_reverse, "separator"),
    ("one copy", one_copy_only, "repeat(oracle,3)"),
    ("one copy", one_copy_only, "click_history(2)"),
    ("caches swapped", hand_caches_out_in_reverse, "values_only(oracle)"),
)


@pytest.mark.parametrize(
    ("fault", "name"), [pytest.param(f, n, id=f"{what}-{n}") for what, f, n in TWINS]
)
def test_twin_conditions(llama: LM, fault: Fault, name: str) -> None:
    """Each way of carrying a recipe out wrongly is seen in the score of a condition with it."""
    must_see(fault, check_conditions_equal_plain, llama, [LONG, SHORT], {name: EXPECTED[name]})


@pytest.mark.parametrize("name", TWO_BASES)
def test_twin_one_base(name: str) -> None:
    """The artifact is seen to be missing where all layers get their own base."""
    lm = loading.load(name, device="cpu")
    only = {"one_base(oracle)": EXPECTED["one_base(oracle)"]}
    must_see(turn_them_anyway, check_conditions_equal_plain, lm, [LONG, SHORT], only)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (take_the_other_weight, "interp(oracle,0.25)"),
        (hand_caches_out_in_reverse, "values_only(oracle)"),
    ],
)
def test_twin_routes(llama: LM, fault: Fault, name: str) -> None:
    """A fault that only sharing brings in is seen between the routes."""
    must_see(
        fault,
        check_conditions_equal_plain,
        llama,
        [LONG, SHORT],
        {"bare": EXPECTED["bare"], name: EXPECTED[name]},
    )


def question_a_position_late(patch: pytest.MonkeyPatch) -> None:
    right = forward.pad_ids
    patch.setattr(
        forward,
        "pad_ids",
        lambda lm, s, starts, past=None: right(
            lm, s, [n + (past is not None) for n in starts], past
        ),
    )


@pytest.mark.parametrize("name", ["oracle", "full_context(oracle)", "blocks(oracle,3,first)"])
@pytest.mark.parametrize("fault", [question_a_position_late])
def test_twin_routes_agree(llama: LM, fault: Fault, name: str) -> None:
    """A fault of one route alone is seen in the comparison of the two."""
    must_see(fault, check_routes_agree, llama, [LONG, SHORT], [name])


# --- caches -------------------------------------------------------------------------------------


def caches(lm: LM, sample: Sample, *recipes: Recipe | str) -> list[kv_cache.KVCache]:
    """Build caches of one sample that share their prefills."""
    made: dict[Recipe, kv_cache.KVCache] = {}
    built = []
    for recipe in recipes:
        given_ = condition(recipe) if isinstance(recipe, str) else Condition("", recipe, "")
        ready = prepared.prepare_one(lm, sample, given_)
        built.append(build.build(lm, given_.recipe, made, [ready]))
    return built


def assert_same_cache(found: kv_cache.KVCache, wanted_: kv_cache.KVCache, what: str) -> None:
    """Compare two caches bit for bit."""
    __tracebackhide__ = True
    assert torch.equal(found.positions, wanted_.positions), f"{what}: other positions"
    assert torch.equal(found.real, wanted_.real), f"{what}: other slots are real"
    for layer in range(DEPTH):
        assert torch.equal(found.keys[layer], wanted_.keys[layer]), f"{what}: keys of {layer}"
        assert torch.equal(found.values[layer], wanted_.values[layer]), f"{what}: values of {layer}"


def check_mixing_with_itself(lm: LM, sample: Sample, weight: float) -> None:
    """Demand that a cache mixed with itself stays as it is, in every bit."""
    for own in (BARE, truncation(QUERY), primed(QUERY)):
        mixed_, alone = caches(lm, sample, Mix(own, own, weight=weight), own)
        assert_same_cache(mixed_, alone, f"mixed with itself at {weight}")


@few
@given(sample=strategies.samples(max_words=8), weight=st.floats(0, 1))
def test_mixing_a_cache_with_itself_changes_nothing(lm: LM, sample: Sample, weight: float) -> None:
    """The values of a cache, mixed into that very cache, are there already."""
    check_mixing_with_itself(lm, sample, weight)


def check_endpoints(lm: LM, sample: Sample) -> None:
    """Demand bare at weight, depth and share 0, and values_only at 1."""
    for name, least, most in (
        ("interp", "0", "1"),
        ("interp", "0.0", "1.0"),
        ("values_early_layers", "0", str(DEPTH)),
        ("values_early_layers", "0.0", "1.0"),
        ("values_early_positions", "0", "1"),
    ):
        bare, none, all_, every = caches(
            lm,
            sample,
            "bare",
            f"{name}(oracle,{least})",
            f"{name}(oracle,{most})",
            "values_only(oracle)",
        )
        assert_same_cache(none, bare, f"{name} {least}")
        assert_same_cache(all_, every, f"{name} {most}")
        assert all(map(torch.equal, every.keys, bare.keys)), "mixing values changed keys"
        assert not torch.equal(bare.values[-1], every.values[-1]), "priming changed no value"


@few
@given(sample=strategies.samples(max_words=8))
def test_the_endpoints_are_bare_and_values_only(lm: LM, sample: Sample) -> None:
    """Nothing mixed in is bare; everything mixed in is values_only, bit for bit."""
    check_endpoints(lm, sample)


def check_layers(lm: LM, sample: Sample) -> None:
    """Compare each single layer with the caches it is mixed from, and the sweep with their sum."""
    bare, full_ = caches(lm, sample, "bare", "full_context(oracle)")
    first = full_.slots - bare.slots + 1
    swept: Recipe = BARE
    for layer in range(DEPTH):
        (one,) = caches(lm, sample, f"values_layer(oracle,{layer})")
        for i in range(DEPTH):
            document = full_.values[i][:, :, first:] if i == layer else bare.values[i][:, :, 1:]
            assert torch.allclose(one.values[i][:, :, 1:], document, rtol=0, atol=1e-5), (
                f"values_layer {layer}: values of layer {i}"
            )
            assert torch.allclose(one.keys[i], bare.keys[i], rtol=0, atol=1e-5)
        swept = Mix(swept, primed(QUERY), layers=(layer, layer + 1))
        together, early = caches(lm, sample, swept, f"values_early_layers(oracle,{layer + 1})")
        assert_same_cache(together, early, f"layers 0 to {layer} one by one")


@few
@given(sample=strategies.samples(max_words=8))
def test_single_layers_add_up(lm: LM, sample: Sample) -> None:
    """Primed values in one layer touch that layer alone; one by one they give early_layers."""
    check_layers(lm, sample)


# Layers below the stop, for the published 16 and 8 of Gemma 3 4B's 34 and models of other depths.
PUBLISHED_DEPTHS = (
    (34, 0.47, 16),
    (34, 0.25, 8),
    (30, 0.47, 14),
    (18, 0.47, 8),
    (34, 16, 16),
    (34, 0.5, 17),
    (18, 0.5, 9),
    (3, 1, 1),
    (3, 1.0, 3),
    (3, 0, 0),
    (3, 0.0, 0),
)


def check_depths(expected: Sequence[tuple[int, float, int]]) -> None:
    """Compare shares of the depth, and counts of layers, with the layers that they mean."""
    for depth, stop, count in expected:
        assert build.layer_range((0, stop), depth) == range(count), f"{stop} of {depth} layers"


def test_a_share_of_the_depth_is_the_nearest_layer() -> None:
    """A whole number is a layer, a share is of whatever depth the model has."""
    check_depths(PUBLISHED_DEPTHS)


def test_twin_depths() -> None:
    """A share that is rounded up is seen."""
    must_see(round_depth_up, check_depths, PUBLISHED_DEPTHS)


def test_a_layer_that_the_model_lacks_is_refused(llama: LM) -> None:
    """Sixteen layers of three are an error in one line, not all of them."""
    for name in ("values_early_layers(oracle,16)", f"values_layer(oracle,{DEPTH})"):
        with pytest.raises(KvError, match=f"the model has {DEPTH}"):
            answer_nll.score(llama, [LONG], [name])


def check_missing_texts(lm: LM, sample: Sample) -> None:
    """Demand the reason for a text that a sample lacks, and scores for all else."""
    rows = answer_nll.score(
        lm,
        [replace(sample, texts=())],
        ["click_history(2)", "bare", "full_context(llm_surrogate(need))"],
    )
    assert rows.status.tolist() == [
        "the sample has no text 'past_query'",
        "ok",
        "the sample has no text 'surrogate(need)'",
    ]
    assert rows.nll.isna().tolist() == [True, False, True]


def test_a_text_that_the_sample_lacks_is_a_reason(llama: LM) -> None:
    """A sample without a past query is counted for that condition alone."""
    check_missing_texts(llama, LONG)


def test_twin_missing_texts(llama: LM) -> None:
    """The query in the place of the text that is missing is seen."""

    def take_the_query(patch: pytest.MonkeyPatch) -> None:
        right = tokenization._one_copy
        patch.setattr(
            tokenization,
            "_one_copy",
            lambda tok, read, prefix, seed: right(
                tok, read, QUERY if prefix.kind == "own" else prefix, seed
            ),
        )

    must_see(take_the_query, check_missing_texts, llama, LONG)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (values_of_the_neighbour, check_mixing_with_itself),
        (mix_keys_too, check_endpoints),
        (take_the_other_weight, check_endpoints),
        (mix_further_layers, check_endpoints),
        (mix_further_layers, check_layers),
        (only_from_layer_zero, check_layers),
        (values_of_the_first_slots, check_layers),
    ],
)
def test_twin_mixing(lm: LM, fault: Fault, check: Callable[..., None]) -> None:
    """Values of another slot, layer or weight, or keys mixed along, are no identity."""
    must_see(fault, check, lm, LONG, *([0.5] if check is check_mixing_with_itself else []))


def check_suffix_leaves_the_passage(lm: LM, sample: Sample) -> None:
    """Compare BOS and document under a suffix with the bare cache, and count what follows."""
    case = Case(lm, sample)
    separator = len(case.ids("\n\nRelated question: "))
    for name, more in (
        ("separator", separator),
        ("suffix(oracle)", separator + len(case.question)),
    ):
        bare, found = caches(lm, sample, "bare", name)
        assert found.slots == bare.slots + more
        assert found.positions.tolist() == [list(range(found.slots))]
        for got, own, what in (
            (found.keys, bare.keys, "keys"),
            (found.values, bare.values, "values"),
        ):
            assert_close_per_layer(
                [x[:, :, : bare.slots] for x in got],
                own,
                PREFILL_TOLERANCE,
                f"{name}: the passage's {what}",
            )


@few
@given(sample=strategies.samples(max_words=8))
def test_a_suffix_leaves_the_passage_untouched(lm: LM, sample: Sample) -> None:
    """What is read after the document changes nothing in it, to rounding of another length."""
    check_suffix_leaves_the_passage(lm, sample)


def see_the_future(patch: pytest.MonkeyPatch) -> None:
    right = masks.visible

    def broken(
        q: torch.Tensor, k: torch.Tensor, real: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        return right(q, k, real, window) | real[:, None, None, :]

    patch.setattr(masks, "visible", broken)


@pytest.mark.parametrize("fault", [see_the_future, read_parts_in_reverse])
def test_twin_suffix(lm: LM, fault: Fault) -> None:
    """A passage that looks ahead, or comes after its suffix, is seen."""
    must_see(fault, check_suffix_leaves_the_passage, lm, LONG)


def check_copies_are_isolated(lm: LM, sample: Sample, times: int, which: int) -> None:
    """Change one copy's tokens; demand that every other copy's keys and values stay."""
    given_ = condition(f"blocks(oracle,{times},none)")
    ready = prepared.prepare_one(lm, sample, given_)
    ((prefix, ids),) = [item for item in ready.prefixes.items() if item[1]]
    each = len(ids) // times
    start, stop = which * each, (which + 1) * each
    other = (*ids[:start], *(3 + (i + 5) % 300 for i in ids[start:stop]), *ids[stop:])
    changed = replace(ready, prefixes={**ready.prefixes, prefix: other})
    own, moved = (build.build(lm, given_.recipe, {}, [one]) for one in (ready, changed))
    kept = [i for i in range(1 + len(ids)) if not start < i <= stop]
    for a, b, what in ((own.keys, moved.keys, "keys"), (own.values, moved.values, "values")):
        assert_close_per_layer(
            [x[:, :, kept] for x in b],
            [x[:, :, kept] for x in a],
            PREFILL_TOLERANCE,
            f"{what} of BOS and the other copies",
        )
        touched = slice(start + 1, stop + 1)
        assert not torch.equal(a[0][:, :, touched], b[0][:, :, touched]), "nothing was changed"


@few
@given(
    sample=strategies.samples(max_words=8),
    at=st.integers(2, 3).flatmap(
        lambda times: st.tuples(st.just(times), st.integers(0, times - 1))
    ),
)
def test_block_diagonal_copies_do_not_influence_each_other(
    lm: LM, sample: Sample, at: tuple[int, int]
) -> None:
    """Whatever one copy says, the others' keys and values are the same."""
    check_copies_are_isolated(lm, sample, *at)


def test_twin_isolation(lm: LM) -> None:
    """Copies that do see each other are seen."""
    must_see(let_copies_see_each_other, check_copies_are_isolated, lm, LONG, 2, 0)


def check_positions(lm: LM, sample: Sample, names: Sequence[str]) -> None:
    """Demand slots at 0, 1, 2, ..., one document's worth of document, the query right behind."""
    case = Case(lm, sample)
    for name in names:
        ready = prepared.prepare_one(lm, sample, condition(name))
        (cache,) = caches(lm, sample, name)
        roles = ready.roles(condition(name).recipe)
        documents = 0 if name == "bos_only" else len(case.document)
        assert cache.positions.tolist() == [list(range(len(roles)))], f"{name}: positions"
        assert roles.count(prepared.DOCUMENT) == documents, f"{name}: document slots"
        assert roles.count(prepared.BOS) == 1, f"{name}: BOS slots"
        assert roles[0] == prepared.BOS, f"{name}: BOS is not the first slot"
        step = build.query_input(lm, cache, [ready])
        start = len(roles)
        asked = [*case.asked[0], *case.asked[1][:-1]]
        assert step.ids.tolist() == [asked], f"{name}: question"
        assert step.positions.tolist() == [list(range(start, start + len(asked)))], name


@few
@given(sample=strategies.samples(max_words=8))
def test_slots_count_from_zero_and_the_query_follows(llama: LM, sample: Sample) -> None:
    """Whatever was dropped, the cache has no gap, and none comes before the question."""
    check_positions(llama, sample, list(EXPECTED))


@pytest.mark.parametrize(
    ("fault", "name"),
    [(question_a_position_late, "oracle"), (leave_positions_old, "no_reposition(oracle)")],
)
def test_twin_positions(llama: LM, fault: Fault, name: str) -> None:
    """A gap before the question, or positions left as they were, are seen."""
    must_see(fault, check_positions, llama, LONG, [name])


def check_one_base(lm: LM, sample: Sample, two: bool) -> None:
    """Demand other keys where a model has two bases, and the same bits where it has one."""
    own, one = caches(lm, sample, "oracle", "one_base(oracle)")
    assert all(map(torch.equal, own.values, one.values))
    kinds = masks.layer_kinds(lm)
    for layer, kind in enumerate(kinds):
        same = torch.equal(own.keys[layer], one.keys[layer])
        assert same != (two and kind == masks.SLIDING), f"layer {layer}, {kind}"


def test_one_base_differs_on_two_base_models_only(lm: LM) -> None:
    """The artifact control is the very cache wherever there is but one base."""
    check_one_base(lm, LONG, lm.name in TWO_BASES)


def turn_with_the_sliding_base(patch: pytest.MonkeyPatch) -> None:
    right = rope.rotation
    patch.setattr(rope, "rotation", lambda lm, kind, d: right(lm, kind and masks.SLIDING, d))


def turn_one_base_twice_as_far(patch: pytest.MonkeyPatch) -> None:
    right = kv_cache.KVCache.reposition
    patch.setattr(
        kv_cache.KVCache,
        "reposition",
        lambda self, lm, plan, deltas, **more: right(
            self, lm, plan, deltas * (1 + (more.get("one_base") is not None)), **more
        ),
    )


@pytest.mark.parametrize("name", TWO_BASES)
@pytest.mark.parametrize("fault", [turn_them_anyway, turn_with_the_sliding_base])
def test_twin_one_base_cache(name: str, fault: Fault) -> None:
    """Own bases for all layers, or the wrong one base, are seen."""
    must_see(fault, check_one_base, loading.load(name, device="cpu"), LONG, True)


def test_twin_one_base_where_there_is_one(llama: LM) -> None:
    """A control that does anything else is seen on a model with one base."""
    must_see(turn_one_base_twice_as_far, check_one_base, llama, LONG, False)


# One rotation has two products and a sum per dimension; the cosines are rounded as well.
ROUNDINGS = {"bfloat16": 4 * 2.0**-8, "float16": 4 * 2.0**-11}


def check_precision(name: str, dtype: str, sample: Sample) -> None:
    """Demand equal bits in float32, and another rounding, no more, in 16 bits."""
    lm = loading.load(name, device="cpu", dtype=dtype)
    exact, coarse = caches(lm, sample, "reposition(oracle,float32)", "reposition(oracle,model)")
    assert all(map(torch.equal, exact.values, coarse.values)), "values changed"
    if dtype == "float32":
        assert_same_cache(coarse, exact, "the model's precision is float32")
        return
    assert coarse.keys[0].dtype == getattr(torch, dtype)
    assert not all(map(torch.equal, exact.keys, coarse.keys)), "no rounding anywhere"
    assert_close_per_layer(
        [k.float() for k in coarse.keys],
        [k.float() for k in exact.keys],
        ROUNDINGS[dtype],
        "keys turned in 16 bits",
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", tiny_configs.NAMES)
def test_precision_of_the_rotation(name: str, dtype: str) -> None:
    """float32 and the model's precision are one in a float32 model, and a rounding apart else."""
    check_precision(name, dtype, LONG)


def changing_precision(name: str, change: Callable[[Any], Any]) -> Fault:
    def fault(patch: pytest.MonkeyPatch) -> None:
        right = rope.rotate
        patch.setattr(
            rope,
            "rotate",
            lambda k, c, s, pairing, precision=None: right(k, c, s, pairing, change(precision)),
        )

    fault.__name__ = name
    return fault


@pytest.mark.parametrize(
    ("dtype", "fault"),
    [
        ("float32", changing_precision("bfloat16", lambda p: p and torch.bfloat16)),
        ("bfloat16", changing_precision("float32", lambda _: None)),
        ("float16", changing_precision("bfloat16", lambda p: p and torch.bfloat16)),
    ],
)
def test_twin_precision(dtype: str, fault: Fault) -> None:
    """A precision that is ignored, or coarser than the model's, is seen."""
    must_see(fault, check_precision, "tiny-llama", dtype, LONG)


def check_beacon_cache(lm: LM, sample: Sample, text: str, every: int) -> None:
    """Compare a beaconed cache with one in which each chunk was prefilled where it belongs."""
    case = Case(lm, sample)
    (found,) = caches(lm, sample, f"beacons({json.dumps(text)},{every})")
    keys, values = zip(
        *plain.beacon_layers(lm.model, lm.bos_id, case.ids(f"{text}\n"), every, case.document),
        strict=True,
    )
    assert found.positions.tolist() == [list(range(1 + len(case.document)))]
    assert_close_per_layer(found.keys, keys, PREFILL_TOLERANCE, "keys behind beacons")
    assert_close_per_layer(found.values, values, PREFILL_TOLERANCE, "values behind beacons")


@few
@given(sample=strategies.samples(max_words=8), every=st.integers(4, 30))
@example(sample=LONG, every=7)
def test_beacons_move_each_chunk_by_its_own_gap(lm: LM, sample: Sample, every: int) -> None:
    """Every chunk is as if prefilled at its final position, with all before it in sight."""
    check_beacon_cache(lm, sample, "go", every)


@pytest.mark.parametrize("fault", [move_chunks_alike, one_beacon_only])
def test_twin_beacons(lm: LM, fault: Fault) -> None:
    """One move for all chunks, or one beacon for all, is seen."""
    must_see(fault, check_beacon_cache, lm, LONG, "go", 7)


# --- padding ------------------------------------------------------------------------------------

POOL = tuple(
    Sample(
        f"what is {i}",
        f"number {i} is divided by nothing else (x) 3.14",
        "an axis",
        id=f"p{i}",
        cluster=f"c{i % 3}",
    )
    for i in range(9)
)
PADDED = replace(LONG, id="padded", cluster="c1")


def check_padding(lm: LM, sample: Sample, pool: Sequence[Sample], length: int) -> None:
    """Pad one sample, and compare its texts and its tokens with its own and the pool's."""
    (made,) = padding.lengthened([sample], pool, length, seed=4)
    again = padding.lengthened([*pool, sample], pool[::-1], length, seed=4)[-1]
    assert made == again, "the order of the pool, or another sample, changed the padding"
    others = [p.passage for p in pool if p.cluster != sample.cluster]
    assert set(made.padding) <= set(others), "padding from the sample's own cluster"
    assert (made.id, made.length, made.cluster) == (f"{sample.id}@{length}", length, sample.cluster)
    own, read = (tokenization.tokenize(lm.tokenizer, s) for s in (sample, made))
    size = len(own.document)
    assert len(read.document) == length, "another length than the one asked for"
    assert read.document[:size] == own.document, "the passage is not first, or not the same"
    behind = [i for text in made.padding for i in Case(lm, made).ids(f"\n{text}")]
    assert list(read.document[size:]) == behind[: length - size], "other padding"
    for part in ("query_prefix", "prompt", "answer", "clean_boundary", "texts"):
        assert getattr(read, part) == getattr(own, part), f"padding changed {part}"
    rows = answer_nll.score(lm, [made], ["bare", "static_fact", "random"])
    case = Case(lm, made)
    assert rows.doc_len.tolist() == [length] * 3
    assert rows.prefix_len.tolist() == [0, len(case.static), len(case.question)]
    wanted_ = plain.bare_nlls(lm.model, lm.bos_id, list(read.document), *case.asked)
    assert_scores(rows.token_nlls[0], wanted_, "a padded document")


@few
@given(
    sample=strategies.samples(max_words=8),
    order=st.permutations(range(len(POOL))),
    more=st.integers(0, 60),
)
@example(sample=PADDED, order=list(range(len(POOL))), more=60)
def test_padding_follows_the_passage(
    llama: LM, sample: Sample, order: list[int], more: int
) -> None:
    """The passage's own ids, then unrelated passages up to the length; nothing else changes."""
    length = len(Case(llama, sample).document) + more
    check_padding(llama, sample, [POOL[i] for i in order], length)


Ids = tuple[int, ...]


def change_padded(name: str, change: Callable[[Ids, Ids], Ids]) -> Fault:
    """Make a fault that changes a padded document, given the own document as well."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = tokenization._padded
        patch.setattr(
            tokenization, "_padded", lambda tok, doc, sample: change(doc, right(tok, doc, sample))
        )

    fault.__name__ = name
    return fault


def pad_from_the_own_cluster(patch: pytest.MonkeyPatch) -> None:
    right = padding._padded
    patch.setattr(
        padding,
        "_padded",
        lambda sample, *more: replace(
            right(replace(sample, cluster="none"), *more), cluster=sample.cluster
        ),
    )


def pad_in_the_pools_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(io, "digest", lambda *_: "")


def pad_by_the_place_in_the_list(patch: pytest.MonkeyPatch) -> None:
    right = padding._padded
    count = itertools.count()
    patch.setattr(
        padding,
        "_padded",
        lambda sample, pool, length, seed: right(sample, pool, length, seed + next(count)),
    )


@pytest.mark.parametrize(
    "fault",
    [
        change_padded("padding first", lambda doc, made: made[len(doc) :] + doc),
        change_padded("a token short", lambda _, made: made[1:]),
        change_padded("another token", lambda doc, made: (*doc, *made[len(doc) + 1 :], 9)),
        pad_from_the_own_cluster,
        pad_in_the_pools_order,
        pad_by_the_place_in_the_list,
    ],
)
def test_twin_padding(llama: LM, fault: Fault) -> None:
    """Padding first, a token short, other padding, a related passage or another order is seen."""
    length = len(Case(llama, PADDED).document) + 60
    must_see(fault, check_padding, llama, PADDED, POOL, length)


def check_unpaddable(lm: LM, sample: Sample) -> None:
    """Demand a reason, and no score, where the length cannot be met."""
    own = len(Case(lm, sample).document)
    short, dry = (
        replace(sample, length=own - 1, padding=("x",) * 9),
        replace(sample, length=own + 40, padding=("x",)),
    )
    rows = answer_nll.score(lm, [short, dry], ["bare"])
    assert rows.status.tolist() == [
        f"longer than {own - 1} tokens before any padding",
        f"not enough padding for {own + 40} tokens",
    ]
    assert rows.nll.isna().all()


def test_what_cannot_be_padded_is_counted(llama: LM) -> None:
    """A passage longer than the length, or too little padding, is a reason for no score."""
    check_unpaddable(llama, LONG)


def test_twin_unpaddable(llama: LM) -> None:
    """A document that is left at its own length is seen."""

    def keep_the_length(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(tokenization, "_padded", lambda _tok, doc, _sample: doc)

    must_see(keep_the_length, check_unpaddable, llama, LONG)


# --- targets ------------------------------------------------------------------------------------

TARGET_TEXTS = {
    "answer": ("\nQuery: {query}\nAnswer:", " {answer}"),
    "answer_question": ("\nQuestion: {query}\nAnswer:", " {answer}"),
    "answer_plain": ("\n{query}\n", "{answer}"),
    "qdoc": ("\nThis document is about:", " {query}"),
    "relevance": (
        "\nQuery: {query}\nIs this document relevant?",
        " Yes, this document is relevant to the query",
    ),
}
TARGET_CONDITIONS = ("bare", "oracle", "values_only(oracle)", "bos_only")


def check_targets(lm: LM, sample: Sample) -> None:
    """Compare each target's ids with its texts, and shared scores with those scored apart."""
    assert set(TARGET_TEXTS) == set(tokenization.TARGETS)
    names = list(TARGET_TEXTS)
    together = answer_nll.score(lm, [sample], TARGET_CONDITIONS, targets=names)
    assert list(zip(together.target, together.condition, strict=True)) == list(
        itertools.product(names, TARGET_CONDITIONS)
    )
    for target, name in itertools.product(names, TARGET_CONDITIONS):
        case = Case(lm, sample, TARGET_TEXTS[target])
        read = tokenization.tokenize(lm.tokenizer, sample, target)
        assert (list(read.prompt), list(read.answer)) == case.asked, f"{target}: other ids"
        assert list(read.document) == case.document
        found = together[(together.target == target) & (together.condition == name)].iloc[0]
        alone = answer_nll.score(lm, [sample], [name], targets=[target]).iloc[0]
        assert_scores(found.token_nlls, EXPECTED[name](case), f"{name} for {target}")
        assert_scores(found.token_nlls, alone.token_nlls, f"{name} for {target} by itself")


@once
@given(sample=strategies.samples(max_words=8))
@example(sample=LONG)
@example(sample=replace(SHORT, query="{answer} {query}", answer="{query}"))
def test_targets_share_prefills_and_keep_their_numbers(llama: LM, sample: Sample) -> None:
    """What is asked follows the table, braces in the texts or not; sharing changes nothing."""
    if "{" in sample.query:  # texts that hold braces are compared by their ids alone
        read = tokenization.tokenize(llama.tokenizer, sample)
        case = Case(llama, sample)
        assert list(read.prompt) == case.ids("\nQuery: {answer} {query}\nAnswer:")
        assert list(read.answer) == case.ids(" {query}")
        return
    check_targets(llama, sample)


def ask_the_answer_always(patch: pytest.MonkeyPatch) -> None:
    right = tokenization.tokenize
    patch.setattr(
        tokenization, "tokenize", lambda tok, sample, _target="answer": right(tok, sample)
    )


def answer_in_reverse(patch: pytest.MonkeyPatch) -> None:
    right = answer_nll._answer_nlls
    patch.setattr(answer_nll, "_answer_nlls", lambda *given_: right(*given_)[::-1])


@pytest.mark.parametrize("fault", [ask_the_answer_always, answer_in_reverse])
def test_twin_targets(llama: LM, fault: Fault) -> None:
    """One target for all, or scores handed to another target, are seen."""
    must_see(fault, check_targets, llama, LONG)


# --- what is run --------------------------------------------------------------------------------

HYBRIDS = (
    "values_only(oracle)",
    "values_early_layers(oracle,1)",
    "values_early_layers(oracle,2)",
    "values_layer(oracle,1)",
    "values_early_positions(oracle,0.25)",
    "interp(oracle,0.25)",
    "interp(oracle,0.5)",
    "interp(oracle,0.75)",
    "values_early_positions(oracle,0.5)",
)


def check_prefills_are_shared(lm: LM, batch: Sequence[Sample], targets: Sequence[str]) -> None:
    """Count the passes that start from nothing, and the tokens they read."""
    rope_probe.rope_plan(lm)
    read: list[list[list[int]]] = []
    right = forward.run_model

    def counting(lm_: LM, step: forward.ForwardInput, *more: Any, **cache: Any) -> torch.Tensor:
        if not cache["past_key_values"].layers:
            read.append([ids[real].tolist() for ids, real in zip(step.ids, step.real, strict=True)])
        return right(lm_, step, *more, **cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "run_model", counting)
        for sample in batch:
            answer_nll.score(lm, [sample], HYBRIDS, targets=targets)
    wanted_ = []
    for sample in batch:
        case = Case(lm, sample)
        wanted_ += [[[lm.bos_id, *case.document]], [[lm.bos_id, *case.question, *case.document]]]
    assert read == wanted_, f"{len(read)} prefills, not two for each sample"


@few
@given(batch=strategies.batches(2, max_words=8))
def test_nine_hybrids_cost_two_prefills(llama: LM, batch: list[Sample]) -> None:
    """The bare and the primed document are each read once, whatever is made of them and asked."""
    check_prefills_are_shared(llama, batch, ["answer", "qdoc"])


def prefill_again(patch: pytest.MonkeyPatch) -> None:
    """Forget what was prefilled."""
    right = build._built
    patch.setattr(build, "_built", lambda lm, recipe, _made, group: right(lm, recipe, {}, group))


def keep_jobs_apart(patch: pytest.MonkeyPatch) -> None:
    """Let every score have a group of its own."""
    right = answer_nll._document_groups
    patch.setattr(
        answer_nll,
        "_document_groups",
        lambda *given_: ([job] for part in right(*given_) for job in part),
    )


@pytest.mark.parametrize("fault", [prefill_again, keep_jobs_apart])
def test_twin_prefills(llama: LM, fault: Fault) -> None:
    """A prefill that is run again, for a condition or a target, is seen."""
    must_see(fault, check_prefills_are_shared, llama, [LONG], ["answer", "qdoc"])


def check_memory(lm: LM, batch: Sequence[Sample], most: int, route: answer_nll.Route) -> None:
    """Let passes of many rows run out of memory; demand every row all the same."""
    names = ("bare", "oracle", "values_only(oracle)")
    whole = in_one_batch(lm, batch, names, route)
    right = forward.run_model

    def small(lm_: LM, step: forward.ForwardInput, *more: Any, **cache: Any) -> torch.Tensor:
        if step.ids.shape[0] > most:
            raise torch.OutOfMemoryError("out of memory: a test's limit")
        return right(lm_, step, *more, **cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "run_model", small)
        with pytest.warns(RuntimeWarning, match="going on with"):
            halved = in_one_batch(lm, batch, names, route)
    assert (halved.status == "ok").all(), "a row was given up"
    assert_rows_equal(halved, whole, "after running out of memory")


@pytest.mark.parametrize("route", ["auto", "cache"])
@few
@given(batch=strategies.batches(4, max_words=8), most=st.integers(1, 2))
def test_running_out_of_memory_loses_no_row(
    llama: LM, route: answer_nll.Route, batch: list[Sample], most: int
) -> None:
    """What does not fit is scored in halves, with the same numbers."""
    check_memory(llama, [*batch, replace(LONG, id="three"), replace(SHORT, id="more")], most, route)


def give_up_at_once(patch: pytest.MonkeyPatch) -> None:
    """Count a part that does not fit as lost."""

    def broken(lm: LM, part: Sequence[answer_nll.ScoreJob], scorer: Any) -> dict[Any, Any]:
        try:
            return dict(scorer(lm, part))
        except torch.OutOfMemoryError:
            warnings.warn("going on with nothing", RuntimeWarning, stacklevel=2)
            return {job.row: answer_nll._row_of(job, "out of memory") for job in part}

    patch.setattr(answer_nll, "_score_or_halve", broken)


@pytest.mark.parametrize("route", ["auto", "cache"])
def test_twin_memory(llama: LM, route: answer_nll.Route) -> None:
    """Rows that are given up are seen."""
    must_see(give_up_at_once, check_memory, llama, [LONG, SHORT], 1, route)


def check_cut(widths: list[int], budget: int, cost: int) -> None:
    """Demand every item once and in order, no part above the budget, and the least cost of all."""
    parts = batching.cut_into_passes(widths, budget, cost)
    assert [i for a, b in parts for i in range(a, b)] == list(range(len(widths))), parts
    assert all(a < b for a, b in parts), "an empty pass"
    assert all(b - a == 1 or _tokens(widths, a, b) <= budget for a, b in parts), "above the budget"
    found = sum(cost + _tokens(widths, a, b) for a, b in parts)
    assert found == _least(tuple(widths), budget, cost), "a cheaper cut exists"


def _tokens(widths: Sequence[int], start: int, stop: int) -> int:
    return (stop - start) * max(widths[start:stop])


def _least(widths: tuple[int, ...], budget: int, cost: int) -> int:
    """Try every set of places to cut at."""
    costs = []
    for chosen in itertools.product([False, True], repeat=max(len(widths) - 1, 0)):
        ends = [0, *(i + 1 for i, here in enumerate(chosen) if here), len(widths)]
        parts = [(a, b) for a, b in itertools.pairwise(ends) if a < b]
        if all(b - a == 1 or _tokens(widths, a, b) <= budget for a, b in parts):
            costs.append(sum(cost + _tokens(widths, a, b) for a, b in parts))
    return min(costs)


WIDTHS = st.lists(st.integers(1, 40), max_size=8)


@some
@given(widths=WIDTHS, budget=st.integers(1, 160), cost=st.integers(0, 60))
@example(widths=[30, 5, 5, 5, 30, 31], budget=160, cost=10)
def test_no_cut_into_passes_is_cheaper(widths: list[int], budget: int, cost: int) -> None:
    """Sorted or not, the passes found cost least among all cuts of that order."""
    check_cut(widths, budget, cost)


def check_cut_is_monotone(widths: list[int], budget: int, cost: int, more: int) -> None:
    """Demand no more cost for a larger budget, and no more passes where each is dearer."""

    def total(parts: list[tuple[int, int]], price: int) -> int:
        return sum(price + _tokens(widths, a, b) for a, b in parts)

    now, roomy = (batching.cut_into_passes(widths, b, cost) for b in (budget, budget + more))
    dear = batching.cut_into_passes(widths, budget, cost + more)
    assert total(roomy, cost) <= total(now, cost), "more room, more cost"
    assert total(dear, cost + more) >= total(now, cost), "dearer passes, less cost"
    assert total(batching.cut_into_passes(widths[:-1], budget, cost), cost) <= total(now, cost), (
        "less to do, more cost"
    )


@some
@given(widths=WIDTHS, budget=st.integers(1, 160), cost=st.integers(0, 60), more=st.integers(0, 100))
def test_the_cost_of_passes_is_monotone(
    widths: list[int], budget: int, cost: int, more: int
) -> None:
    """Room never costs, dearer passes never save, and less work is never dearer."""
    check_cut_is_monotone(widths, budget, cost, more)


Cut = Callable[[Sequence[int], int, int], list[tuple[int, int]]]


def changing_cut(name: str, change: Callable[[Cut], Cut]) -> Fault:
    """Make a fault that replaces the cut by what `change` makes of it."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(batching, "cut_into_passes", change(batching.cut_into_passes))

    fault.__name__ = name
    return fault


def one_by_one(widths: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(widths))]


@pytest.mark.parametrize(
    "fault",
    [
        changing_cut("last lost", lambda right: lambda *given_: right(*given_)[:-1]),
        changing_cut("reversed", lambda right: lambda *given_: right(*given_)[::-1]),
        changing_cut(
            "too large", lambda right: lambda widths, _budget, _cost: right(widths, 10**6, 10**6)
        ),
        changing_cut(
            "one by one", lambda _right: lambda widths, _budget, _cost: one_by_one(widths)
        ),
        changing_cut(
            "passes are free", lambda right: lambda widths, budget, _cost: right(widths, budget, 0)
        ),
    ],
)
def test_twin_cut(fault: Fault) -> None:
    """A part lost, out of order, too large, or passes cut greedily are seen."""
    must_see(fault, check_cut, [30, 5, 5, 6, 30, 31], 70, 10)


@pytest.mark.parametrize(
    "fault",
    [
        changing_cut(
            "room wasted",
            lambda right: (
                lambda widths, budget, cost: (
                    [(0, len(widths))] if budget > 90 else right(widths, budget, cost)
                )
            ),
        ),
        changing_cut(
            "dear work dropped",
            lambda right: (
                lambda widths, budget, cost: [] if cost > 20 else right(widths, budget, cost)
            ),
        ),
        changing_cut(
            "small lists split",
            lambda right: (
                lambda widths, budget, cost: (
                    one_by_one(widths) if len(widths) == 5 else right(widths, budget, cost)
                )
            ),
        ),
    ],
)
def test_twin_cut_is_monotone(fault: Fault) -> None:
    """A cut that wastes what room it is given, drops dear work or splits small lists is seen."""
    must_see(fault, check_cut_is_monotone, [30, 2, 2, 2, 2, 2], 80, 20, 40)


# --- spelling -----------------------------------------------------------------------------------


def check_round_trip(spelled: str) -> None:
    """Demand that a name spells a condition of that very name, and it the same condition."""
    made = condition(spelled)
    assert made.name == spelled
    assert condition(made.name) == made
    assert condition(made) is made


@some
@given(spelled=strategies.condition_names())
def test_names_and_conditions_are_one(spelled: str) -> None:
    """Name to condition to name, for every condition, prefix and argument."""
    check_round_trip(spelled)


@pytest.mark.parametrize("spelled", list(EXPECTED))
def test_published_spellings_are_names(spelled: str) -> None:
    """The table's spellings are what rows, the ledger and reports call their conditions."""
    literal = 'literal("go")' if '"go"' in spelled else ""
    check_round_trip(spelled if not literal else f"beacons({literal},5)")


def check_aliases(prefixless: Mapping[str, str]) -> None:
    """Demand that a prefix left out is static_fact, and that spaces mean nothing."""
    for short, long in prefixless.items():
        assert condition(short) == condition(long)
        spaced = long.replace("(", " ( ").replace(",", " , ")
        assert condition(f" {spaced} ") == condition(long)


ALIASES = {
    name: name.replace("(", "(static_fact,") if "(" in name else f"{name}(static_fact)"
    for name in (
        "full_context",
        "one_base",
        "no_reposition",
        "rope_roundtrip",
        "suffix",
        "values_only",
        "reposition(model)",
        "blocks(3,first)",
        "values_early_layers(16)",
        "values_early_layers(0.5)",
        "values_layer(2)",
        "values_early_positions(0.25)",
        "interp(0.25)",
        "beacons(16)",
    )
}


def test_a_prefix_left_out_is_static_fact() -> None:
    """Every condition that takes a prefix can go without one."""
    check_aliases(ALIASES)


def test_every_condition_with_a_prefix_has_its_alias() -> None:
    """The aliases above leave none out."""
    assert {a.split("(")[0] for a in ALIASES} == set(registry.WITH_PREFIX)


def always_static(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parse, "_prefix", lambda *_: (registry.STATIC_FACT, "static_fact"))


def suffix_means_oracle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        registry,
        "WITHOUT_PREFIX",
        {**registry.WITHOUT_PREFIX, "suffix": condition("suffix(oracle)")},
    )


@pytest.mark.parametrize("spelled", ["full_context(oracle)", "suffix(random)", "repeat(oracle,2)"])
def test_twin_round_trip(spelled: str) -> None:
    """A prefix that is not the one written is seen."""
    must_see(always_static, check_round_trip, spelled)


def test_twin_aliases() -> None:
    """Another prefix than static_fact for none is seen."""
    must_see(suffix_means_oracle, check_aliases, {"suffix": "suffix(static_fact)"})


WRONG = {
    "orcale": "did you mean 'oracle'",
    "value_only(oracle)": "did you mean 'values_only(p)'",
    "blocks(oracle,3,frist)": "did you mean 'first'",
    "static(facts)": "did you mean 'fact'",
    "reposition(oracle,float23)": "did you mean 'float32'",
    "llm_surrogate(keywords)": "did you mean 'keyword'",
    "full_context(orcale)": "'orcale'",
    "interp(oracle,1.5)": "a share from 0 to 1",
    "interp(oracle,nan)": "a number",
    "interp(oracle,-0.5)": "a number",
    "interp(oracle,True)": "a number",
    "blocks(oracle,0,first)": "pass 1 or more",
    "beacons(oracle,2.5)": "a whole number",
    "repeat(oracle,0)": "pass 1 or more",
    "repeat(oracle)": "repeat(oracle)",
    "values_only(oracle,1)": "nothing more",
    "qvi": "a number",
    "qvi(oracle)": "a number",
    "bare(oracle)": "bare",
    "oracle(": "oracle",
    "": "known are",
    "1": "write a name",
    "bare; oracle": "bare",
    "a.b(c)": "write a name",
    "suffix(prefix=oracle)": "write a name",
    "literal(oracle)": "literal",
    "oracle(*x)": "oracle",
    "bare\nbare": "bare",
}


def check_refused(spelled: str, hint: str) -> None:
    """Demand one line that says what is wrong."""
    try:
        made: object = condition(spelled)
    except KvError as error:
        made = str(error)
    assert isinstance(made, str), f"{spelled!r} was taken for {made}"
    assert "\n" not in made, f"{made!r} is more than one line"
    assert hint in made, f"{made!r} does not say {hint!r}"


@pytest.mark.parametrize("spelled", list(WRONG))
def test_malformed_names_are_refused_in_one_line(spelled: str) -> None:
    """What is wrong, with the nearest name that is right."""
    check_refused(spelled, WRONG[spelled])


@some
@given(
    spelled=st.text(st.characters(codec="utf-8"), max_size=20)
    | st.text("abcdefoblrepltqvi_(),.\"'0123 \n-", max_size=24)
)
def test_any_text_is_a_condition_or_one_clear_line(spelled: str) -> None:
    """Nothing else ever comes out of a name: no other error, no second line."""
    try:
        said, name = "", condition(spelled).name
    except KvError as error:
        said, name = str(error), "bare"
    assert "\n" not in said
    assert condition(name).name == name


def test_twin_refused() -> None:
    """A name that is guessed instead of refused, or refused in two lines, is seen."""

    def guess(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(f"{__name__}.condition", lambda _: parse.condition("oracle"))

    def two_lines(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(errors, "unknown", lambda *_: KvError("did you mean\n'oracle'?"))

    for fault in (guess, two_lines):
        must_see(fault, check_refused, "orcale", WRONG["orcale"])


# --- a user's own conditions --------------------------------------------------------------------


def afresh(check: Callable[..., None]) -> Callable[..., None]:
    """Run a check with no condition defined, and undo what it defines."""

    @functools.wraps(check)
    def run(*arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "DEFINED", {})
            check(*arguments)

    return run


@afresh
def check_defined_scores(lm: LM, batch: Sequence[Sample]) -> None:
    """Define two conditions, and compare their scores with what they are made of."""
    registry.define("the_same", truncation(QUERY), "nothing new")
    registry.define("keys_only", Mix(truncation(QUERY), BARE), "what primed keys alone do")
    rows = answer_nll.score(lm, batch, ["the_same", "keys_only"])
    for sample, row in zip([s for s in batch for _ in range(2)], rows.itertuples(), strict=True):
        route = plain.shifted_nlls if row.condition == "the_same" else plain.keys_only_nlls
        case = Case(lm, sample)
        assert_scores(row.token_nlls, case.run(route, case.question), row.condition)


def test_a_users_own_condition_scores(lm: LM) -> None:
    """A recipe that nobody foresaw gives what building it by hand gives."""
    check_defined_scores(lm, [LONG, SHORT])


def forget_the_mix(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(build, "_mixed", lambda _lm, _recipe, own, *_: own)


def test_twin_own_condition(llama: LM) -> None:
    """A hybrid that is not mixed is seen."""
    must_see(forget_the_mix, check_defined_scores, llama, [LONG, SHORT])


@afresh
def check_no_shadowing(names: Sequence[str]) -> None:
    """Demand that no built-in name can be given away, and that every one still means itself."""
    for name in (*names, "two words", "oracle(1)", ""):
        try:
            taken: object = registry.define(name, truncation(QUERY), "a trap")
        except KvError as error:
            taken = str(error)
        assert isinstance(taken, str), f"{name!r} could be defined anew"
        assert "\n" not in taken
    registry.define("mine", BARE, "a test")
    assert registry.define("mine", BARE, "a test") == condition("mine"), "the same is no clash"
    with pytest.raises(KvError, match="mine"):
        registry.define("mine", truncation(QUERY), "a test")


HEADS = sorted({name.split("(")[0] for name in registry.NAMES})


def test_no_name_that_comes_along_can_be_redefined() -> None:
    """`oracle` is `oracle` in every process."""
    check_no_shadowing(HEADS)


def test_twin_shadowing() -> None:
    """A definition that is simply taken over is seen."""

    def take_all(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(registry, "define", lambda *given_: Condition(*given_))

    must_see(take_all, check_no_shadowing, HEADS)


def code_of(lm: LM, name: str) -> str:
    keys = answer_nll_rows.rows(lm.files, "test", {(name, "answer"): [LONG]}, 0)
    return str(keys.code.iloc[0])


@afresh
def check_keys_follow_recipes(lm: LM) -> None:
    """Define one name twice over; demand another key for another recipe and only for that."""
    codes = []
    for recipe in (
        truncation(QUERY),
        truncation(QUERY),
        Mix(BARE, primed(QUERY)),
        Mix(BARE, primed(QUERY), weight=0.5),
    ):
        registry.DEFINED.clear()
        registry.define("mine", recipe, "a test")
        codes.append(code_of(lm, "mine"))
    assert codes[0] == codes[1], "the same recipe, another key"
    assert len(set(codes)) == 3, "another recipe, the same key"
    assert code_of(lm, "bare") == answer_nll_rows.code(), "a built-in condition's key changed"
    assert answer_nll_rows.code() not in codes


def test_a_changed_recipe_changes_the_key(llama: LM) -> None:
    """Rows of a user's condition are never taken for those of its older self."""
    check_keys_follow_recipes(llama)


def test_twin_keys(llama: LM) -> None:
    """A key that the recipe is not part of is seen."""

    def ignore_recipes(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(registry, "recipe_of_defined", lambda _: "")

    must_see(ignore_recipes, check_keys_follow_recipes, llama)


# --- explanations -------------------------------------------------------------------------------

Truth = tuple[tuple[int, ...], ...]


def received(lm: LM, sample: Sample, name: str, route: answer_nll.Route) -> set[Truth]:
    """Return the distinct masks that the model itself is handed while a score is made."""
    seen: set[Truth] = set()

    def note(_module: Any, _ids: Any, given_: dict[str, Any]) -> None:
        mask = given_["attention_mask"]
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
    """Every condition renders; its masks are the model's, and hidden copies are not listed."""
    spelled = condition(name).name
    check_explanation(loading.load(model, device="cpu"), LONG, spelled)


def draw_causal_masks(patch: pytest.MonkeyPatch) -> None:
    """Draw each pass as if nothing were blind in it."""
    right = explain._panels
    patch.setattr(
        explain,
        "_panels",
        lambda lm, title, step, slots: right(lm, title, replace(step, blocked=None), slots),
    )


def list_hidden_copies(patch: pytest.MonkeyPatch) -> None:
    right = build.build
    patch.setattr(
        build,
        "build",
        lambda lm, recipe, made, group: right(
            lm, recipe.source if isinstance(recipe, recipes.MaskFromQuery) else recipe, made, group
        ),
    )


def forget_a_span(patch: pytest.MonkeyPatch) -> None:
    right = explain._spans
    patch.setattr(explain, "_spans", lambda *given_: right(*given_)[:-1])


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
    """A mask that is not the model's, a hidden copy or a part left out is seen."""
    must_see(fault, check_explanation, llama, LONG, name)


def check_labels(lm: LM, sample: Sample, name: str) -> None:
    """Demand that a single pass's labels stand where its BOS tokens stand."""
    given_ = condition(name)
    ready = prepared.prepare_one(lm, sample, given_)
    reading = one_pass.one_pass(ready, given_, lm.bos_id)
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
    """The second BOS is labelled where it stands."""
    check_labels(llama, LONG, name)


def test_twin_labels(llama: LM) -> None:
    """A second BOS labelled a token off is seen."""

    def label_one_off(patch: pytest.MonkeyPatch) -> None:
        right = explain._label
        labels = {"n": 0}

        def broken(role: int, after_: bool) -> str:
            labels["n"] += 1
            return "after" if labels["n"] % 7 == 3 else right(role, after_)

        patch.setattr(explain, "_label", broken)

    must_see(label_one_off, check_labels, llama, LONG, "oracle")


# --- once faults of the instrument --------------------------------------------------------------


@pytest.mark.parametrize("whole", ["values_only(oracle)", "values_early_layers(oracle,1.0)"])
@pytest.mark.parametrize("single", ["values_layer(oracle,0)", "values_early_layers(oracle,1)"])
@pytest.mark.parametrize("first", ["whole", "single"])
def test_one_layer_is_not_the_whole_depth(llama: LM, whole: str, single: str, first: str) -> None:
    """Beside one another, one layer's values and all layers' stay what they are alone."""
    expected = {whole: mixed(), single: mixed([0])}
    ordered = sorted(expected, key=[whole, single].index, reverse=first == "single")
    check_conditions_equal_plain(llama, [LONG, SHORT], {name: expected[name] for name in ordered})


def test_a_literal_beyond_16_bits_keeps_its_name() -> None:
    """A literal with an emoji is the same condition when it comes back by name."""
    made = parse.truncated("Read 😀")
    assert condition(made.name) == made


def test_blocks_of_repeats_hold_every_repeat(llama: LM) -> None:
    """Two blocks of a prefix repeated five times are ten copies of it."""
    given_ = condition("blocks(repeat(oracle,5),2,all)")
    ready = prepared.prepare_one(llama, LONG, given_)
    case = Case(llama, LONG)
    (leaf,) = given_.prefills()
    assert list(ready.prefill_ids(leaf, llama.bos_id)) == [
        llama.bos_id,
        *case.question * 10,
        *case.document,
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.MaskFromQuery(Prefill((Document(), registry.SEPARATOR, QUERY)), "none"),
        Mix(recipes.MaskFromQuery(registry.primed(QUERY), "none"), registry.BARE),
    ],
)
def test_hiding_anything_but_copies_before_the_document_is_refused(recipe: recipes.Recipe) -> None:
    """Where hidden slots stood last, the question's position would hang on the route."""
    with pytest.raises(KvError, match="'hidden': Hide comes last"):
        Condition("hidden", recipe, "a test")


def test_a_layer_the_model_lacks_is_refused_before_anything_is_measured(llama: LM) -> None:
    """One line, whatever else was asked for."""
    with pytest.raises(KvError, match="layers 40 to 41: the model has"):
        answer_nll.score(llama, [LONG], ["bare", "values_layer(oracle,40)"])


def test_two_recipes_of_one_name_are_not_confused(llama: LM) -> None:
    """A second recipe of a name is refused, or scored as what it is."""
    (bare,) = answer_nll.score(llama, [LONG], ["bare"]).nll
    try:
        first = answer_nll.score(
            llama, [LONG], ["bare", Condition("bare", truncation(QUERY), "")]
        ).nll
    except KvError:
        return
    assert first[0] == pytest.approx(bare, abs=1e-5), "the built-in bare became another"


def test_the_second_bos_is_labelled_behind_all_copies(llama: LM) -> None:
    """A repeated prefix's single pass is labelled as it stands."""
    check_labels(llama, LONG, "repeat(oracle,2)")


def test_two_prefills_of_like_parts_are_told_apart(llama: LM) -> None:
    """Each prefill is shown with its own tokens: where the first prefix ends, so it says."""
    both = Condition("both", Mix(truncation(QUERY), truncation(registry.STATIC_FACT)), "a test")
    text = explain.explain(llama, LONG, both)
    size = len(Case(llama, LONG).static)
    assert re.search(rf"prefix +{size} tokens, positions 1\.\.{size}:", text), text


def words(count: int) -> Sample:
    return Sample("q", " ".join(["sum"] * count), "mean value", id=f"{count} words")


@pytest.mark.parametrize("route", ["auto", "cache"])
def test_length_dependent_frequencies_depend_on_no_batch(route: answer_nll.Route) -> None:
    """A sample on one side of the switch scores alike beside one on the other."""
    lm = loading.load("tiny-longrope", device="cpu")
    alone = answer_nll.score(lm, [words(232)], ["bare"], route=route)
    together = in_one_batch(lm, [words(232), words(250)], ["bare"], route)
    assert_rows_equal(together[together.sample_id == "232 words"], alone, "beside a longer one")


def test_length_dependent_frequencies_depend_on_no_route() -> None:
    """A document short of the switch and a question past it: one number, or none."""
    lm = loading.load("tiny-longrope", device="cpu")
    one, two = (answer_nll.score(lm, [words(250)], ["bare"], route=r) for r in ("auto", "cache"))
    assert_rows_equal(one, two, "across the switch")
