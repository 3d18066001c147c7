"""The page of the sinks says what the shipped rows say: figures, picture, and what is not there."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import sinks_page, slot_picture
from benchmarks.sinks_page import Cell
from claims.harness import registry
from invariants.support import markdown
from invariants.support.comparing import must_see, replaced
from kvcore.measurements.sink_diagnosis import SHARES
from kvcore.measurements.sink_parts import PARTS

ROOT = Path(__file__).parents[2]
NAMES = ("bare", "full_context(random)", "random", "keep_sink(random)")
FIGURE = re.compile(r"([+−]?\d\.\d{3}) \[.*\], n = ([\d,]+)")


@pytest.fixture(scope="module")
def cells() -> Mapping[str, Cell]:
    """Return the shipped rows of every model."""
    return {model: sinks_page.cell(model, sinks_page.STORE) for model in sinks_page.MODELS}


@pytest.fixture(scope="module")
def more() -> Mapping[str, Cell]:
    """Return the shipped rows of the model whose sink is not BOS on other data and without BOS."""
    return sinks_page.further_cells(sinks_page.STORE)


def page_texts(picture: str) -> list[str]:
    """Return the texts of a picture, its label first."""
    root = ET.fromstring(picture)
    return [root.attrib["aria-label"], *filter(None, (t.strip() for t in root.itertext()))]


def check_page(cells: Mapping[str, Cell], more: Mapping[str, Cell]) -> None:
    """Demand the page and the texts of the picture as these rows make them."""
    page = sinks_page.PAGE.read_text(encoding="utf-8")
    assert sinks_page.with_figures(page, sinks_page.figures(cells, more)) == page
    shown = page_texts(sinks_page.PICTURE.read_text(encoding="utf-8"))
    assert shown == page_texts(sinks_page.picture(cells))
    shown = page_texts(sinks_page.SLOTS.read_text(encoding="utf-8"))
    assert shown == page_texts(slot_picture.picture(cells, sinks_page.BARS))


def test_the_page_is_written_from_the_shipped_rows(
    cells: Mapping[str, Cell], more: Mapping[str, Cell]
) -> None:
    """Fault: rows that were shipped, or a page edited by hand, without the command run again."""
    check_page(cells, more)


@pytest.mark.parametrize("name", ["place_words", "benefit", "share", "without_sink", "plot_of"])
def test_twin_a_page_of_other_rows_is_seen(
    cells: Mapping[str, Cell], more: Mapping[str, Cell], name: str
) -> None:
    """Fault: a check that does not look at a table, or at the picture."""
    real = getattr(sinks_page, name)
    some = next(iter(cells.values()))
    fault = replaced(
        sinks_page,
        name,
        lambda _, own, *more: real(some if isinstance(own, dict) else some["bare"], *more),
    )
    must_see(fault, check_page, cells, more)


def check_slots(cells: Mapping[str, Cell]) -> None:
    """Compare the shares of single slots with those of the rows' other columns."""
    for model, own in cells.items():
        profiles = slot_picture.mean_profiles(own, sinks_page.BARS)
        common = set.intersection(*(set(own[name].index) for name in sinks_page.BARS))
        for name, profile in profiles.items():
            rows = own[name][[sample in common for sample in own[name].index]]
            assert sum(profile.values()) == pytest.approx(1, abs=1e-5), (model, name)
            assert profile["BOS"] == pytest.approx(rows["bos_share"].mean(), abs=1e-6)
            of_prefix = sum(share for part, share in profile.items() if "prefix" in part)
            assert of_prefix == pytest.approx(rows["prefix_share"].mean(), abs=1e-6)
        kept, one_slot = own["keep_sink(random)"], profiles["keep_sink(random)"]["prefix 1"]
        there = kept.loc[sorted(common)]
        in_prefix = there["sink_share"].where(there["sink_part"] == "prefix", 0.0)
        assert one_slot == pytest.approx(in_prefix.mean(), abs=2e-3), model


def test_single_slots_have_the_shares_of_their_rows(cells: Mapping[str, Cell]) -> None:
    """Fault: slots shifted by one, another condition's rows, means over other samples."""
    check_slots(cells)


def test_twin_slots_shifted_by_one_are_seen(
    cells: Mapping[str, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a check blind to which slot a share is of."""
    monkeypatch.setattr(slot_picture, "PARTS", (*PARTS[1:], PARTS[0]))
    with pytest.raises(AssertionError):
        check_slots(cells)


def check_figures(cells: Mapping[str, Cell]) -> None:
    """Compare every figure of the models with one from the rows' columns by arithmetic alone."""
    of_models = sinks_page.figures(cells, {}).partition(f"| {sinks_page.ELSEWHERE}, ")[0]
    check_lines(of_models.splitlines(), cells)


def check_lines(lines: Sequence[str], cells: Mapping[str, Cell]) -> None:
    """Compare the figures of a table with those of the cells, a column each."""
    for number, (model, own) in enumerate(cells.items(), 1):
        for line in lines:
            cut = [part.strip() for part in line.split("|")[1:-1]]
            names = re.findall(r"`([^`]+)`", cut[0]) if cut else []
            if len(names) == 2 and {*names} <= own.keys():
                after, before = (own[name]["nll"] for name in names)
                gain = (before - after).dropna()
                scale = before[gain.index].clip(lower=1)
                changed = (gain.abs() > 3e-4 * scale).any()  # float32, in nats
                value = gain.mean() / gain.std(ddof=1) if changed else math.nan
                n = len(gain)
            elif cut and cut[0].startswith("samples without a sink") and names[0] in own:
                rows = own[names[0]]
                none = sum(
                    a / b < 2 for a, b in zip(rows["sink_norm"], rows["median_norm"], strict=True)
                )
                assert cut[number] == f"{none} of {len(rows)}", (model, line)
                continue
            elif cut and cut[0] == "BOS's share, bare":
                value, n = own["bare"]["bos_share"].mean(), len(own["bare"])
            else:
                continue
            if not math.isfinite(value):
                assert cut[number] == f"no change, n = {n}", (model, line)
                continue
            found = FIGURE.match(cut[number])
            assert found, (model, line)
            assert float(found[1].replace("−", "-")) == pytest.approx(value, abs=6e-4), line
            assert int(found[2].replace(",", "")) == n, line


def test_figures_are_those_of_the_rows(cells: Mapping[str, Cell]) -> None:
    """Fault: a benefit with the wrong sign or over other samples, a model in another's column."""
    check_figures(cells)


def test_twin_turned_benefits_are_seen(cells: Mapping[str, Cell]) -> None:
    """Fault: a check blind to the sign of a benefit."""

    def turned(real: object, own: Cell, baseline: str, name: str) -> object:
        return real(own, name, baseline)  # type: ignore[operator]

    must_see(replaced(sinks_page, "benefit", turned), check_figures, cells)


def check_further_figures(cells: Mapping[str, Cell], more: Mapping[str, Cell]) -> None:
    """Compare the figures without BOS, and by whether the bare pass has a sink, by arithmetic."""
    own = cells[sinks_page.ELSEWHERE]
    by_begin = {"with BOS": own, "without BOS": more["without BOS"]}
    check_lines(sinks_page.without_bos(by_begin).splitlines(), by_begin)
    by_data = {"docstrings": own, "service_manuals": more["service_manuals"]}
    columns = [(data, none) for data in by_data for none in (True, False)]
    counted = 0
    for line in sinks_page.by_sink(by_data).splitlines()[2:]:
        cut = [part.strip() for part in line.split("|")[1:-1]]
        name = re.findall(r"`([^`]+)`", cut[0])[0]
        for (data, none), cell in zip(columns, cut[1:], strict=True):
            bare = by_data[data]["bare"]
            groups = [
                sample
                for sample, norm, median in zip(
                    bare.index, bare["sink_norm"], bare["median_norm"], strict=True
                )
                if (norm / median < 2) is none and sample in by_data[data][name].index
            ]
            nlls = [float(by_data[data][name]["nll"][sample]) for sample in groups]
            gains = [float(bare["nll"][s]) - x for s, x in zip(groups, nlls, strict=True)]
            found = FIGURE.match(cell)
            assert found, line
            expected = np.mean(nlls if name == "bare" else gains)
            assert float(found[1].replace("−", "-")) == pytest.approx(expected, abs=6e-4), line
            assert int(found[2]) == len(groups)
            counted += 1
    assert counted == 16


def test_further_figures_are_those_of_their_rows(
    cells: Mapping[str, Cell], more: Mapping[str, Cell]
) -> None:
    """Fault: samples with a sink among those without, another corpus, or the other caches' rows."""
    check_further_figures(cells, more)


def test_twin_samples_in_the_other_group_are_seen(
    cells: Mapping[str, Cell], more: Mapping[str, Cell]
) -> None:
    """Fault: a check blind to which samples have a sink."""
    must_see(
        replaced(sinks_page, "lacks_sink", lambda real, rows: ~real(rows)),
        check_further_figures,
        cells,
        more,
    )


def invented(names: tuple[str, ...]) -> Cell:
    """Return rows of a model whose sink is in the prefix, twelve samples a condition."""
    rng = np.random.default_rng(0)

    def rows(name: str) -> pd.DataFrame:
        there = "context" in name or "keep" in name
        sink = 0.25 if there else 0.0
        profile = [0.01, *[0.0] * 8, sink, *[0.0] * 8, 0.55 - sink, 0.0, 0.44]
        return pd.DataFrame(
            {
                "condition": name,
                "status": "ok",
                "cluster": [f"m{i}" for i in range(12)],
                "nll": rng.uniform(1, 3, 12),
                "profile": [profile] * 12,
                "bos_share": 0.01,
                "prefix_share": sink,
                "sink_share": sink,
                "sink_part": "document" if name == "bare" else "prefix",
                "sink_slot": 2,
                "sink_token": "x",
                "sink_norm": 500.0,
                "median_norm": 20.0,
            },
            index=pd.Index([f"s{i}" for i in range(12)], name="sample"),
        )

    return {name: rows(name) for name in names}


@pytest.mark.parametrize("seen", [True, False])
def test_rows_that_are_not_stored_are_said_in_words(seen: bool) -> None:
    """Fault: an empty bar or column, or a picture that fails, until rows are shipped."""
    own = invented(NAMES if seen else tuple(n for n in NAMES if "context" not in n))
    texts = page_texts(sinks_page.picture({"a model": own}))
    assert ("no rows stored yet" in texts) is not seen
    assert texts.count("0.25") == (2 if seen else 1)
    block = sinks_page.figures({"a model": own}, {})
    row = next(line for line in block.splitlines() if line.startswith("| sink's share, primed"))
    assert ("no rows stored yet" in row) is not seen
    bar = next(line for line in block.splitlines() if "| primed, in sight" in line)
    numbers = [0.01, 0.25, 0.0, 0.0, 0.3, 0.44] if seen else []
    assert [f"{x:.3f}" for x in numbers] == re.findall(r"\d\.\d{3}", bar)
    assert len(bar.split("|")) == len(SHARES) + 4


def test_a_model_of_which_nothing_is_stored_is_said_in_words() -> None:
    """Fault: a page that cannot be written before every model has rows."""
    assert "no bare row tells where the sink is" in sinks_page.figures({"a model": {}}, {})
    assert page_texts(sinks_page.picture({"a model": {}})).count("no rows stored yet") == 4
    slots = slot_picture.picture({"a model": {}}, NAMES)
    assert page_texts(slots).count("no rows stored yet") == 4


def _column(model: str, heads: Sequence[str]) -> str:
    """Return the head of a model's column on docstrings."""
    return next(head for head in heads if head in (model, f"{model} × {sinks_page.DATASET}"))


def letter(cell: str) -> str:
    """Return the verdict of the first estimate in a cell of verdicts.md: S, R or ?."""
    found = re.search(r"\*\*([SR])\*\*|(\?)", cell)
    assert found, cell
    return found[1] or found[2]


def check_outcomes(page: str, verdicts: str) -> None:
    """Demand what the page says came out of each prediction, by the claims' own verdicts."""
    lines = verdicts.partition("## Sinks\n")[2].partition("\n## ")[0].splitlines()
    shipped = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in lines}
    specs = [spec for spec in registry.all_specs() if spec.claim.family == "sinks"]
    columns = [
        shipped["claim"].index(_column(model, shipped["claim"])) for model in sinks_page.MODELS
    ]
    told = 0
    for row in markdown.table_rows(page, "## What was predicted"):
        slugs = re.findall(r"`([a-z-]+(?:-…)?)`", row[0].partition(":")[0])
        own = [s for s in specs if any(s.claim.id.startswith(slug.rstrip("…")) for slug in slugs)]
        for cell, column in zip(row[2:], columns, strict=True):
            if "→" in cell:
                lines_of = (shipped[spec.claim.statement.splitlines()[0]] for spec in own)
                found = [letter(line[column]) for line in lines_of]
                assert cell.partition("→")[2].strip() == ", ".join(found), row[0]
                told += len(found)
    assert told > 30


def test_what_came_out_is_what_was_shipped() -> None:
    """Fault: a prediction that failed and is told as one that held."""
    page = sinks_page.PAGE.read_text(encoding="utf-8")
    verdicts = (ROOT / "reports" / "verdicts.md").read_text("utf-8")
    check_outcomes(page, verdicts)
    failed = page.replace("supported → R, R, R", "supported → S, S, S")
    assert failed != page
    with pytest.raises(AssertionError):
        check_outcomes(failed, verdicts)
