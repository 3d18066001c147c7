"""The page on what transfers says what was judged: every claim once, every verdict counted."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path

import pytest

from invariants import invented
from invariants.support.comparing import must_see, replaced
from kvcore.verdict import Cell, Judgement
from reports import transfer

ONE = invented.judgements()[0]
VERDICTS = ("supported", "refuted", "inconclusive")


def judged() -> list[Judgement]:
    """Return every pair of verdicts on two models, and a claim that only one was asked."""
    made = [_one(f"claim-{a}-{b}", model, metric, verdict)
            for a, b in product(VERDICTS, VERDICTS)
            for model, verdict in (("m2", a), ("m1", b)) for metric in ("nll", "nll_tail")]
    return [*made, _one("claim-lone", "m2", "nll", "refuted")]


def _one(claim: str, model: str, metric: str, verdict: str) -> Judgement:
    return dataclasses.replace(
        ONE, claim=dataclasses.replace(ONE.claim, id=claim, family="topic"),
        cell=Cell(model, "data", metric, "float32"), published=None,
        verdict=verdict if metric == "nll" else "inconclusive")


def check_page() -> None:
    text = transfer.page(judged())
    assert "| topic | 3 / 4 / 3 | 3 / 3 / 3 |" in text
    assert "| **all** | 3 / 4 / 3 | 3 / 3 / 3 |" in text
    for a, b in product(VERDICTS, VERDICTS):
        line = next(x for x in text.splitlines() if x.startswith(f"- **m2 {a}, m1 {b}**"))
        assert line.endswith(f"(1): claim-{a}-{b}.")
    assert "- **m2 refuted, m1 not judged** (1): claim-lone." in text
    assert text.count("claim-") == 10


def test_page() -> None:
    check_page()


def test_twin_page() -> None:
    last = replaced(transfer, "_first_metric", lambda real, some: real(list(some)[::-1]))
    must_see(last, check_page)


def check_tables() -> None:
    text = transfer.tables(judged())
    assert text.count("(n = ") == len(judged())
    assert "| m2 | data |" in text
    counts = next(x for x in text.splitlines() if x.startswith("| m2 "))
    assert counts.endswith("| 3 | 4 | 12 |")


def test_tables() -> None:
    check_tables()


def test_twin_tables() -> None:
    one_metric = replaced(transfer, "_cell", lambda real, some: real(list(some)[:1]))
    must_see(one_metric, check_tables)


def test_written_from_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    """Without a run it says what to do; with one it writes both files."""
    monkeypatch.setattr(transfer, "HERE", tmp_path)
    assert transfer.main() == 1
    assert "run `make reference` first" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(json.dumps(
        {"judgements": [j.to_dict() for j in judged()]}))
    assert transfer.main() == 0
    written = [Judgement.from_dict(j.to_dict() | {"plot": {"kind": "none"}}) for j in judged()]
    assert (tmp_path / "transfer.md").read_text() == transfer.page(written)
    assert (tmp_path / "verdicts.md").read_text() == transfer.tables(written)
