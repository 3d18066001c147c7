"""The end of a run: one screen, sentences, reasons; and a good report that nothing replaces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from invariants.support import invented
from invariants.support.comparing import must_see
from kvcore.verdict import Judgement
from reports import plugin, terminal

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
REASONS = {
    "no resource: mistral-7b needs a GPU and this machine has none; judge stored rows alone": 35,
    "not applicable: the model has one rope base for all layers": 2,
    **{f"no resource: reason {n}": 1 for n in range(6)},
}
NOTES = [
    "measured: 9,000 rows in 12 min, kept in .kvstore/ for the next run",
    "looks: " + "x " * 60,
]


def many() -> list[Judgement]:
    """Return a hundred judgements in four cells."""
    own = invented.judgements()
    return [
        replace(judgement, claim=replace(judgement.claim, id=f"{judgement.claim.id}-{n}"))
        for n in range(100 // len(own) + 1)
        for judgement in own
    ]


def lines(columns: int, rows: int, judgements: list[Judgement] | None = None) -> list[str]:
    """Return the end of a run of many claims."""
    told = terminal.closing(
        many() if judgements is None else judgements,
        not_judged=REASONS, notes=NOTES, report="reports/out/latest/report.html",
        columns=columns, rows=rows,
    )  # fmt: skip
    return [line.text for line in told]


def check_fits(columns: int, rows: int) -> None:
    """Demand an end that is no wider and no longer than the screen, with what matters in it."""
    shown = lines(columns, rows)
    assert len(shown) <= rows - 5, "the section's title, the totals and a prompt"
    assert max(map(len, shown)) <= columns
    assert re.match(r"\d+ supported, \d+ refuted, \d+ inconclusive", shown[0])
    assert shown[-1] == "report: reports/out/latest/report.html"
    assert sum(line.startswith("not judged (") for line in shown) == terminal.MOST_REASONS
    assert "not judged (35): mistral-7b needs a GPU and this machine has none" in "\n".join(shown)
    assert any(line.startswith("  ✓ ") for line in shown)
    assert any(line.startswith("  ✗ ") for line in shown)
    assert any(re.search(r"and \d+ more in the report", line) for line in shown)


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (100, 24), (80, 40), (200, 50)])
def test_the_end_of_a_run_fits_a_screen(columns: int, rows: int) -> None:
    """Catches an end whose beginning has scrolled away, or lines that wrap."""
    check_fits(columns, rows)


def test_twin_every_verdict_is_seen() -> None:
    """If all verdicts were told, the screen would not hold them."""
    must_see(lambda patch: patch.setattr(terminal, "AROUND", -1000), lambda: check_fits(80, 24))


def test_on_a_tiny_screen_the_answer_stays() -> None:
    """Catches a screen of few lines on which totals or report are lost."""
    shown = lines(40, 10)
    assert shown[0].startswith(tuple("0123456789"))
    assert shown[-1].startswith("report: ")


def test_every_verdict_is_told_where_there_is_room() -> None:
    """Catches a decided claim that is left out, and an open one that is told as decided."""
    judgements = list(invented.judgements())
    shown = [line for line in lines(200, 80, judgements) if line.startswith(("  ✓ ", "  ✗ "))]
    decided = [j for j in judgements if j.primary and j.verdict != "inconclusive"]
    assert len(shown) == len(decided)


def test_samples_needed_are_told_of_open_claims_alone() -> None:
    """Catches a number of samples that is asked for although everything is decided."""
    told = [replace(j, verdict="supported", required_n=777) for j in invented.judgements()]
    assert "777" not in "\n".join(lines(100, 40, told))
    open_too = [*told, replace(told[0], verdict="inconclusive", required_n=888)]
    assert "(one needs n ≈ 888)" in "\n".join(lines(100, 40, open_too))


def test_nothing_judged_is_said() -> None:
    """Catches a run without a verdict that ends as if it had one."""
    assert lines(80, 24, [])[0] == "no claim was judged: the run fails"


# --- a good report is never replaced -------------------------------------------------------------

CONFTEST = """
    import pytest
    from reports import folders, plugin

    pytest_plugins = ["reports.plugin"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(config):
        plugin.enable(config, folders.new_folder(config.rootpath / "out"), latest=True)
"""
JUDGED = """
    from invariants.support import invented
    from reports.plugin import attach

    def test_claim(request):
        attach(request.node, invented.judgements()[-1], {})
"""
NOTHING = "def test_nothing(): pass"
STOPPED = f"""
{JUDGED}
    def test_stop():
        raise KeyboardInterrupt
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a session in one folder, again and again."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makefile(".toml", pytest="[pytest]\n")
    pytester.makeconftest(CONFTEST)

    def session(test: str) -> pytest.RunResult:
        pytester.makepyfile(test_one=test)
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "-p", "no:html", no_reraise_ctrlc=True
        )

    return session


def check_kept(run: Any, folder: Path, test: str) -> None:
    """Judge a claim, then do something worse; demand that the first stays the latest."""
    run(JUDGED)
    first = (folder / "out" / "latest").resolve()
    done = run(test)
    assert (folder / "out" / "latest").resolve() == first
    assert len(list((folder / "out").glob("2*"))) == 2
    done.stdout.fnmatch_lines(["report: *; the last whole one: out/latest/results.json"])


WORSE: Mapping[str, str] = {"nothing judged": NOTHING, "broken off": STOPPED}


@pytest.mark.parametrize("worse", WORSE)
def test_a_good_report_is_never_replaced(run: Any, pytester: pytest.Pytester, worse: str) -> None:
    """Catches a report of an empty or broken off run that stands where a good one was."""
    check_kept(run, pytester.path, WORSE[worse])


def test_a_later_whole_run_is_the_latest(run: Any, pytester: pytest.Pytester) -> None:
    """Catches a link that stays with the first run for ever."""
    run(JUDGED)
    first = (pytester.path / "out" / "latest").resolve()
    run(JUDGED)
    assert (pytester.path / "out" / "latest").resolve() != first


def test_twin_a_broken_off_run_that_is_linked_is_seen(run: Any, pytester: pytest.Pytester) -> None:
    """If every run were linked, one that was broken off would replace a good one."""
    must_see(
        lambda patch: patch.setattr(plugin, "ENDED", tuple(pytest.ExitCode)),
        check_kept, run, pytester.path, STOPPED,
    )  # fmt: skip
