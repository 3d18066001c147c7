"""Attention shares: what a claim shows beside its mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from claims.harness.estimands import sinks
from claims.harness.estimands.sinks import attention_plot, gain_where_none_was, mean_share
from claims.harness.rows import Rows
from invariants.support.comparing import must_see, replaced
from invariants.support.estimand_rows import computed


def rows(condition: str, shares: Mapping[str, float | None]) -> Rows:
    """Return rows of samples with a share on a sink in the prefix; None was not measured."""
    frame = pd.DataFrame(
        {
            "status": ["ok" if x is not None else None for x in shares.values()],
            "sink_share": list(shares.values()),
            "prefix_share": list(shares.values()),
            "sink_part": ["prefix" if x is not None else None for x in shares.values()],
            "sink_norm": 100.0,
            "median_norm": 10.0,
            "profile": [
                [0.1, *[0.0] * 8, x or 0.0, *[0.0] * 8, 0.4 - (x or 0.0), 0.0, 0.5]
                for x in shares.values()
            ],
        },
        index=list(shares),
    ).astype({"sink_share": float, "prefix_share": float})
    return Rows(condition, "sink_share", frame, tuple(frame.index), tuple)


SEEN = {f"s{i}": 0.2 + 0.01 * i for i in range(6)}
BARE = {f"s{i}": 0.0 if i < 4 else None for i in range(6)}


def check_beside() -> None:
    """Demand the mean over all samples, and bars over those that every condition has."""
    found = computed(mean_share, rows("full_context(random)", SEEN), rows("bare", BARE))
    assert round(found.estimate.value, 6) == 0.225
    bars = found.plot["bars"]
    assert [bar["label"] for bar in bars] == ["bare", "primed, in sight"]
    assert bars[0]["y"] == [0.1, 0.0, 0.0, 0.0, 0.4, 0.5]
    assert bars[1]["y"] == [0.1, 0.215, 0.0, 0.0, 0.185, 0.5]
    assert found.plot["x_label"].endswith("mean of 4 samples")


def test_bars_stand_for_the_same_samples() -> None:
    """Fault: bars over unlike samples, in another order, or a mean over the bars' samples."""
    check_beside()


def test_twin_bars_of_unlike_samples_are_seen() -> None:
    """Fault: a check blind to the samples behind a bar."""

    def alone(real: object, frames: dict[str, pd.DataFrame]) -> object:
        both = [real({name: frame}) for name, frame in frames.items()]  # type: ignore[operator]
        return {**both[0], "bars": [bar for each in both[::-1] for bar in each["bars"]]}

    must_see(replaced(sinks, "attention_plot", alone), check_beside)


def test_without_rows_a_bar_says_so() -> None:
    """Fault: a bar of zeros in place of what was not measured."""
    plot = attention_plot({"bare": rows("bare", BARE).frame, "keep_sink(random)": None})
    assert [bool(bar["y"]) for bar in plot["bars"]] == [True, False]
    assert plot["bars"][1]["missing"] == "no rows stored yet"


def nlls(condition: str, values: Mapping[str, float], norms: Mapping[str, float]) -> Rows:
    """Return rows of samples with an NLL, and the norm of the sink over a median of 10."""
    frame = pd.DataFrame(
        {"nll": values, "sink_norm": norms, "median_norm": 10.0, "status": "ok"},
        index=list(values),
    )
    return Rows(condition, "nll", frame, tuple(frame.index), tuple)


def check_gain() -> None:
    """Demand r above 0 where samples without a sink gain more, by norms of the bare pass alone."""
    names = [f"s{i}" for i in range(40)]
    norms = {name: 15.0 if i % 4 == 0 else 90.0 for i, name in enumerate(names)}
    norms["s39"] = float("nan")  # not measured: in neither group
    bare = nlls("bare", dict.fromkeys(names, 3.0), norms)
    gains = {name: 0.5 if i % 4 == 0 else 0.1 for i, name in enumerate(names)}
    noise = np.random.default_rng(0).normal(0, 0.1, len(names))
    kept = {name: 3.0 - gains[name] + e for name, e in zip(names, noise, strict=True)}
    other = nlls("keep_sink(random)", kept, dict.fromkeys(names, 90.0))
    found = computed(gain_where_none_was, bare, other)
    none, some = ([i for i in range(39) if (i % 4 == 0) == wanted] for wanted in (True, False))
    expected = np.corrcoef(
        [1.0] * len(none) + [0.0] * len(some), [3.0 - kept[f"s{i}"] for i in (*none, *some)]
    )[0, 1]
    assert found.estimate.value == pytest.approx(expected)
    assert found.estimate.ci_low > 0.5
    assert found.estimate.n == 39
    words = found.details["mean benefit where the bare pass has no sink (nats/token)"]
    assert words == f"{np.mean([3.0 - kept[f's{i}'] for i in none]):+.3f}, n = {len(none)}"


def test_gains_where_the_bare_pass_has_no_sink() -> None:
    """Fault: the groups exchanged, told by the condition's own norms, or a sample not measured."""
    check_gain()


def test_twin_groups_exchanged_are_seen() -> None:
    """Fault: a check blind to which samples have no sink."""
    must_see(
        replaced(sinks, "lacks_sink", lambda real, frame: ~real(frame)),
        check_gain,
    )
