"""The page on what transfers says what was judged: every claim once, every verdict counted."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import product
from pathlib import Path

import pytest

from invariants.support import invented
from invariants.support.comparing import must_see, replaced
from kvcore.analysis import Estimate, over_models
from kvcore.verdict import Cell, Judgement, Published, Verdict
from reports.markdown import transfer

ANY = invented.judgements()[0]
VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "inconclusive")


def judged() -> list[Judgement]:
    """Return every pair of verdicts on two models, and a claim that only one was asked."""
    everywhere = [
        _judgement(f"claim-{a}-{b}", model, metric, verdict)
        for a, b in product(VERDICTS, VERDICTS)
        for model, verdict in (("m2", a), ("m1", b))
        for metric in ("nll", "nll_tail")
    ]
    return [*everywhere, _judgement("claim-lone", "m2", "nll", "refuted")]


def _judgement(claim: str, model: str, metric: str, verdict: Verdict) -> Judgement:
    return dataclasses.replace(
        ANY,
        claim=dataclasses.replace(ANY.claim, id=claim, family="topic"),
        cell=Cell(model, "data", metric, "float32"),
        published=None,
        verdict=verdict if metric == "nll" else "inconclusive",
    )


def check_page() -> None:
    text = transfer.transfer(judged())
    assert "| topic | 3 / 4 / 3 | 3 / 3 / 3 |" in text
    assert "| **all** | 3 / 4 / 3 | 3 / 3 / 3 |" in text
    for a, b in product(VERDICTS, VERDICTS):
        line = next(x for x in text.splitlines() if x.startswith(f"- **m2 {a}, m1 {b}**"))
        assert line.endswith(f"(1): claim-{a}-{b}.")
    assert "- **m2 refuted, m1 not judged** (1): claim-lone." in text
    outcomes, _, effects_table = text.partition("## Effects")
    assert (outcomes.count("claim-"), effects_table.count("claim-")) == (10, 9)


def test_page() -> None:
    """Catches a claim that is missing, counted twice or listed under another outcome."""
    check_page()


def test_twin_page() -> None:
    """The last metric of a claim in place of the first is seen."""
    last = replaced(transfer, "first_metric", lambda real, some: real(list(some)[::-1]))
    must_see(last, check_page)


def check_tables() -> None:
    text = transfer.verdicts(judged())
    assert text.count("(n = ") == len(judged())
    assert "| m2 | data |" in text
    counts = next(x for x in text.splitlines() if x.startswith("| m2 "))
    assert counts.endswith("| 3 | 4 | 12 |")


def test_tables() -> None:
    """Catches an estimate that is missing and a verdict that is not counted."""
    check_tables()


def test_twin_tables() -> None:
    """A second metric that is left out is seen."""
    must_see(replaced(transfer, "on_model", lambda real, *given: real(*given)[:1]), check_tables)


def test_written_from_the_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a missing run that is no clear error, and files that are not those of the run."""
    assert transfer.main(tmp_path) == 1
    assert "run `make reference` first" in capsys.readouterr().err
    (tmp_path / "out" / "latest").mkdir(parents=True)
    (tmp_path / "out" / "latest" / "results.json").write_text(
        json.dumps({"judgements": [j.to_dict() for j in judged()]})
    )
    assert transfer.main(tmp_path) == 0
    written = [Judgement.from_dict(j.to_dict() | {"plot": {"kind": "none"}}) for j in judged()]
    assert (tmp_path / "transfer.md").read_text() == transfer.transfer(written)
    assert (tmp_path / "verdicts.md").read_text() == transfer.verdicts(written)


def test_a_bar_in_a_statement_stays_in_its_cell() -> None:
    """Catches a statement or a published text that adds a column to its table."""
    claim = dataclasses.replace(ANY.claim, statement="a | b")
    published = Published(0.1, 9, "nll", text="c | d")
    text = transfer.verdicts([dataclasses.replace(ANY, claim=claim, published=published)])
    (line,) = (x for x in text.splitlines() if "a " in x and " b" in x and x.startswith("| a"))
    assert line.startswith("| a \\| b |")
    assert line.endswith("| c \\| d |")


def effects(by_model: dict[str, float], error: float) -> list[Judgement]:
    """Return one claim on several models, with an error and a normal interval."""
    return [
        dataclasses.replace(
            _judgement("claim", model, "nll", "supported"),
            estimate=Estimate(
                d, d - 1.96 * error, d + 1.96 * error, 0.95, "made up", 90, 30, "d", se=error
            ),
        )
        for model, d in by_model.items()
    ]


def row_of(judgements: list[Judgement]) -> list[str]:
    """Return the cells of the claim's line in the table of effects."""
    (line,) = (x for x in transfer.transfer(judgements).splitlines() if x.startswith("| claim | d"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def check_side_by_side() -> None:
    two = effects({"m2": 0.1, "m1": 0.7}, 0.1)
    reach = 1.95996 * 0.1 * math.sqrt(2)
    assert row_of(two) == [
        "claim",
        "d",
        "+0.100 [−0.096, +0.296]",
        "+0.700 [+0.504, +0.896]",
        f"+0.600 [+{0.6 - reach:.3f}, +{0.6 + reach:.3f}]",
        f"{math.sqrt(0.6**2 / 2 - 0.01):.3f}",
    ]
    text = transfer.transfer(two)
    assert "leaves out 0 in 1 of 1." in text
    assert "no pooled verdict" in text


def test_side_by_side() -> None:
    """Catches effects under another model, a difference turned round, and a pool of two.

    1. The table; 2. the difference of two independent effects, and tau from their variance.
    """
    check_side_by_side()


def test_twin_side_by_side() -> None:
    """A difference turned round, and a tau that leaves the errors in, are seen."""
    turned = replaced(over_models, "difference", lambda real, a, b: real(b, a))
    must_see(turned, check_side_by_side)
    exact = replaced(over_models, "standard_error", lambda real, e: real(e) / 10)
    must_see(exact, check_side_by_side)


def test_five_models_are_pooled() -> None:
    """Catches a pool of five that is not shown, or says that there is none."""
    models = {f"m{i}": 0.1 * i for i in range(5)}
    cells = row_of(effects(models, 0.05))
    pooled = over_models.pooled([j.estimate for j in effects(models, 0.05)])
    assert pooled is not None
    assert cells[-2] == transfer.interval_text(pooled.mean)
    assert cells[-2].startswith("+0.200")
    assert cells[-1] == f"[{pooled.low:+.3f}, {pooled.high:+.3f}]".replace("-", "−")
    assert "no pooled verdict" not in transfer.transfer(effects(models, 0.05))
