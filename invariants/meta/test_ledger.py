"""The ledger: its keys, what enters and leaves it, and that the shipped rows agree with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from claims.harness import ledger
from invariants.support import invented
from invariants.support.claim_runs import ClaimRun, copy_project, newest, run
from invariants.support.comparing import must_see
from kvcore import io
from kvcore.errors import KvError
from kvcore.verdict import Cell, Claim, Judgement, Verdict, at_least, helps, hurts


def judged(verdict: Verdict, **changes: Any) -> Judgement:
    readings = {"supported": "direction-only", "refuted": "reversed", "inconclusive": "open"}
    fields = {"verdict": verdict, "reading": readings[verdict], "ledger": ""}
    return dataclasses.replace(invented.judgements()[0], **(fields | changes))


def test_an_entry_stands_under_claim_version_cell_and_prediction() -> None:
    """A key that leaves one of the seven out, or takes two of them for one another."""
    claim = Claim("a-claim", 7, "It is so.", "a source", "a-family", helps(), 5)
    cell = Cell("a-model", "a-dataset", "a-metric", "a-dtype")
    where: tuple[Any, ...] = ("a-claim", 7, "a-metric", "a-model", "a-dtype", "a-dataset")
    key = (*where, ledger.prediction_hash(claim))
    assert ledger.key_of(judged("refuted", claim=claim, cell=cell)) == key
    measured: tuple[Any, ...] = ("recorded", 0.0, -1.0, 1.0, 10, "2026-01-02", "torch 0")
    fields = dict(zip(ledger.Entry.__dataclass_fields__, (*where, *measured), strict=False))
    assert ledger.Entry(**fields, prediction=key[-1]).key == key


def check_hash_of_predictions() -> None:
    """Every change of what refutes a claim changes its hash; its words do not."""
    claim = Claim("a-claim", 1, "It is so.", "a source", "a-family", helps(0.09, 0.2), 50)
    hashes = [
        ledger.prediction_hash(dataclasses.replace(claim, **changed))
        for changed in (
            {},
            {"prediction": helps(0.08, 0.2)},
            {"prediction": helps(0.09, 0.3)},
            {"prediction": helps(0.09, 0.2, unit="r")},
            {"prediction": hurts(0.09, 0.2)},
            {"prediction": at_least(0.5)},
            {"prediction": at_least(0.6)},
            {"min_n": 30},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert ledger.prediction_hash(dataclasses.replace(claim, statement="Said anew.")) == hashes[0]


def test_the_hash_of_a_prediction_names_all_that_refutes() -> None:
    """A margin, an effect, a unit or a least n that changes and leaves the entry in force."""
    check_hash_of_predictions()


def test_twin_a_hash_without_the_least_n_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above, were min_n not hashed."""
    right = io.json_digest
    monkeypatch.setattr(
        ledger, "json_digest", lambda value: right({k: v for k, v in value.items() if k != "min_n"})
    )
    with pytest.raises(AssertionError):
        check_hash_of_predictions()


def check_stale_entry(path: Path) -> None:
    """An entry of another prediction is not read for the claim, and is written anew."""
    path.unlink(missing_ok=True)
    before = judged("refuted")
    narrower = dataclasses.replace(before.claim, prediction=helps(0.04), min_n=50)
    after = dataclasses.replace(before, claim=narrower)
    ledger.record([before], "torch 0", path)
    assert ledger.read(path).get(ledger.key_of(after)) is None
    ledger.record([after], "torch 0", path)
    (entry,) = ledger.read(path).values()
    assert entry.key == ledger.key_of(after)
    assert entry.statement == narrower.statement
    ledger.record([before], "torch 0", path)
    ledger.record([dataclasses.replace(after, verdict="inconclusive")], "torch 0", path)
    assert ledger.read(path) == {}


def test_an_entry_of_another_prediction_is_stale(tmp_path: Path) -> None:
    """A refutation that is expected because another margin was once refuted there."""
    check_stale_entry(tmp_path / "known.toml")


def test_twin_a_key_without_the_prediction_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above, were the prediction no part of the key."""
    monkeypatch.setattr(ledger, "prediction_hash", lambda _claim: "")
    with pytest.raises(AssertionError):
        check_stale_entry(tmp_path / "known.toml")


def check_sources(path: Path) -> None:
    """Demand a published entry as such, in the words of its tests, and no other source."""
    path.unlink(missing_ok=True)
    ledger.record([judged("refuted")], "torch 0", path)
    recorded = path.read_text("utf-8")
    path.write_text(recorded.replace('source = "recorded"', 'source = "published"'), "utf-8")
    (entry,) = ledger.read(path).values()
    assert entry.described().startswith("known refuted (published ")
    path.write_text(recorded.replace('source = "recorded"', 'source = "guessed"'), "utf-8")
    with pytest.raises(KvError, match="`source='guessed'` must be published or recorded"):
        ledger.read(path)


def test_a_published_refutation_is_told_from_a_recorded_one(tmp_path: Path) -> None:
    """A cell whose refutation was published and is told as if a run here had found it."""
    check_sources(tmp_path / "known.toml")

    def without_its_source(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(ledger.Entry, "described", lambda entry: f"known refuted ({entry.date})")

    must_see(without_its_source, check_sources, tmp_path / "known.toml")


def test_the_ledger_round_trips_and_refuses_small_n(tmp_path: Path) -> None:
    """A refuted cell that does not enter, a supported one that stays, too few samples written."""
    path = tmp_path / "known.toml"
    one = judged("refuted")
    few = dataclasses.replace(one, estimate=dataclasses.replace(one.estimate, n=3, clusters=3))
    assert "not recorded" in ledger.record([few], "torch 0", path)[0]
    assert ledger.read(path) == {}
    ledger.record([one], "torch 0", path)
    (key,) = ledger.read(path)
    cell = ("nll", "invented-small", "float32", "docstrings")
    assert key == ("random-prefix-helps", 1, *cell, ledger.prediction_hash(one.claim))
    ledger.record([judged("inconclusive")], "torch 0", path)
    assert list(ledger.read(path)) == [key]
    ledger.record([judged("supported")], "torch 0", path)
    assert ledger.read(path) == {}


def test_writing_the_shipped_ledger_again_changes_no_byte(tmp_path: Path) -> None:
    """Entries lost or reformatted by the first --kv-record."""
    path = tmp_path / "known.toml"
    path.write_bytes(ledger.PATH.read_bytes())
    ledger.record([], "torch 0", path)
    assert path.read_bytes() == ledger.PATH.read_bytes()


def test_a_broken_ledger_is_one_line(tmp_path: Path) -> None:
    """A traceback in place of the entry and the fields it should have."""
    path = tmp_path / "known.toml"
    path.write_text('[[refuted]]\nclaim = "x"\n')
    with pytest.raises(KvError, match="entry 1") as error:
        ledger.read(path)
    assert "\n" not in str(error.value)


# --- the shipped rows --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What results.json says of each cell when the shipped rows are judged."""
    folder = copy_project(tmp_path_factory.mktemp("shipped"))
    stored = ("--kv-no-measure", "--kv-store", "reports/reference")
    models = ("--kv-models", "smollm2-135m,gemma3-270m,qwen2.5-coder-0.5b")
    done = run("claims", "-m", "", *stored, *models, cwd=folder)
    judgements: list[dict[str, Any]] = ClaimRun(0, newest(folder)).results["judgements"]
    few = [j for j in judgements if is_refuted(j) and not is_enough(j)]
    failed = [j for j in judgements if j["outcome"] == "failed"]
    assert failed == few, "only what too few samples refute fails: no ledger takes it"
    assert done.returncode == int(bool(few)), done.stdout + done.stderr
    return judgements


def is_refuted(judgement: Mapping[str, Any]) -> bool:
    """Whether a judgement of results.json is a refutation."""
    return bool(judgement["verdict"] == "refuted")


def is_enough(judgement: Mapping[str, Any]) -> bool:
    """Whether the ledger takes a judgement of so many samples."""
    return bool(judgement["estimate"]["n"] >= judgement["claim"]["min_n"])


def check_against_ledger(
    judgements: Iterable[dict[str, Any]], entries: Iterable[tuple[Any, ...]]
) -> None:
    """Compare cells that enough samples refute with entries, both ways."""
    refuted = {
        ledger.key_of(Judgement.from_dict({**judgement, "plot": {"kind": "none"}}))
        for judgement in judgements
        if is_refuted(judgement) and is_enough(judgement)
    }
    known = set(entries)
    assert refuted - known == set(), "refuted and not in the ledger"
    assert known - refuted == set(), "in the ledger and not refuted"


def test_the_shipped_rows_have_no_other_verdict_than_the_ledger(
    shipped: list[dict[str, Any]],
) -> None:
    """A refutation that the ledger lacks, or an entry that the shipped rows do not bear out."""
    assert len(shipped) > 300
    entries = list(ledger.read())
    check_against_ledger(shipped, entries)
    nobody = ("nobody-measured-this", *entries[0][1:])
    missing = [entry for entry in entries if entry != entries[0]]
    for broken in ([*entries, nobody], missing):
        with pytest.raises(AssertionError):
            check_against_ledger(shipped, broken)
