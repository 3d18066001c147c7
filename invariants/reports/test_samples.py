"""The page of samples: what it shows is what was measured, and does nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import re
from pathlib import Path

import pytest
from markupsafe import Markup

from invariants.support import check_axe, invented, invented_plots
from invariants.support.comparing import must_see
from invariants.support.invented_texts import HOSTILE, Seen, assert_nothing_active
from reports import text
from reports.grouping import plot_parts
from reports.html import samples, templates
from reports.html.samples import Sample, SampleCell
from reports.plots import alternatives

LIBRARIES = {
    "alpine.min.js": "b4036e9e9ac22fa6f6ae1ba292e015e1f3e9c85d0d79e73e4c8eb9bb139b522e",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def cell(raw: str, count: int = 3) -> SampleCell:
    """Return a cell all of whose texts are the same."""
    one = Sample(raw, raw, raw, raw, raw, (2, 4), ((1.25, 0.5), (0.75, float("nan")), ()))
    drawn = tuple(dataclasses.replace(one, id=f"{raw}{i}") for i in range(count))
    return SampleCell(raw, raw, ("bare", "random", "oracle"), drawn)


def data_of(page: str) -> list[dict[str, object]]:
    """Return the data that a page carries."""
    (spelled,) = re.findall(r'data-cells="([^"]*)"', page)
    data: list[dict[str, object]] = json.loads(html.unescape(spelled))
    return data


def assert_inert(raw: str) -> None:
    hostile, plain = samples.page([cell(raw)]), samples.page([cell("plain")])
    without = [re.sub(r"<script>.*?</script>", "", p, flags=re.DOTALL) for p in (hostile, plain)]
    assert Seen(without[0]).names == Seen(without[1]).names
    assert_nothing_active(without[0])
    assert_nothing_active(html.unescape(without[0]))
    assert "x-html" not in hostile.split("<script>")[0]


def test_hostile_texts_are_inert() -> None:
    """Catches a text that leaves the page's data, or is shown as more than text."""
    assert_inert(HOSTILE)


def test_hostile_texts_twin() -> None:
    """Data that is not escaped, or not made inert, is seen."""

    def active(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(samples, "inert_text", str)
        patch.setattr(templates, "inert_data", text.encodable)

    must_see(lambda patch: patch.setattr(templates, "escape", Markup), assert_inert, "'\"<b>")
    must_see(active, assert_inert, "\u202e")


def test_numbers_are_hundredths_of_nats() -> None:
    """Catches an NLL of another token or condition, or one that is not rounded."""
    (shown,) = data_of(samples.page([cell("text")]))
    first = shown["samples"][0]  # type: ignore[index]
    assert first["n"] == ["125 50", "75 0", ""]
    assert (first["q"], first["t"]) == ("text", "2 4")


def test_conditions_beyond_the_room_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a page that grows beyond 1.5 MB per 1,000 samples, or that hides what it lacks."""
    monkeypatch.setattr(samples, "MAX_CHARACTERS", 60)
    (shown,) = data_of(samples.page([cell("text")]))
    assert shown["conditions"] == ["bare", "random"]
    assert shown["left_out"] == ["oracle"]


def assert_small_enough() -> None:
    """Demand 1.5 MB per 1,000 samples of what is usual: 80 words, 20 tokens, 60 conditions."""
    words = " ".join(["word's"] + ["words"] * 79)
    nlls = tuple(tuple(i % 7 + 0.25 for i in range(20)) for _ in range(60))
    ends = tuple(range(4, 84, 4))
    usual = Sample("numpy.linalg.name", "numpy", words[:40], words, words[:80], ends, nlls)
    drawn = tuple(dataclasses.replace(usual, id=f"numpy.linalg.name{i}") for i in range(1000))
    conditions = tuple(f"values_only(static_{i})" for i in range(60))
    page = samples.page([SampleCell("model", "docstrings", conditions, drawn)])
    assert len(page.encode()) <= 1_500_000
    assert len(data_of(page)[0]["conditions"]) >= 3  # type: ignore[arg-type]


def test_a_thousand_samples_are_small_enough() -> None:
    """Catches a page of more than 1.5 MB per 1,000 samples, or of the texts alone."""
    assert_small_enough()


def test_small_enough_twin() -> None:
    """Numbers that are counted without their quotes, as they stand in the page, are seen."""
    must_see(lambda patch: patch.setattr(samples, "QUOTES", -40), assert_small_enough)


def test_links_lead_to_the_condition() -> None:
    """Catches a link to another cell or condition than the plot is of."""
    cells = [cell("a"), cell("b")]
    assert samples.link(cells, "b", "b", "oracle") == "samples.html#cell=1&condition=2"
    assert samples.link(cells, "c", "b", "oracle") == ""


def assert_plots_have_numbers() -> None:
    plots = [*invented_plots.plots().values(), *(dict(j.plot) for j in invented.judgements())]
    for plot in plots:
        for part in plot_parts(plot):
            if part["kind"] not in ("tokens", "table"):
                table = alternatives.table_of(part)
                assert table.rows, part["kind"]
                assert {len(row) for row in table.rows} == {len(table.head)}, part["kind"]


def test_every_plot_has_its_numbers() -> None:
    """Catches a plot that those who cannot see it know nothing of."""
    assert_plots_have_numbers()


def test_every_plot_has_its_numbers_twin() -> None:
    """A kind of plot without a table is seen."""
    must_see(
        lambda patch: patch.delitem(alternatives.TABLES, "layers"),
        assert_plots_have_numbers,
    )


def test_libraries_are_as_published() -> None:
    """Catches a library that differs from what its package holds on npm."""
    vendor = Path(templates.FOLDER).parent / "vendor"
    found = {n: hashlib.sha256((vendor / n).read_bytes()).hexdigest() for n in LIBRARIES}
    assert found == LIBRARIES


def assert_accessible(folder: Path, chromium: str, *flags: str) -> None:
    path = folder / "samples.html"
    path.write_text(samples.page([cell("a text of the sample")]), encoding="utf-8")
    for width in (1280, 400):
        assert check_axe.serious(path, chromium, width, *flags) == []


@pytest.mark.parametrize("flags", [(), check_axe.DARK])
def test_the_page_of_samples_is_accessible(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Catches what axe-core calls serious: tokens without contrast, a choice without a name."""
    assert_accessible(tmp_path, check_axe.browser(), *flags)


def test_accessible_twin(tmp_path: Path) -> None:
    """Pale text is seen by axe-core."""
    real = templates.trusted

    def pale(*files: Path) -> Markup:
        return Markup(str(real(*files)).replace("--muted: #5d6470", "--muted: #d0d0d0"))

    must_see(
        lambda patch: patch.setattr(samples, "trusted", pale),
        assert_accessible, tmp_path, check_axe.browser(),
    )  # fmt: skip
