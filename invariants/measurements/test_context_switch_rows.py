"""Rows of adaptation: keyed by what they hang on, whole, and worth what a pair's texts say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from invariants.support.comparing import Fault, must_see, replaced
from kvcore import loading
from kvcore.data.context_pairs import pair
from kvcore.data.context_pairs.assignment import injection_fraction
from kvcore.data.context_pairs.load import load_pairs
from kvcore.measurements import context_switch, context_switch_rows
from kvcore.models import files as model_files
from kvcore.models.lm import LM
from kvcore.store.fill import measure_missing
from kvcore.store.shards import Store

WAYS = ("injection", "noise", "free:injection", "free:oracle")
PAIRS = load_pairs("word_problems", 6, 0).pairs


@pytest.fixture(scope="session")
def llama() -> Iterator[LM]:
    """A model that does the work of a trained one, in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_switch_rows, "STEPS", 8)
        patch.setattr(context_switch_rows, "NEW_TOKENS", 6)
        yield loading.load("tiny-llama", device="cpu")


def keys(ways: tuple[str, ...] = WAYS) -> pd.DataFrame:
    return context_switch_rows.rows(
        model_files.locate("tiny-llama"), "word_problems", PAIRS, ways, 0
    )


def check_rows(lm: LM) -> None:
    """Every key is filled with what following and writing that pair alone gives."""
    todo = keys()
    assert len(todo) == len(PAIRS) * len(WAYS)
    found = context_switch_rows.scorer(lambda: lm, PAIRS, None)(todo)
    assert set(zip(found.sample_id, found.condition, strict=True)) == set(
        zip(todo.sample_id, todo.condition, strict=True)
    )
    assert set(found.status) == {"ok"}
    for pair in PAIRS[:3]:
        own = found[found.sample_id == pair.id].set_index("condition")
        one = context_switch_rows.switch_of(pair, 0)
        assert one.at == injection_fraction(pair, 0)
        assert one.original == f"Problem: {pair.question}\nSolution:"
        assert one.new == f"Problem: {pair.alt_problem}\nSolution:"
        alone = context_switch.follow(lm, [one], ["injection"], steps=8, attention=True).iloc[0]
        for column in (*context_switch_rows.PER_TOKEN, "share_injected", "layer_share_original"):
            assert np.allclose(own.loc["injection", column], alone[column], atol=2e-5), column
        assert own.loc["injection", "score"] == pytest.approx(max(alone.kl_ignore), abs=2e-5)
        written = context_switch.generate_after_switch(
            lm, [one], ["injection"], max_new_tokens=6, stop=context_switch_rows._line_ends(lm)
        ).iloc[0]
        assert len(own.loc["free:injection", "tokens"]) == len(written.ids)
        assert own.loc["free:injection", "correct"] == context_switch_rows.answers(
            written.text, pair.alt_answer
        )


def test_rows(llama: LM) -> None:
    check_rows(llama)


@pytest.mark.parametrize(
    "fault",
    [
        replaced(
            context_switch_rows,
            "switch_of",
            lambda real, pair, seed: real(PAIRS[(PAIRS.index(pair) + 1) % len(PAIRS)], seed),
        ),
        replaced(
            context_switch_rows,
            "_freed",
            lambda real, lm, row, pair: {**real(lm, row, pair), "correct": 1},
        ),
    ],
    ids=["next-pair", "always-right"],
)
def test_twin_rows(llama: LM, fault: Fault) -> None:
    must_see(fault, check_rows, llama)


def test_rows_are_stored_whole(llama: LM, tmp_path: Path) -> None:
    """What is written to a store is what is read back, lists and texts too."""
    store = Store(tmp_path, context_switch_rows.ADAPTATION)
    todo = keys(("injection",))
    measure_missing(
        store,
        todo,
        context_switch_rows.scorer(lambda: llama, PAIRS, None),
        meta=dict,
        shard_samples=2,
    )
    stored = store.read()
    fresh = context_switch_rows.scorer(lambda: llama, PAIRS, None)(todo)
    both = stored.merge(fresh, on=["sample_id", "condition"], suffixes=("", "_new"))
    assert len(both) == len(PAIRS)
    for _, row in both.iterrows():
        assert list(row.tokens) == list(row.tokens_new)
        assert np.allclose(row.kl_oracle, row.kl_oracle_new, atol=2e-5)


def test_a_pair_that_cannot_be_read_keeps_its_reason(llama: LM) -> None:
    """It is a row with a status, so that it is counted and not measured again and again."""
    broken = dataclasses.replace(PAIRS[0], question=PAIRS[0].question + " word" * 3000)
    todo = context_switch_rows.rows(
        model_files.locate("tiny-llama"), "x", [broken, *PAIRS[1:3]], WAYS, 0
    )
    found = context_switch_rows.scorer(lambda: llama, [broken, *PAIRS[1:3]], None)(todo)
    own = found[found.sample_id == broken.id]
    assert len(own) == len(WAYS)
    assert own.status.str.contains("exact for").all()
    assert (found[found.sample_id != broken.id].status == "ok").all()


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
        assert context_switch_rows.answers(text, answer) is right, (text, answer)


def test_answers() -> None:
    check_answers()


def test_twin_answers() -> None:
    must_see(replaced(pair, "numbers_in", lambda real, text: real(text)[:1]), check_answers)


def test_the_key_hangs_on_pair_and_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another text or another number of tokens is another row."""
    mine = keys()
    other = [dataclasses.replace(PAIRS[0], alt_problem=PAIRS[0].alt_problem + " ")]
    changed = context_switch_rows.rows(
        model_files.locate("tiny-llama"), "word_problems", other, WAYS, 0
    )
    assert changed.sample_hash.iloc[0] != mine.sample_hash.iloc[0]
    monkeypatch.setattr(context_switch_rows, "STEPS", 999)
    assert keys().template.iloc[0] != mine.template.iloc[0]
