"""Rows of the kinds that run a model: keyed by what they depend on, whole, and the instrument's."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from invariants.oracle import switched
from invariants.support.comparing import Fault, must_see, replaced
from kvcore import loading, tokenization
from kvcore.conditions import switching
from kvcore.conditions.switching import TokenizedSwitch
from kvcore.data.context_pairs.assignment import injection_fraction
from kvcore.data.context_pairs.load import PairCorpus, load_pairs
from kvcore.data.sample import Corpus, Sample
from kvcore.data.texts import Text, TextCorpus
from kvcore.errors import KvError
from kvcore.measurements import context_switch, divergence, hidden_states, surrogate_store
from kvcore.measurements.base import MeasurePlan, MeasureRequest
from kvcore.measurements.collect import collect_rows
from kvcore.measurements.continuations import load_continuations
from kvcore.measurements.kinds import answer_nll as nll_kind
from kvcore.measurements.kinds import context_switch as switch_kind
from kvcore.measurements.kinds import divergence as divergence_kind
from kvcore.measurements.kinds import hidden_states as states_kind
from kvcore.models.files import locate
from kvcore.models.lm import LM

Load = Callable[[], LM]


def request(
    needs: tuple[str, ...], folder: Path, load: Load | None = None, dataset: str = "x"
) -> MeasureRequest:
    """Return a request for what a test has put in the place of a dataset."""
    return MeasureRequest(
        locate("tiny-llama"), load or _never, dataset, needs, 100, 0, None, folder
    )


def _never() -> LM:
    raise AssertionError("a model was loaded")


def counted_load() -> tuple[Load, list[int]]:
    """Return a function that loads tiny-llama once, and how often it did."""
    loads: list[int] = []

    @functools.cache
    def load() -> LM:
        loads.append(1)
        return loading.load("tiny-llama", device="cpu")

    return load, loads


# --- answer NLLs ---------------------------------------------------------------------------------


def written_for(
    _files: Any, _load: Any, samples: Sequence[Sample], styles: Sequence[str], _root: Path
) -> tuple[Sample, ...]:
    """Give every sample the same surrogate, in place of a model."""
    texts = {style: ["the sum of entries"] * len(samples) for style in styles}
    return surrogate_store.attach(samples, texts)


WORDS = ("keywords(passage)", "keywords(another)", "shuffled_surrogate(keyword)", "first_sentence")


def check_texts_of_one_seed(folder: Path) -> None:
    """Demand scores on all samples of every condition that takes a text of its own from them.

    Another seed's set holds the same samples, and each condition brings them with its text alone.
    """
    data = folder / "data.jsonl"
    rows = (
        {"query": f"q {n}", "passage": f"The sum number{n}.", "answer": "a sum"} for n in range(12)
    )
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    load, _ = counted_load()
    needs = ("llm_surrogate(keyword)", *WORDS, "bare", "bare@seed1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate_store, "with_surrogates", written_for)
        plan = nll_kind.plan(request(needs, folder, load, str(data)))
        own = plan.keys[plan.keys["seed"] == 0]
        scored = plan.measure(own)
    assert len(plan.keys) > len(own)
    for condition in ("llm_surrogate(keyword)", *WORDS):
        assert (scored["condition"] == condition).sum() == 12
    assert set(scored["status"]) == {"ok"}


def test_texts_of_a_sample_are_those_of_its_seed(tmp_path: Path) -> None:
    """Catches a sample of another seed's set, without the texts, that takes this one's place."""
    check_texts_of_one_seed(tmp_path)


def test_twin_texts_of_one_condition_alone_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to a sample that keeps what the last condition brought it with."""
    monkeypatch.setattr(Sample, "with_texts_of", lambda self, _other: self)
    with pytest.raises(AssertionError):
        check_texts_of_one_seed(tmp_path)


def test_twin_texts_that_are_lost_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to samples without their texts."""
    monkeypatch.setattr(surrogate_store, "attach", lambda samples, _texts: tuple(samples))
    with pytest.raises(AssertionError):
        check_texts_of_one_seed(tmp_path)


# --- context switches ----------------------------------------------------------------------------

WAYS = ("injection", "noise", "free:injection", "free:oracle")
PAIRS = load_pairs("word_problems", 6, 0).pairs


@pytest.fixture(scope="module")
def short_switches() -> Iterator[LM]:
    """A model that does the work of a trained one, in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switch_kind, "STEPS", 8)
        patch.setattr(switch_kind, "NEW_TOKENS", 6)
        patch.setattr(switch_kind, "OWN_TOKENS", 16)
        yield loading.load("tiny-llama", device="cpu")


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts pairs in the place of a dataset."""

    def put(*some: Any) -> None:
        corpus = PairCorpus("x", some, {}, "r", "")
        monkeypatch.setattr(switch_kind, "load_pairs", lambda *_: corpus)

    put(*PAIRS)
    return put


def plan_of(lm: LM, folder: Path, ways: tuple[str, ...] = WAYS) -> MeasurePlan:
    return switch_kind.plan(request(ways, folder, lambda: lm))


def check_switch_rows(lm: LM, folder: Path) -> None:
    """Every key is filled with what following and writing that pair alone gives.

    1. All pairs by all ways together, as a plan measures them.
    2. One pair by one way: `follow` and `generate_after_switch`.
    """
    plan = plan_of(lm, folder)
    rows = plan.measure(plan.keys)
    assert len(plan.keys) == len(PAIRS) * len(WAYS)
    assert set(zip(rows.sample_id, rows.condition, strict=True)) == set(
        zip(plan.keys.sample_id, plan.keys.condition, strict=True)
    )
    assert set(rows.status) == {"ok"}
    for pair in PAIRS[:3]:
        own = rows[rows.sample_id == pair.id].set_index("condition")
        switch = switch_kind.switch_of(pair, 0)
        assert switch.at == injection_fraction(pair, 0)
        assert switch.original == f"Problem: {pair.question}\nSolution:"
        assert switch.new == f"Problem: {pair.alt_problem}\nSolution:"
        alone = context_switch.follow(lm, [switch], ["injection"], steps=8, attention=True).iloc[0]
        for column in (*switch_kind.PER_TOKEN, "share_injected", "layer_share_original"):
            assert np.allclose(own.loc["injection", column], alone[column], atol=2e-5), column
        assert own.loc["injection", "score"] == pytest.approx(max(alone.kl_ignore), abs=2e-5)
        free = context_switch.generate_after_switch(
            lm, [switch], ["injection"], max_new_tokens=6, stop=switch_kind.line_ends(lm)
        ).iloc[0]
        assert len(own.loc["free:injection", "tokens"]) == len(free.ids)
        assert own.loc["free:injection", "correct"] == switch_kind.answers(
            free.text, pair.alt_answer
        )


@pytest.mark.usefixtures("pairs")
def test_switch_rows_are_the_instruments(short_switches: LM, tmp_path: Path) -> None:
    """Catches rows that got another pair's numbers, or another way's."""
    check_switch_rows(short_switches, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        replaced(
            switch_kind,
            "switch_of",
            lambda real, pair, seed: real(PAIRS[(PAIRS.index(pair) + 1) % len(PAIRS)], seed),
        ),
        replaced(
            switch_kind,
            "free_row",
            lambda real, lm, row, pair: {**real(lm, row, pair), "correct": 1},
        ),
        replaced(
            switch_kind,
            "followed_row",
            lambda real, lm, row: {**real(lm, row), "score": min(row["kl_ignore"])},
        ),
    ],
    ids=["next-pair", "always-right", "least-divergence"],
)
@pytest.mark.usefixtures("pairs")
def test_twin_switch_rows(short_switches: LM, fault: Fault, tmp_path: Path) -> None:
    """Rows of the next pair, always right answers and the least divergence are seen."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises(AssertionError):
            check_switch_rows(short_switches, tmp_path)


@pytest.mark.usefixtures("pairs")
def test_switch_rows_are_stored_whole(short_switches: LM, tmp_path: Path) -> None:
    """Catches lists and texts that are cut or reordered on their way through the store."""
    asked = request(("injection",), tmp_path, lambda: short_switches)
    stored = collect_rows(switch_kind.KIND, asked, tmp_path, progress=None).rows
    plan = switch_kind.plan(asked)
    both = stored.merge(
        plan.measure(plan.keys), on=["sample_id", "condition"], suffixes=("", "_new")
    )
    assert len(both) == len(PAIRS)
    for _, row in both.iterrows():
        assert list(row.tokens) == list(row.tokens_new)
        assert np.allclose(row.kl_oracle, row.kl_oracle_new, atol=2e-5)


def check_own_text(lm: LM, folder: Path) -> None:
    """Compare switches in the model's own text with those of the plain oracle.

    1. The engine: texts written in batches, ways followed on caches.
    2. `invariants.oracle.switched`: a text written by one uncached forward a token, and each way
       read in one pass.
    """
    ways = ("injection@own", "noise@own", "flush@own", "ignore@own")
    plan = plan_of(lm, folder, ways)
    rows = plan.measure(plan.keys).set_index(["sample_id", "condition"])
    assert set(rows.template) == set(plan.keys.template)
    assert set(rows.status) == {"ok"}
    ends = switch_kind.line_ends(lm)
    for pair in PAIRS[:2]:  # switched at different shares
        original, new = (
            tokenization.encode(lm.tokenizer, switch_kind.QUESTION.format(text))
            for text in (pair.question, pair.alt_problem)
        )
        text: list[int] = []
        while len(text) < switch_kind.OWN_TOKENS and not (text and text[-1] in ends):
            logps = switched.next_token_logps(lm.model, lm.bos_id, original, (), [*text, 0])[-1]
            banned = ends if len(text) < switch_kind.FEWEST_OWN else {lm.bos_id} - ends
            logps[sorted(banned)] = -np.inf
            text.append(int(logps.argmax()))
        text = [token for token in text if token != lm.bos_id]
        step = min(max(round(injection_fraction(pair, 0) * len(text)), 1), len(text) - 1)
        plain = switched.Plain(
            original, new, tuple(text[:step]), tuple(text[step : step + switch_kind.STEPS])
        )
        tokenized = TokenizedSwitch(pair.id, original, new, plain.before, plain.after)
        noise = switching.noise_ids(lm.tokenizer, tokenized, 0)
        oracle, ignore = (
            switched.read(lm.model, lm.bos_id, name, plain) for name in ("oracle", "ignore")
        )
        for way in ways:
            row = rows.loc[(pair.id, way)]
            assert row.step == step
            assert list(row.tokens) == [lm.tokenizer.decode([i]) for i in plain.after]
            own = switched.read(lm.model, lm.bos_id, way.removesuffix("@own"), plain, noise)
            for column, other in (("kl_oracle", oracle), ("kl_ignore", ignore)):
                kl = (own.logps.exp() * (own.logps - other.logps)).sum(-1).numpy()
                assert np.allclose(row[column], kl, atol=2e-5), (way, column)
            places = range(len(plain.after)), list(plain.after)
            ratio = (own.logps[places] - ignore.logps[places]).numpy()
            assert np.allclose(row.logratio_ignore, ratio, atol=2e-5), way


def test_the_models_own_text_is_switched_as_plain_passes_do(
    short_switches: LM, pairs: Callable[..., None], tmp_path: Path
) -> None:
    """Catches a text that is not the model's own, or a switch at another place of it."""
    pairs(*PAIRS[:2])
    check_own_text(short_switches, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        replaced(
            switch_kind,
            "own_switches",
            lambda real, lm, pairs, seed, budget: (
                [switch_kind.switch_of(pair, seed) for pair in pairs],
                real(lm, pairs, seed, budget)[1],
            ),
        ),
        replaced(switch_kind, "injection_fraction", lambda real, pair, seed: 1 - real(pair, seed)),
        replaced(switch_kind, "encode", lambda real, tokenizer, text: real(tokenizer, text)[:-1]),
    ],
    ids=["written-solution", "place-mirrored", "shorter-prompt"],
)
def test_twin_own_text(
    short_switches: LM, pairs: Callable[..., None], fault: Fault, tmp_path: Path
) -> None:
    """Would catch a check blind to the written solution, another place or another prompt."""
    pairs(*PAIRS[:2])
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises(AssertionError):
            check_own_text(short_switches, tmp_path)


def test_a_pair_that_cannot_be_read_keeps_its_reason(
    short_switches: LM, pairs: Callable[..., None], tmp_path: Path
) -> None:
    """Catches a pair without a row: it would be measured again and again, and not counted."""
    broken = dataclasses.replace(PAIRS[0], question=PAIRS[0].question + " word" * 3000)
    pairs(broken, *PAIRS[1:3])
    ways = (*WAYS, "injection@own")
    plan = plan_of(short_switches, tmp_path, ways)
    rows = plan.measure(plan.keys)
    own = rows[rows.sample_id == broken.id]
    assert len(own) == len(ways)
    assert own.status.str.contains("exact for").all()
    assert own[~own.condition.map(switch_kind.is_own)].status.nunique() == 1
    assert (rows[rows.sample_id != broken.id].status == "ok").all()


def check_answers() -> None:
    for text, answer, right in (
        ("5 + 3 = 8. The answer is 8", "8", True),
        ("The answer is 8, no, 9", "8", False),
        ("so 8 apples are left.", "8", True),
        ("nothing", "8", False),
        ("1,200 left: 2.5", "2.5", True),
        ("The answer is Paris.", "paris", True),
        ("Paris. The answer is Rome", "paris", False),
    ):
        assert switch_kind.answers(text, answer) is right, (text, answer)


def test_answers() -> None:
    """Catches an answer that is taken for right because its number stands somewhere."""
    check_answers()


def test_twin_answers() -> None:
    """Taking the first number for the last one is seen."""
    must_see(replaced(switch_kind, "numbers_in", lambda real, text: real(text)[:1]), check_answers)


def test_the_key_of_a_switch_depends_on_pair_and_rule(
    pairs: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches rows of another text, or of another number of tokens, under one key."""
    first = switch_kind.plan(request(WAYS, tmp_path)).keys
    pairs(dataclasses.replace(PAIRS[0], alt_problem=PAIRS[0].alt_problem + " "))
    changed = switch_kind.plan(request(WAYS, tmp_path)).keys
    assert changed.sample_hash.iloc[0] != first.sample_hash.iloc[0]
    monkeypatch.setattr(switch_kind, "STEPS", 999)
    longer = switch_kind.plan(request(WAYS, tmp_path)).keys
    assert longer.template.iloc[0] != first.template.iloc[0]


# --- hidden states --------------------------------------------------------------------------------

SENTENCE = " It is the sum of its entries along an axis, divided by how many there are."
TEXTS = (
    *(Text(f"t{i}", "The mean of a sample is a number.", SENTENCE * (2 + i)) for i in range(3)),
    Text("short", "A sum.", " No."),
)
SOURCES = ("human", "greedy", "shuffled")


def put_texts(patch: pytest.MonkeyPatch, *texts: Text) -> None:
    """Put texts in the place of a dataset."""
    corpus = TextCorpus("x", texts, {}, "r", "")
    patch.setattr(states_kind, "load_texts", lambda *_: corpus)


@pytest.fixture(scope="module")
def stored_states(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Rows of a tiny model as a claims run stores them."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        put_texts(patch, *TEXTS)
        for number in range(2):  # the second time nothing is missing, and nothing is loaded
            load, loads = counted_load()
            rows = collect_rows(
                states_kind.KIND, request(SOURCES, root, load), root, progress=None
            ).rows
            assert len(loads) == 1 - number
    assert (root / "_written").exists()
    return rows


def test_every_text_has_a_row_by_every_source(stored_states: pd.DataFrame) -> None:
    """Catches a text without a reason, or numbers that lack a layer."""
    assert len(stored_states) == len(TEXTS) * len(SOURCES)
    short = stored_states[stored_states["sample_id"] == "short"]
    assert set(short["status"]) == {"fewer than 20 tokens in the continuation"}
    rest = stored_states[stored_states["sample_id"] != "short"]
    assert set(rest["status"]) == {"ok"}
    depth = loading.load("tiny-llama", device="cpu").config.num_hidden_layers
    assert {len(x) for name in states_kind.STATS for x in rest[name]} == {depth}


def test_stored_states_are_the_instruments(stored_states: pd.DataFrame) -> None:
    """Catches rows that got another text's numbers.

    1. The stored rows.
    2. What `dynamics` and `trace` return for the same texts.
    """
    lm = loading.load("tiny-llama", device="cpu")
    texts = load_continuations(lm, TEXTS, SOURCES, seed=0).texts
    direct = hidden_states.dynamics(lm, texts).set_index(["id", "source"])
    layer = round(states_kind.TRACED * lm.config.num_hidden_layers) - 1
    steps = hidden_states.trace(lm, texts, layer).set_index(["id", "source"])
    for row in stored_states[stored_states["status"] == "ok"].to_dict("records"):
        place = row["sample_id"], row["condition"]
        assert row["ce"] == pytest.approx(direct.loc[place, "ce"], rel=1e-5)
        for name in states_kind.STATS:
            assert np.allclose(row[name], direct.loc[place, name], rtol=1e-4)
        assert list(row["tokens"]) == steps.loc[place, "token"].tolist()
        assert np.allclose(row["token_steps"], steps.loc[place, "step"], rtol=1e-4, equal_nan=True)


def test_another_text_or_rule_makes_another_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches keys that stay the same when the text or the length of continuations changes."""

    def key(text: Text) -> pd.Series[Any]:
        put_texts(monkeypatch, text)
        return states_kind.plan(request(("human",), tmp_path)).keys.iloc[0]

    first, other = key(TEXTS[0]), key(Text("t0", "Another.", " text"))
    assert first["sample_hash"] != other["sample_hash"]
    monkeypatch.setattr("kvcore.measurements.continuations.NEW_TOKENS", 10)
    assert key(TEXTS[0])["template"] != first["template"]


# --- divergence -----------------------------------------------------------------------------------

SAMPLES = tuple(
    Sample("what does it return", f"{word} words and more of them", f"the {word}", id=f"s{i}")
    for i, word in enumerate(("mean", "sum", "largest entry", "axis"))
)


def test_divergence_rows_are_stored_once_and_are_the_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches rows measured twice, and rows that got another sample's or pair's numbers.

    1. All samples with all pairs, through the store.
    2. `between` for one pair.
    """
    corpus = Corpus("x", SAMPLES, {}, "r", "sample", "")
    monkeypatch.setattr(divergence_kind, "load_corpus", lambda *_: corpus)
    asked = ("bare~random", "bare~bare")
    for number in range(2):
        load, loads = counted_load()
        rows = collect_rows(
            divergence_kind.KIND, request(asked, tmp_path, load), tmp_path, progress=None
        ).rows
        assert len(loads) == 1 - number
    rows = rows.set_index(["sample_id", "condition"])
    direct = divergence.between(load(), SAMPLES, [("bare", "random")]).set_index("sample_id")
    assert len(rows) == len(SAMPLES) * 2
    for name in direct.index:
        assert rows.loc[(name, "bare~random"), "js"] == pytest.approx(
            direct.loc[name, "js"], abs=1e-7
        )
        assert rows.loc[(name, "bare~bare"), "js"] == 0


def test_a_pair_is_two_conditions() -> None:
    """Catches a pair that is silently read as one condition."""
    assert divergence_kind.split("bare~random") == ("bare", "random")
    with pytest.raises(KvError, match="write two conditions"):
        divergence_kind.split("bare")
