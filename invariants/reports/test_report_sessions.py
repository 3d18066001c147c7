"""What the reports promise of whole sessions: three reports that agree, with xdist or without."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from invariants.support import check_axe, check_page, invented
from invariants.support.invented_texts import HOSTILE, assert_nothing_active
from kvcore.errors import KvError
from kvcore.verdict import Judgement
from reports import junit, text
from reports.html import page

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]


# --- the finished page, by a browser -----------------------------------------------------------


def test_page_checker_survives_its_browser(tmp_path: Path) -> None:
    """Catches a crash of the browser that is a traceback instead of a problem of the page."""
    path = tmp_path / "report.html"
    path.write_text("<html><body></body></html>", encoding="utf-8")
    assert "page: the browser ended with 1" in list(check_page.problems(path, "false"))


def _browser(folder: Path, found: str, said: str) -> str:
    """Make a program that answers as a browser would."""
    path = folder / "browser"
    path.write_text(
        f"#!/bin/sh\necho '<p id=\"found\">{found}</p>'\necho '{said}' >&2\n", encoding="utf-8"
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("content", "found", "said", "problem"),
    [
        ("<p>", "0 px", "", None),
        ("<p>", "17 px, first: TABLE.", "", "sticks out by 17 px"),
        ("<p>", "none", "", "sticks out by none"),
        ("<p>", "0 px", '[1:INFO:CONSOLE(3)] "Uncaught TypeError"', "Uncaught TypeError"),
        ('<script src="https://example.org/a.js">', "0 px", "", "loads from elsewhere"),
        ("x" * 3_000_001, "0 px", "", "allowed are 3,000,000"),
    ],
)
def test_page_checker(
    tmp_path: Path, content: str, found: str, said: str, problem: str | None
) -> None:
    """Catches a fault of a page that the checker misses, and one that it invents."""
    path = tmp_path / "report.html"
    path.write_text(f"<html><body>{content}</body></html>", encoding="utf-8")
    wrong = " ".join(check_page.problems(path, _browser(tmp_path, found, said)))
    assert (wrong == "") if problem is None else (problem in wrong)


def test_a_page_without_a_head_is_refused() -> None:
    """Catches a page by another pytest-html that silently goes without our head and style."""
    with pytest.raises(KvError, match="must have one head"):
        page.document("nothing")


# --- whole sessions ----------------------------------------------------------------------------

CONFTEST = """
    import pytest
    from reports import plugin

    pytest_plugins = ["reports.plugin"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(config):
        plugin.enable(config, "out", {"kv-limit": "240"})
"""
CLAIMS = """
    import dataclasses
    import pytest
    from invariants.support import invented
    from reports.plugin import attach

    CHOSEN = [invented.judgements()[i] for i in (0, 1, 2, 5, -1)]

    @pytest.mark.parametrize("judgement", CHOSEN, ids=lambda j: f"{j.claim.id}-{j.cell.slug}")
    def test_claim(judgement, request):
        attach(request.node, judgement, {
            "explanations": invented.explanations(),
            "provenance": {"model": judgement.cell.model, "device": "cpu"},
        })
        if judgement.verdict == "inconclusive":
            pytest.skip("needs more samples")
        if judgement.claim.prediction.name == "at_least":
            request.applymarker(pytest.mark.xfail(strict=True, reason="known"))
        assert judgement.verdict != "refuted"
"""
ONE_CLAIM = """
    from invariants.support import invented
    from reports.plugin import attach

    def test_claim(request):
        attach(request.node, invented.judgements()[-1], {})
"""
HOSTILE_CLAIMS = f"""
    import dataclasses
    import pytest
    from invariants.support import invented
    from reports.plugin import attach

    HOSTILE = {HOSTILE!r}

    @pytest.mark.parametrize("x", [HOSTILE], ids=["<script>alert(2)</script>"])
    def test_claim(x, request):
        judgement = invented.judgements()[0]
        attach(request.node, dataclasses.replace(
            judgement, cell=dataclasses.replace(judgement.cell, model=HOSTILE), store=HOSTILE,
            plot={{"kind": "none"}},
            claim=dataclasses.replace(judgement.claim, statement=HOSTILE, source=HOSTILE),
        ), {{"explanations": [{{"condition": HOSTILE, "text": HOSTILE}}],
             "provenance": {{"model": HOSTILE}}}})
        print(HOSTILE.replace("\\ud800", ""))
        pytest.fail(HOSTILE)
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a whole pytest session on a test file.

    A conftest that breaks code, and workers, get a process of their own.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makefile(".toml", pytest='[pytest]\nstrict = true\nfilterwarnings = ["error"]\n')

    def run(tests: str, *arguments: str, conftest: str = CONFTEST) -> pytest.RunResult:
        pytester.makeconftest(conftest)
        pytester.makepyfile(tests)
        apart = conftest != CONFTEST or "-n" in arguments
        run_pytest = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return run_pytest("-p", "no:cacheprovider", *arguments)

    return run


def _properties(path: Path) -> list[dict[str, str]]:
    cases = ET.fromstring(path.read_bytes()).iter("testcase")
    return [{p.attrib["name"]: p.attrib["value"] for p in case.iter("property")} for case in cases]


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_session_writes_three_reports(
    session: Any, pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    """Catches judgements lost, reordered or changed on the way to JUnit and JSON."""
    run = session(CLAIMS, *workers)
    run.assert_outcomes(passed=2, failed=1, skipped=1, xfailed=1)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    out = pytester.path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "junit.xml",
        "report.html",
        "results.json",
    ]
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    ids = [j["claim"]["id"] for j in data["judgements"]]
    assert ids == ["random-prefix-helps"] * 3 + [
        "real-query-does-not-help",
        "newline-is-no-clean-boundary",
    ]
    assert [j["outcome"] for j in data["judgements"]] == [
        "passed",
        "passed",
        "failed",
        "skipped",
        "xfailed",
    ]
    assert data["counts"] == {"supported": 2, "refuted": 2, "inconclusive": 1}
    assert data["configuration"] == {"kv-limit": "240"}
    assert [cell["model"] for cell in data["cells"]] == list(invented.MODELS)
    found = sorted(_properties(out / "junit.xml"), key=lambda case: case["estimate"])
    stored = sorted(str(j["estimate"]["value"]) for j in data["judgements"])
    assert [case["estimate"] for case in found] == stored
    expected = [
        {
            name: str(value)
            for name, value in junit.properties(Judgement.from_dict(j | {"plot": {"kind": "none"}}))
        }
        for j in data["judgements"]
    ]
    assert found == sorted(expected, key=lambda case: case["estimate"])


def _rows(document: str) -> list[dict[str, Any]]:
    (blob,) = re.findall(r"data-jsonblob='([^']*)'", document)
    tests = json.loads(html.unescape(blob))["tests"]
    return [row for rows in tests.values() for row in rows]


def _row_cells(document: str) -> list[str]:
    return [cell for row in _rows(document) for cell in row["resultsTableRow"]]


def test_session_page_is_whole(session: Any, pytester: pytest.Pytester) -> None:
    """Catches a page without our head, style or columns, too large, or that names our folders."""
    run = session(CLAIMS)
    document = (pytester.path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<html lang="en">' in document
    assert 'name="viewport"' in document
    assert '<title id="head-title">Claims about primed KV caches</title>' in document
    assert ".kv-claim" in document
    assert not check_page.EXTERNAL.search(document)
    assert len(document.encode()) < check_page.LARGEST
    assert str(ROOT) not in document
    assert document.count('class="kv-condition"') == 2
    assert any("col-verdict" in cell and "refuted" in cell for cell in _row_cells(document))
    run.stdout.fnmatch_lines(
        [
            "2 supported, 2 refuted, 1 inconclusive",
            "*: 1 hold, *",
            "  ✓ A random prefix*",
            "report: out/report.html",
        ]
    )


@pytest.mark.parametrize(("width", "flags"), [(1280, ()), (400, ()), (1280, check_axe.DARK)])
def test_the_page_is_accessible(
    session: Any, pytester: pytest.Pytester, width: int, flags: tuple[str, ...]
) -> None:
    """Catches what axe-core calls serious: no contrast, no name, no way by keyboard."""
    chromium = check_axe.browser()
    session(CLAIMS)
    assert check_axe.serious(pytester.path / "out" / "report.html", chromium, width, *flags) == []


def test_the_page_is_accessible_twin(session: Any, pytester: pytest.Pytester) -> None:
    """Text without contrast and a picture without a name are seen."""
    chromium = check_axe.browser()
    session(CLAIMS)
    path = pytester.path / "out" / "report.html"
    faulty = path.read_text(encoding="utf-8").replace("--muted: #5d6470", "--muted: #d0d0d0")
    path.write_text(faulty.replace('role="img" aria-label=', 'role="img" data-label='), "utf-8")
    found = " ".join(check_axe.serious(path, chromium, 1280))
    assert "color-contrast" in found
    assert "svg-img-alt" in found


def assert_hostile_session_inert(
    session: Any, pytester: pytest.Pytester, *arguments: str, conftest: str = CONFTEST
) -> None:
    run = session(HOSTILE_CLAIMS, *arguments, conftest=conftest)
    run.assert_outcomes(failed=1)
    out = pytester.path / "out"
    assert _properties(out / "junit.xml")[0]["store"] == text.inert_text(HOSTILE)
    document = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in document
    assert "<script" not in re.sub(r"<script>.*?</script>", "", document, flags=re.DOTALL)
    assert not any("<script" in cell for cell in _row_cells(document))
    for row in _rows(document):
        assert "alert(1)" in row["log"]
        assert "<script" not in row["log"]
        assert_nothing_active(row["log"])
    body = re.sub(r"<script>.*?</script>", "", document, flags=re.DOTALL)
    assert_nothing_active(body)


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "1"), marks=pytest.mark.nightly)])
def test_hostile_session_is_inert(
    session: Any, pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    """Catches hostile texts, test names or failure messages that do more than be read."""
    assert_hostile_session_inert(session, pytester, *workers)


BROKEN = {
    "escaping": "from reports.html import templates\n    templates.ENVIRONMENT = "
    "templates.ENVIRONMENT.overlay(autoescape=False)",
    "encodable": "plugin.encodable = lambda x, *_: x",
    "inert_text": "plugin.inert_text = lambda x, *_: x",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_hostile_session_twin(session: Any, pytester: pytest.Pytester, broken: str) -> None:
    """Without any one of the guards, a hostile session is seen."""
    workers = ("-n", "1") if broken == "encodable" else ()  # it guards what a worker sends
    conftest = CONFTEST.replace("pytest_plugins", f"{BROKEN[broken]}\n    pytest_plugins")
    with pytest.raises(AssertionError):
        assert_hostile_session_inert(session, pytester, *workers, conftest=conftest)


def test_session_that_judges_nothing_fails(session: Any, pytester: pytest.Pytester) -> None:
    """Catches a run that judged no claim and ends as a success."""
    run = session("def test_nothing(): pass")
    run.assert_outcomes(passed=1)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(["no claim was judged: the run fails"])
    document = (pytester.path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No claim was judged" in document


def test_listing_tests_writes_nothing(session: Any, pytester: pytest.Pytester) -> None:
    """Catches reports of a run that only listed its tests."""
    run = session(ONE_CLAIM, "--collect-only", "-q")
    assert run.ret == pytest.ExitCode.OK
    assert not (pytester.path / "out").exists()


def test_paths_given_by_the_user_are_kept(session: Any, pytester: pytest.Pytester) -> None:
    """Catches a path of the command line that is overruled."""
    session(ONE_CLAIM, "--html=mine/page.html", "--self-contained-html", "--junitxml=mine/unit.xml")
    mine = sorted(file.name for file in (pytester.path / "mine").iterdir())
    assert mine == ["page.html", "unit.xml"]
    assert 'name="viewport"' in (pytester.path / "mine/page.html").read_text(encoding="utf-8")
    assert [file.name for file in (pytester.path / "out").iterdir()] == ["results.json"]


def test_session_without_pytest_html(session: Any, pytester: pytest.Pytester) -> None:
    """Catches reports that fail where pytest-html is missing."""
    session(ONE_CLAIM, "-p", "no:html")
    written = sorted(file.name for file in (pytester.path / "out").iterdir())
    assert written == ["junit.xml", "results.json"]


def test_one_test_judges_once(session: Any) -> None:
    """Catches a second judgement in one test that silently replaces the first."""
    run = session("""
        from invariants.support import invented
        from reports.plugin import attach

        def test_twice(request):
            for judgement in invented.judgements()[:2]:
                attach(request.node, judgement, {})
    """)
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*KvError: *test_twice: judged twice; make one test*"])
