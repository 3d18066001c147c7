"""Prefill dynamics from text to verdict: which rows are wanted, stored and made numbers of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvcore import loading
from kvcore.data.texts import Text
from kvcore.measurements import answer_nll_rows, hidden_states, hidden_states_rows
from kvcore.measurements.continuations import load_continuations
from kvcore.models.files import locate
from kvcore.store.fill import measure_missing
from kvcore.store.schema import KEY
from kvcore.store.shards import Store

SENTENCE = " It is the sum of its entries along an axis, divided by how many there are."
TEXTS = (
    *(Text(f"t{i}", "The mean of a sample is a number.", SENTENCE * (2 + i)) for i in range(3)),
    Text("short", "A sum.", " No."),
)
SOURCES = ("human", "greedy", "shuffled")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Rows of a tiny model as a claims run stores them."""
    root = tmp_path_factory.mktemp("store")
    files = locate("tiny-llama")
    keys = hidden_states_rows.rows(files, "x", TEXTS, SOURCES, 0)
    store = Store(root / hidden_states_rows.FOLDER, hidden_states_rows.DYNAMICS)
    loads = []

    def load() -> Any:
        loads.append(1)
        return loading.load("tiny-llama", device="cpu")

    for _ in range(2):  # the second time nothing is missing, and nothing is loaded
        measure_missing(
            store, keys, hidden_states_rows.scorer(load, TEXTS, root, None), meta={}, progress=None
        )
    assert len(loads) == 1
    assert (root / "_written").exists()
    return store.read()


def test_every_text_has_a_row_by_every_source(stored: pd.DataFrame) -> None:
    """What cannot be compared has a reason; what can has numbers for every layer."""
    assert len(stored) == len(TEXTS) * len(SOURCES)
    short = stored[stored["sample_id"] == "short"]
    assert set(short["status"]) == {"fewer than 20 tokens in the continuation"}
    rest = stored[stored["sample_id"] != "short"]
    assert set(rest["status"]) == {"ok"}
    depth = loading.load("tiny-llama", device="cpu").config.num_hidden_layers
    assert {len(x) for name in hidden_states_rows.STATS for x in rest[name]} == {depth}


def test_stored_numbers_are_the_instruments(stored: pd.DataFrame) -> None:
    """Row by row what `dynamics` and `trace` return for the same texts."""
    lm = loading.load("tiny-llama", device="cpu")
    texts = load_continuations(lm, TEXTS, SOURCES, seed=0).texts
    direct = hidden_states.dynamics(lm, texts).set_index(["id", "source"])
    layer = round(hidden_states_rows.TRACED * lm.config.num_hidden_layers) - 1
    steps = hidden_states.trace(lm, texts, layer).set_index(["id", "source"])
    for row in stored[stored["status"] == "ok"].to_dict("records"):
        place = row["sample_id"], row["condition"]
        assert row["ce"] == pytest.approx(direct.loc[place, "ce"], rel=1e-5)
        for name in hidden_states_rows.STATS:
            assert np.allclose(row[name], direct.loc[place, name], rtol=1e-4)
        assert list(row["tokens"]) == steps.loc[place, "token"].tolist()
        assert np.allclose(row["token_steps"], steps.loc[place, "step"], rtol=1e-4, equal_nan=True)


def test_another_text_or_rule_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys change with the text and with how long continuations are."""
    files = locate("tiny-llama")
    one = hidden_states_rows.rows(files, "x", TEXTS[:1], ("human",), 0)
    other = hidden_states_rows.rows(files, "x", [Text("t0", "Another.", " text")], ("human",), 0)
    assert one["sample_hash"].iloc[0] != other["sample_hash"].iloc[0]
    assert list(one.columns) == [*KEY, "length"]
    monkeypatch.setattr("kvcore.measurements.continuations.NEW_TOKENS", 10)
    assert (
        hidden_states_rows.rows(files, "x", TEXTS[:1], ("human",), 0)["template"].iloc[0]
        != (one["template"].iloc[0])
    )


def test_the_dynamics_code_has_a_hash_of_its_own() -> None:
    """Scores and dynamics are keyed by other modules."""
    assert hidden_states_rows.code() != answer_nll_rows.code()
    folder = Path(answer_nll_rows.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in hidden_states_rows.NUMBER_MODULES)
