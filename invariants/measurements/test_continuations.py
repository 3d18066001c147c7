"""Prefill dynamics from text to verdict: which rows are wanted, stored and made numbers of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from claims import dynamics
from claims.dynamics import (
    differences_of_surprise_and_steps,
    gap_at_the_end,
    gap_over_depth,
    per_layer,
    smoother,
    steps_and_token_nlls,
    surprise_and_steps,
)
from claims.estimands import Plan
from claims.measured import Rows
from invariants.support.comparing import must_see
from kvcore import loading
from kvcore.corpora.texts import Text
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


# --- estimands ----------------------------------------------------------------------------------


def made(
    name: str,
    offset: float,
    *,
    slope: float = 0.0,
    seed: int = 0,
    ce: float = 2.0,
    couple: float = 0.0,
) -> Rows:
    """Rows of 40 texts in 10 layers, steps = offset + slope * layer + noise + couple * CE."""
    rng = np.random.default_rng(seed)
    ces = ce + rng.normal(0, 0.5, 40)
    steps = [offset + slope * np.arange(10) + couple * c + rng.normal(0, 0.3, 10) for c in ces]
    tokens = [rng.uniform(0, 5, 30) for _ in ces]
    frame = pd.DataFrame(
        {
            "status": "ok",
            "ce": ces,
            "smoothness": steps,
            "relative_step": steps,
            "cosine": steps,
            "tokens": [["a"] * 30] * 40,
            "token_kinds": [["word", "space", "number"] * 10] * 40,
            "token_nlls": tokens,
            "token_steps": [np.r_[np.nan, t[1:] + rng.normal(0, 0.1, 29)] for t in tokens],
        },
        index=[f"t{i}" for i in range(40)],
    )
    return Rows(name, "ce", frame, tuple(frame.index), tuple)


def check_smoother() -> None:
    rough, smooth = made("human", 5.0, seed=1), made("greedy", 4.0, seed=2)
    assert smoother(rough, smooth, "step").compute(Plan()).estimate.ci_low > 0
    assert smoother(smooth, rough, "step").compute(Plan()).estimate.ci_high < 0


def test_larger_steps_of_the_first_source_are_positive() -> None:
    """The sign of every claim on steps: first less second."""
    check_smoother()

    def turned(patch: pytest.MonkeyPatch) -> None:
        right = dynamics.per_layer
        patch.setattr(dynamics, "per_layer", lambda rows, metric: -right(rows, metric))

    must_see(turned, check_smoother)


def test_a_gap_that_grows_has_a_positive_slope() -> None:
    """Over the first four fifths; a constant gap has none, and the end is looked at by itself."""
    flat, growing = made("a", 4.0, seed=3), made("b", 4.0, slope=0.2, seed=4)
    assert gap_over_depth(growing, flat, "step").compute(Plan()).estimate.ci_low > 0
    same = gap_over_depth(made("c", 5.0, seed=5), flat, "step").compute(Plan()).estimate
    assert same.ci_low < 0 < same.ci_high
    end = gap_at_the_end(growing, flat, "step").compute(Plan())
    assert end.details["mean difference"] == pytest.approx(0.2 * 9, abs=0.3)


def test_the_slope_is_least_squares() -> None:
    """The mean slope is NumPy's own fit of the mean gap over the first four fifths."""
    a, b = made("a", 4.0, slope=0.3, seed=6), made("b", 4.0, seed=7)
    gap = (per_layer(a, "step") - per_layer(b, "step")).mean(axis=0)[:8]
    found = gap_over_depth(a, b, "step").compute(Plan()).details["mean slope per layer"]
    assert found == pytest.approx(np.polyfit(np.arange(8), gap, 1)[0], abs=1e-12)


def test_surprise_and_steps_are_correlated_text_by_text() -> None:
    """Coupled numbers correlate, others do not; pooled texts are resampled as one."""
    coupled = made("human", 4.0, couple=1.0, seed=8)
    alone = made("greedy", 4.0, seed=9)
    assert surprise_and_steps("step", coupled).compute(Plan()).estimate.value > 0.8
    free = surprise_and_steps("step", alone).compute(Plan()).estimate
    assert free.ci_low < 0 < free.ci_high
    pooled = surprise_and_steps("step", coupled, alone).compute(Plan()).estimate
    assert (pooled.n, pooled.clusters) == (80, 40)
    differences = differences_of_surprise_and_steps("step", coupled, alone).compute(Plan())
    assert differences.estimate.ci_low > 0


def test_steps_that_follow_token_nlls_are_seen() -> None:
    """By rank, within each text; the table counts every step but the first token's."""
    found = steps_and_token_nlls(made("human", 4.0, seed=10)).compute(Plan())
    assert found.details["mean rank correlation"] > 0.9
    table, trace = found.plot["figures"]
    counts = {row[0]: int(row[1].replace(",", "")) for row in table["rows"]}
    assert counts["word"] + counts["space"] + counts["number"] == 40 * 29
    assert len(trace["tokens"]) == len(trace["y"]) == 29
