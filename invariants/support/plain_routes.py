"""Every condition as its definition spells it: texts encoded here, caches built by hand.

The oracle is `invariants.oracle.plain`, one sample and one ``DynamicCache`` at a time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from invariants.oracle import plain
from invariants.support.comparing import (
    assert_scores,
    in_one_batch,
)
from kvcore import tokenization
from kvcore.cache import kv_cache
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import (
    Condition,
    Recipe,
)
from kvcore.data.derived_texts import STOP_WORDS
from kvcore.data.sample import Sample
from kvcore.engine import build, forward, prepared
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

TWO_BASES = ("tiny-gemma3",)


DEPTH = 3  # layers of every tiny model


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
    def other_document(self) -> list[int]:
        ids, length = self.ids(dict(self.sample.texts)["other_passage"]), len(self.document)
        return [ids[i % len(ids)] for i in range(length)]

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


def kept(prefix: Callable[[Case], list[int]], count: int) -> Callable[[Case], list[float]]:
    """Keep the prefix's first tokens behind BOS."""

    def route(c: Case) -> list[float]:
        read = prefix(c)
        return c.run(plain.kept_nlls, read, first=0, stop=min(count, len(read)))

    return route


def sink_kept(prefix: Callable[[Case], list[int]]) -> Callable[[Case], list[float]]:
    """Keep the one slot of BOS and the prefix whose hidden state is the longest."""

    def route(c: Case) -> list[float]:
        read = prefix(c)
        sink = plain.sink_of(c.lm.model, c.lm.bos_id, read, c.document)
        if sink == 0:
            return c.run(plain.shifted_nlls, read)
        return c.run(plain.kept_nlls, read, first=sink - 1, stop=sink)

    return route


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


def ranged(layers: Sequence[int], first: float, last: float) -> Callable[[Case], list[float]]:
    """Primed values in some layers, from one share of the document to another."""

    def route(c: Case) -> list[float]:
        start, stop = (round(share * len(c.document)) for share in (first, last))
        return c.run(
            plain.mixed_nlls,
            c.question,
            layers=layers,
            weight=1.0,
            start=start,
            tokens=stop - start,
        )

    return route


def copies(times: int, seen: Sequence[int]) -> Callable[[Case], list[float]]:
    return lambda c: c.run(plain.blocks_nlls, [c.question] * times, isolated=True, seen=seen)


def sentence(text: str) -> str:
    """Read a text up to its first full stop, question or exclamation mark before white space."""
    for i in range(len(text) - 1):
        if text[i] in ".!?" and text[i + 1].isspace():
            return text[: i + 1]
    return text


def content(query: str) -> str:
    """Leave out the words that any query could have, and repeated ones."""
    words: list[str] = []
    for word in re.split(r"\W+", query.casefold()):
        if word and word not in STOP_WORDS and word not in words:
            words.append(word)
    return " ".join(words) or query


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
    "full_context(random)": full(lambda c: c.random),
    "full_context(repeat(random,2))": full(lambda c: c.random * 2),
    "one_base(oracle)": lambda c: c.run(plain.one_base_nlls, c.question),
    "no_reposition(oracle)": lambda c: c.run(plain.unturned_nlls, c.question),
    "reposition(oracle,model)": dropped(question),
    "reposition(random,float32)": dropped(lambda c: c.random),
    "rope_roundtrip(static_fact)": full(lambda _: []),
    "unrelated": dropped(
        lambda c: c.ids("The weather in the mountains was cold and clear that morning.\n")
    ),
    "first_sentence": dropped(lambda c: c.ids(f"{sentence(c.sample.passage)}\n")),
    "keywords(query)": dropped(lambda c: c.ids(f"{content(c.sample.query)}\n")),
    "keywords(passage)": dropped(lambda c: c.own("keywords(passage)")),
    "keywords(another)": dropped(lambda c: c.own("keywords(another)")),
    "shuffled_surrogate(need)": dropped(lambda c: c.own("shuffled(need)")),
    "surrogate_of_another(need)": dropped(lambda c: c.own("another(need)")),
    "keys_only(oracle)": lambda c: c.run(plain.keys_only_nlls, c.question),
    "values_of_another(oracle)": lambda c: c.run(
        plain.foreign_values_nlls, c.question, c.other_document
    ),
    "with_separator(oracle)": lambda c: c.run(
        plain.shifted_nlls, c.question, behind=c.ids("\n\nRelated question: ")
    ),
    "values_layers(oracle,0.34,1)": ranged([1, 2], 0, 1),
    "values_layers(oracle,0.34,0.67)": ranged([1], 0, 1),
    "values_positions(oracle,0.25,0.75)": ranged(range(DEPTH), 0.25, 0.75),
    "values_positions(oracle,0.75,1)": ranged(range(DEPTH), 0.75, 1),
    "amplified(oracle,2)": mixed(weight=2.0),
    "amplified(oracle,5)": mixed(weight=5.0),
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
    "keep_first(oracle,1)": kept(question, 1),
    "keep_first(oracle,4)": kept(question, 4),
    "keep_first(random,1000)": full(lambda c: c.random),
    "keep_sink(oracle)": sink_kept(question),
    "keep_sink(random)": sink_kept(lambda c: c.random),
    "swap_bos(oracle)": full(lambda _: []),
    "bos_of_bare(oracle)": dropped(question),
    "qvi(0.1)": lambda c: c.run(plain.injected_nlls, c.question, layers=range(2), weight=0.1),
    'beacons("go",5)': lambda c: c.run(plain.beacon_nlls, c.ids("go\n"), 5),
}


FURTHER: Mapping[str, Callable[[Case], list[float]]] = {  # too long for every drawn sample
    "beacons(oracle,8)": lambda c: c.run(plain.beacon_nlls, c.question, 8),
    "beacons(oracle,1000)": dropped(question),
}


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


def caches(lm: LM, sample: Sample, *recipes: Recipe | str) -> list[kv_cache.KVCache]:
    """Build caches of one sample that share their prefills."""
    made: dict[Recipe, kv_cache.KVCache] = {}
    built = []
    for recipe in recipes:
        chosen = condition(recipe) if isinstance(recipe, str) else Condition("", recipe, "")
        ready = prepared.prepare_one(lm, sample, chosen)
        built.append(build.build(lm, chosen.recipe, made, [ready]))
    return built


def assert_same_cache(found: kv_cache.KVCache, expected: kv_cache.KVCache, what: str) -> None:
    """Compare two caches bit for bit."""
    __tracebackhide__ = True
    assert torch.equal(found.positions, expected.positions), f"{what}: other positions"
    assert torch.equal(found.real, expected.real), f"{what}: other slots are real"
    for layer in range(DEPTH):
        assert torch.equal(found.keys[layer], expected.keys[layer]), f"{what}: keys of {layer}"
        assert torch.equal(found.values[layer], expected.values[layer]), (
            f"{what}: values of {layer}"
        )


ALL = (
    "bare",
    "oracle",
    "random",
    "static_fact",
    "full_context(oracle)",
    "bare_again",
    "rope_roundtrip(oracle)",
)


ROUTES: tuple[answer_nll.Route, ...] = ("auto", "cache")


both_routes = pytest.mark.parametrize("route", ROUTES)


SOME_IDS = list(range(5, 365, 15))


def document_cache(lm: LM, ids: Sequence[int], start: int = 0) -> kv_cache.KVCache:
    """Prefill token ids at consecutive positions."""
    return forward.run(lm, forward.pad_ids(lm, [list(ids)], [start]))[1]
