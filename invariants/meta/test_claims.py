"""The claims run as a whole: outcomes, the ledger, options and their one-line errors."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from claims import judging, ledger
from claims.estimands import (
    Plan,
    gate_against_everything,
    least_favourable,
    lower_against_upper_half,
    mean_benefit,
    mean_of,
    odd_even_trend,
    paired_benefit,
    share_of_samples,
    single_layers,
    trend_over_length,
)
from claims.harness import Lab
from claims.measured import Rows
from claims.options import Settings
from invariants import invented
from kvcore.errors import KvError

ROOT = Path(__file__).parents[1]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user would."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "COLUMNS": "200", **environment})


def outputs(folder: Path) -> list[str]:
    return [f"--junitxml={folder / 'junit.xml'}", f"--html={folder / 'report.html'}",
            "--self-contained-html"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole run on a tiny model: measured, judged, reported."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run("claims", "--kv-models", "tiny-gemma3", "--kv-limit", "12", "--kv-store",
                       str(folder / "store"), *outputs(folder))


def test_a_run_judges_and_reports(first_run: tuple[Path, Any]) -> None:
    """Every claim that applies gets a verdict; the page and the JUnit file carry it."""
    folder, done = first_run
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "random-prefix-helps" in done.stdout
    assert " error" not in done.stdout.splitlines()[-1]
    assert 'name="verdict"' in (folder / "junit.xml").read_text()
    page = (folder / "report.html").read_text()
    assert "one_base(random)" in page
    assert len(page) < 3_000_000


def test_a_second_run_loads_no_model(first_run: tuple[Path, Any]) -> None:
    """Stored rows are judged again to the same numbers, with no model within reach."""
    folder, before = first_run
    again = run("claims", "--kv-models", "tiny-gemma3", "--kv-no-measure", "--kv-store",
                str(folder / "store"), *outputs(folder))

    def table(done: Any) -> list[str]:
        return [line for line in done.stdout.splitlines() if "tiny-gemma3-docstrings" in line
                and ("supported" in line or "refuted" in line or "inconclusive" in line)
                and not line.startswith(("SKIPPED", "FAILED", "XFAIL"))]

    assert table(again) == table(before) != []


def test_nothing_judged_is_no_success(tmp_path: Path) -> None:
    """A run without any row says so and fails."""
    done = run("claims", "--kv-no-measure", "--kv-store", str(tmp_path), *outputs(tmp_path))
    assert done.returncode != 0
    assert "no claim was judged" in done.stdout
    assert "no stored rows for smollm2-135m" in done.stdout


@pytest.mark.parametrize(("options", "said"), [
    (["--kv-models", "smolm2"], "did you mean 'smollm2-135m'"),
    (["--kv-datasets", "docstring"], "did you mean 'docstrings'"),
    (["--kv-limit", "many"], "--kv-limit 'many': pass a whole number"),
    (["--kv-confidence", "95"], "pass a number between 0 and 1"),
    (["--kv-dtype", "int8"], "pass one of float32"),
])
def test_bad_options_are_one_line(options: list[str], said: str) -> None:
    """What was given, what is allowed."""
    done = run("claims", *options)
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_an_option_may_come_from_the_environment() -> None:
    """Each option has a variable, and the header shows the effective value."""
    done = run("claims", "--collect-only", "-q", "-v", KVCORE_MODELS="tiny-llama", KVCORE_SEED="7")
    assert "seed 7" in done.stdout
    assert "tiny-llama-docstrings-nll" in done.stdout


def test_explain_prints_conditions_and_measures_nothing(tmp_path: Path) -> None:
    """Every condition on one sample; no row stored, nothing judged, and no failure for that."""
    done = run("claims", "--kv-explain", "--kv-models", "tiny-llama", "--kv-store",
               str(tmp_path / "store"), *outputs(tmp_path))
    assert "random: whether any prefix, read and dropped again, helps" in done.stdout
    assert not (tmp_path / "store").exists()
    assert done.returncode == 0, done.stdout
    assert "no claim was judged" not in done.stdout


def test_every_claim_runs(tmp_path: Path) -> None:
    """The full selection, long documents included, is measured and judged without an error."""
    done = run("claims", "-m", "", "--kv-models", "tiny-llama", "--kv-limit", "10", "--kv-store",
               str(tmp_path / "store"), *outputs(tmp_path))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert " error" not in done.stdout.splitlines()[-1]
    for claim in ("primed-keys-interfere", "seeing-the-copies-hurts"):
        assert claim in done.stdout
    assert "MissingResource" not in done.stdout


def settings(**changed: Any) -> Settings:
    given: dict[str, Any] = dict.fromkeys(Settings.__dataclass_fields__)
    return Settings(**(given | {"strict": False, "record": False} | changed))


def judged(verdict: str, known: str = "") -> Any:
    return dataclasses.replace(invented.judgements()[0], verdict=verdict, ledger=known)


@pytest.mark.parametrize(("verdict", "known", "strict", "outcome"), [
    ("supported", "", False, "passed"),
    ("supported", "known refuted (recorded)", False, "failed"),
    ("refuted", "", False, "failed"),
    ("refuted", "known refuted (recorded)", False, "xfailed"),
    ("inconclusive", "", False, "skipped"),
    ("inconclusive", "", True, "failed"),
])
def test_verdicts_become_outcomes(verdict: str, known: str, strict: bool, outcome: str) -> None:
    """The table of the README, row by row."""
    said = {pytest.fail.Exception: "failed", pytest.skip.Exception: "skipped",
            pytest.xfail.Exception: "xfailed"}
    try:
        judging.conclude(judged(verdict, known), settings(strict=strict))
        told = "passed"
    except tuple(said) as raised:
        told = said[type(raised)]
    assert told == outcome


def test_the_ledger_round_trips_and_refuses_small_n(tmp_path: Path) -> None:
    """A refuted cell enters, a supported one leaves, too few samples change nothing."""
    path = tmp_path / "known.toml"
    one = judged("refuted")
    few = dataclasses.replace(one, estimate=dataclasses.replace(one.estimate, n=3, clusters=3))
    assert "not recorded" in ledger.record([few], "torch 0", path)[0]
    assert ledger.read(path) == {}
    ledger.record([one], "torch 0", path)
    assert list(ledger.read(path)) == [ledger.key_of(one)]
    ledger.record([judged("inconclusive")], "torch 0", path)
    assert list(ledger.read(path)) == [ledger.key_of(one)]
    ledger.record([judged("supported")], "torch 0", path)
    assert ledger.read(path) == {}


def test_a_broken_ledger_is_one_line(tmp_path: Path) -> None:
    """The entry and the fields it should have."""
    path = tmp_path / "known.toml"
    path.write_text('[[refuted]]\nclaim = "x"\n')
    with pytest.raises(KvError, match="entry 1") as error:
        ledger.read(path)
    assert "\n" not in str(error.value)


def rows(condition: str, tokens: list[list[float]], metric: str = "nll") -> Rows:
    frame = pd.DataFrame({
        "nll": [float(np.mean(t)) for t in tokens], "token_nlls": tokens, "status": "ok",
        "nll_tail": [float(np.mean(t[1:])) if t[1:] else float("nan") for t in tokens]},
        index=[f"s{i}" for i in range(len(tokens))])
    return Rows(condition, metric, frame, tuple(frame.index), tuple)


def test_benefit_is_baseline_minus_condition() -> None:
    """A condition with lower NLLs helps: the sign of every claim hangs on this."""
    rng = np.random.default_rng(0)
    bare = [list(x) for x in rng.uniform(1, 2, (40, 4))]
    lower = [[x - 0.5 + rng.normal(0, 0.1) for x in t] for t in bare]
    found = paired_benefit(rows("bare", bare), rows("random", lower)).compute(Plan())
    assert found.estimate.ci_low > 0
    assert found.details["mean benefit (nats/token)"] == pytest.approx(0.5, abs=0.1)


def test_odd_and_even_tokens_are_kept_apart() -> None:
    """Hardness and benefit share no token, so noise alone gives no trend."""
    rng = np.random.default_rng(1)
    bare = [list(x) for x in rng.uniform(0, 4, (400, 6))]
    other = [list(x) for x in rng.uniform(0, 4, (400, 6))]
    found = odd_even_trend(rows("bare", bare), rows("random", other)).compute(Plan())
    assert found.estimate.ci_low < 0 < found.estimate.ci_high
    coupled = found.details["as published: r(bare NLL, benefit)"]
    assert isinstance(coupled, float)
    assert coupled > 0.5  # the published estimand: large without any effect


def test_a_share_counts_only_measured_samples() -> None:
    """A sample that was dropped is no failure of the claim."""
    some = rows("bare", [[1.0, 2.0]] * 20)
    frame = some.frame.copy()
    frame.loc[["s0", "s1"], "status"] = None
    kept = Rows("bare", "nll", frame, some.clusters, tuple)
    found = share_of_samples("all", lambda f: f["nll"] > 0, kept).compute(Plan())
    assert (found.estimate.value, found.estimate.n) == (1.0, 18)


def varied(shift: float, seed: int = 3) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [[x + shift + rng.normal(0, 0.02)] * 2 for x in rng.uniform(1, 2, 30)]


def test_a_decaying_benefit_has_a_negative_slope() -> None:
    """Benefits of 0.4, 0.2 and 0 at 256, 512 and 1,024 tokens: a negative d; reversed, positive."""
    pairs = {n: (rows("bare", varied(0.0)), rows("p", varied(-gain, 4)))
             for n, gain in ((256, 0.4), (512, 0.2), (1024, 0.0))}
    found = trend_over_length(pairs).compute(Plan())
    assert found.estimate.ci_high < 0
    assert found.plot["x"] == [256, 512, 1024]
    backwards = dict(zip(pairs, reversed(pairs.values()), strict=True))
    assert trend_over_length(backwards).compute(Plan()).estimate.ci_low > 0


def test_lower_layers_count_against_what_the_upper_ones_add() -> None:
    """All the gain below half of the depth is positive; all of it above is negative."""
    bare = rows("bare", varied(0.0))
    early = {0.5: rows("h", varied(-0.5, 4)), 1.0: rows("a", varied(-0.5, 5))}
    late = {0.5: rows("h", varied(0.0, 4)), 1.0: rows("a", varied(-0.5, 5))}
    assert lower_against_upper_half(bare, early).compute(Plan()).estimate.ci_low > 0
    assert lower_against_upper_half(bare, late).compute(Plan()).estimate.ci_high < 0


def test_a_gain_that_falls_with_depth_has_a_negative_slope() -> None:
    """Layer by layer less gain: negative; from the last layer to the first: positive."""
    bare = rows("bare", varied(0.0))
    falling = {k: rows(f"l{k}", varied(-0.1 * (4 - k), 10 + k)) for k in range(4)}
    rising = {k: rows(f"l{k}", varied(-0.1 * k, 10 + k)) for k in range(4)}
    found = single_layers(bare, falling).compute(Plan())
    assert found.estimate.ci_high < 0
    assert found.details["layer with the largest d"] == "0"
    assert single_layers(bare, rising).compute(Plan()).estimate.ci_low > 0


def test_the_least_favourable_way_is_judged() -> None:
    """Of ways that help much, little and not at all, the last one."""
    bare = rows("bare", varied(0.0))
    gains = {"much": -0.5, "little": -0.1, "harm": 0.2}
    ways = {name: (bare, rows(name, varied(x, 4))) for name, x in gains.items()}
    found = least_favourable(ways, limits=(10,)).compute(Plan())
    assert found.estimate.value < 0
    assert str(found.details["least favourable"]).startswith("harm")
    drawn = found.plot["rows"]
    assert [row["judged"] for row in drawn].count(True) == 1
    assert len(drawn) == 2 * len(ways) + 1


def test_a_mean_of_conditions_is_taken_sample_by_sample() -> None:
    """The mean of 1 and 3 is 2, on both variants of the score; a sample lacking in one lacks."""
    one, three = (rows(str(x), [[float(x)] * 3] * 4) for x in (1, 3))
    three.frame.loc["s1", "nll"] = float("nan")
    found = mean_of(one, three)
    assert paired_benefit(one, found).conditions == ("1", "1", "3")
    assert found.values[[0, 2, 3]].tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(found.values[1])
    assert found.frame["nll_tail"].tolist() == [2.0] * 4


def test_a_gate_that_spares_the_harmed_beats_priming_everything() -> None:
    """Where easy answers are harmed and hard ones helped, the gate wins; the other way round, no.

    The odd tokens decide, the even ones are scored.
    """
    rng = np.random.default_rng(5)
    hard = rng.uniform(0, 3, 200)
    bare = [[h, 2.0 + rng.normal(0, 0.05)] for h in hard]
    won = [[h, e - (0.5 if h > 1.5 else -0.5)] for h, e in bare]
    lost = [[h, e + (0.5 if h > 1.5 else -0.5)] for h, e in bare]
    for primed, sign in ((won, 1), (lost, -1)):
        found = gate_against_everything(1.5, rows("bare", bare), rows("p", primed)).compute(Plan())
        assert sign * found.estimate.value > 0.5
        assert found.details["share of samples primed"] == pytest.approx(np.mean(hard > 1.5))


def test_a_mean_benefit_is_in_nats() -> None:
    """Baseline minus condition, not divided by anything."""
    found = mean_benefit(rows("bare", varied(0.0)), rows("p", varied(-0.25, 3))).compute(Plan())
    assert found.estimate.unit == "nats/token"
    assert found.estimate.value == pytest.approx(0.25, abs=1e-9)


def test_the_shipped_rows_have_no_other_verdict_than_the_ledger() -> None:
    """Every recorded entry stands on the shipped rows: same model, enough samples."""
    entries = ledger.read()
    assert entries
    for entry in entries.values():
        assert entry.source == "recorded"
        assert entry.model in ("smollm2-135m", "gemma3-270m")
        assert entry.n >= 25
        assert json.dumps(entry.versions)


def test_a_cell_is_explained_once() -> None:
    """Explanations are megabytes: the first judgement of a cell carries them, no other."""
    lab = Lab(settings(), {}, {})
    vars(lab)["explanations"] = lambda *cell: ({"condition": "bare", "model": cell[1]},)
    told = [lab.explained_once("scores", model, "docstrings") for model in ("a", "a", "b", "a")]
    assert [len(each) for each in told] == [1, 0, 1, 0]
    assert told[2][0]["model"] == "b"
