"""Carry judgements from the tests that make them to the reports, across processes.

A test's judgement travels as a JSON string on its report, so it survives xdist; the process that
runs the session collects them and writes junit.xml, report.html and results.json. Workers write
nothing.

PYTEST_DONT_REWRITE: nothing here asserts, and a conftest may import it before it registers it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from markupsafe import escape

from kvcore.errors import KvError
from kvcore.io import write_atomically
from kvcore.verdict import Judgement
from reports import folders, junit, multiple, results, terminal
from reports.grouping import by_claim
from reports.html import tests_table
from reports.text import encodable, inert_text

if TYPE_CHECKING:
    from reports.html.samples import SampleCell

JUDGEMENT_KEY = pytest.StashKey[Judgement]()
CONTEXT_KEY = pytest.StashKey[Mapping[str, Any]]()

_NAME = "kv-reports"
# these list things and run no test, so there is nothing to report
ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
"""How a run ends that was not broken off."""
_LISTINGS = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")


def attach(item: pytest.Item, judgement: Judgement, context: Mapping[str, Any]) -> None:
    """Give a running test its judgement, whose ``outcome`` is set from what pytest reports.

    The context is JSON data for the page: ``explanations`` (see `reports.html.page.Explanation`)
    and ``provenance`` (a flat mapping about this model and dataset). Both are optional; equal ones
    of several tests are shown once. Raises KvError for a test that has a judgement.
    """
    if JUDGEMENT_KEY in item.stash:
        raise KvError(f"{item.nodeid}: judged twice; make one test for each estimate.")
    item.stash[JUDGEMENT_KEY] = judgement
    item.stash[CONTEXT_KEY] = context
    item.user_properties.extend(junit.properties(judgement))


def no_notes(*_: Any) -> list[str]:
    """Say nothing more at the end of a run."""
    return []


def enable(
    config: pytest.Config,
    out_dir: Path | str,
    configuration: Mapping[str, Any] | None = None,
    *,
    notes: Callable[[Sequence[Judgement], Sequence[Mapping[str, Any]], bool], list[str]] = no_notes,
    latest: bool = False,
    samples: Callable[[Sequence[Judgement]], Sequence[SampleCell]] | None = None,
) -> None:
    """Make this session write its reports to a folder.

    Call it from a ``pytest_configure`` marked ``tryfirst``: pytest-html and pytest's JUnit writer
    read their paths in theirs. ``--html`` and ``--junitxml`` given by the user are left alone. In
    an xdist worker, and where pytest only lists tests, nothing happens. The folder, made when
    needed, gets ``junit.xml``, ``report.html`` and ``results.json``; the configuration is shown
    and stored as it is. ``notes`` takes the judgements, the contexts they came with and whether the
    run was broken off, and returns lines for its end. With ``latest``, a run that judged claims and
    came to its end is linked as the latest one beside its folder (`reports.folders`). With
    ``samples``, which returns those behind some judgements, there is ``samples.html`` too.
    """
    if hasattr(config, "workerinput") or any(config.getoption(name, False) for name in _LISTINGS):
        return
    out = Path(out_dir)
    config.option.xmlpath = config.option.xmlpath or str(out / "junit.xml")
    if not config.getoption("htmlpath", True):
        config.option.htmlpath = str(out / "report.html")
        config.option.self_contained_html = True
    reporter = Reporter(config, out, dict(configuration or {}), notes, latest, samples)
    config.pluginmanager.register(reporter, _NAME)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the judgement of a test on its report."""
    report = yield
    if report.when == "call" and JUDGEMENT_KEY in item.stash:
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        judgement = dataclasses.replace(item.stash[JUDGEMENT_KEY], outcome=outcome)
        vars(report)["kv_judgement"] = json.dumps(judgement.to_dict())
        vars(report)["kv_context"] = json.dumps(item.stash[CONTEXT_KEY])
        # every worker collects every test, so this is the same number everywhere
        vars(report)["kv_place"] = item.session.items.index(item)
        vars(report)["kv_code"] = code_place(item.location)
        _begin_with_verdict(report)
    return report


def code_place(location: tuple[str, int | None, str]) -> str:
    """Return file and line of a test as the repository has them, "" where it is no claim's."""
    parts, line = Path(location[0]).parts, location[1]
    if "claims" not in parts or line is None:
        return ""
    last = len(parts) - 1 - parts[::-1].index("claims")
    return f"{'/'.join(parts[last:])}:{line + 1}"


def _begin_with_verdict(report: pytest.TestReport) -> None:
    """Let a failure's message in JUnit begin with the verdict, not with pytest's "Failed: "."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = crash.message.removeprefix("Failed: ")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[
    None, dict[str, Any] | None, dict[str, Any] | None
]:
    """Keep a lone surrogate in a message from ending the worker that reports it."""
    data: dict[str, Any] | None = encodable((yield))
    return data


def _not_judged(terminalreporter: pytest.TerminalReporter) -> dict[str, int]:
    """Count the tests that told of no verdict by the reason they gave, errors among them."""
    found: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if not hasattr(report, "kv_judgement") and isinstance(report.longrepr, tuple):
            found[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
    errors = len(terminalreporter.stats.get("error", []))
    if errors:
        found["they broke; the errors are told above"] = errors
    return dict(found)


@dataclass(frozen=True)
class Record:
    """A judgement with the test that made it, ready to be ordered."""

    place: int
    judgement: Judgement
    context: Mapping[str, Any]
    code: str = ""


@dataclass(frozen=True)
class Reporter:
    """Collects the judgements of a session and writes its reports."""

    config: pytest.Config
    out: Path
    configuration: Mapping[str, Any]
    notes: Callable[[Sequence[Judgement], Sequence[Mapping[str, Any]], bool], list[str]] = no_notes
    latest: bool = False
    samples: Callable[[Sequence[Judgement]], Sequence[SampleCell]] | None = None
    records: dict[str, Record] = field(default_factory=dict)
    sample_links: dict[multiple.Key, str] = field(default_factory=dict)
    unjudged: dict[str, list[str]] = field(default_factory=dict)
    table: list[int] = field(default_factory=list)

    @property
    def judgements(self) -> list[Judgement]:
        """Every judgement so far, claim by claim as collected; workers finish in any order."""
        groups = by_claim(record.judgement for record in self._ordered())
        return [judgement for group in groups for judgement in group]

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What the session runs on; the same in every report."""
        return results.environment(self.config.rootpath)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the session was started and what its cells were measured with."""
        cells = [record.context.get("provenance") for record in self._ordered()]
        arguments = [str(argument) for argument in self.config.invocation_params.args]
        return {
            "command": shlex.join(["pytest", *arguments]),
            "configuration": self.configuration,
            "cells": [cell for i, cell in enumerate(cells) if cell and cell not in cells[:i]],
        }

    @property
    def explanations(self) -> list[Mapping[str, Any]]:
        """The conditions of the session, each explained once."""
        contexts = [record.context for record in self._ordered()]
        every = [each for context in contexts for each in context.get("explanations", ())]
        first = {(each.get("model"), each["condition"]): each for each in reversed(every)}
        return list(reversed(first.values()))

    def _ordered(self) -> list[Record]:
        return sorted(self.records.values(), key=lambda record: record.place)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the judgement off a report, wherever the test ran."""
        if hasattr(report, "kv_judgement"):
            judgement = Judgement.from_dict(json.loads(report.kv_judgement))
            context = json.loads(report.kv_context)
            place, code = vars(report)["kv_place"], vars(report)["kv_code"]
            self.records[report.nodeid] = Record(place, judgement, context, code)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Write results.json; let pytest-html write its page; give that its head."""
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            yield
            return
        if not self.records and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        facts = {"provenance": self.provenance, "environment": self.environment}
        results.write(self.out / "results.json", results.document(self.judgements, **facts))
        self._write_samples()
        if self.latest and self.records and session.exitstatus in ENDED:
            folders.publish(self.out)
        yield
        self._finish_page()

    def _write_samples(self) -> None:
        """Write the page of samples, and note where each judgement's are."""
        from reports.html import samples

        judgements = self.judgements
        cells = self.samples(judgements) if self.samples and judgements else ()
        if not cells:
            return
        write_atomically(self.out / samples.NAME, samples.page(cells))
        for j in judgements:
            condition = j.conditions[-1] if j.conditions else ""
            if found := samples.link(cells, j.cell.model, j.cell.dataset, condition):
                self.sample_links[multiple.key_of(j)] = found

    def _finish_page(self) -> None:
        from reports.html import page

        given = self.config.getoption("htmlpath", None)
        path = Path(os.path.expandvars(given)).expanduser() if given else None
        if path is not None and path.is_file():
            write_atomically(path, page.document(path.read_text(encoding="utf-8")))

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Write what came out on one screen; with ``-v`` the table of verdicts before it."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR:  # a line has said what was wrong
            return
        terminalreporter.section("claims")
        judgements = self.judgements
        if self.records and self.config.get_verbosity() > 0:
            for line in terminal.table(judgements):
                terminalreporter.write_line(line)
        contexts = [record.context for record in self._ordered()]
        broken_off = exitstatus not in ENDED
        size = shutil.get_terminal_size(terminal.SCREEN)
        for told in terminal.closing(
            judgements,
            not_judged=_not_judged(terminalreporter),
            notes=self.notes(judgements, contexts, broken_off),
            report=self._where(broken_off),
            broken_off=broken_off,
            columns=size.columns,
            rows=size.lines,
        ):
            markup = {told.colour: True} if told.colour else {}
            terminalreporter.write_line(told.text, **markup)

    def _where(self, broken_off: bool) -> str:
        """Say where the report lies: under the link, if this is the latest good one."""
        given = self.config.getoption("htmlpath", None)
        ours = self.out / "report.html"
        if given and Path(given) != ours:
            return str(given)
        file = ours.name if given else "results.json"
        own, link = self.out / file, self.out.parent / folders.LATEST / file
        if not self.latest or not link.parent.exists():
            return os.path.relpath(own)
        if self.records and not broken_off:
            return os.path.relpath(link)
        return f"{os.path.relpath(own)}; the last whole one: {os.path.relpath(link)}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        """Name the page."""
        report.title = "Claims about primed KV caches"

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Put the report proper before pytest-html's table of tests."""
        from reports.html import page

        judgements = self.judgements
        tests = {multiple.key_of(j): tests_table.anchor(j) for j in judgements}
        code = {multiple.key_of(r.judgement): r.code for r in self.records.values() if r.code}
        links = page.Links(tests, self.sample_links, code)
        facts = self.explanations, self.provenance, self.environment
        room = page.MAX_CHARACTERS - sum(self.table)
        prefix.append(page.page(judgements, *facts, links, self.unjudged, room))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Name our columns."""
        cells[:] = [cells[0], *tests_table.heads(), cells[1], cells[2]]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: pytest.TestReport, cells: list[str]) -> None:
        """Fill our columns; the test's own name is escaped, which pytest-html leaves to us.

        A test that judged nothing has no row: it stands under the reason it gave.
        """
        record = self.records.get(report.nodeid)
        if record is None and report.skipped and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            self.unjudged.setdefault(reason, []).append(report.nodeid)
            cells.clear()
            return
        judgement = record.judgement if record else None
        anchor = tests_table.anchor(judgement) if judgement else ""
        name = tests_table.cell("testId", report.nodeid, anchor)
        cells[:] = [cells[0], *tests_table.cells(judgement), name, cells[2]]
        self.table.append(tests_table.characters(report.nodeid, cells))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: pytest.TestReport, data: list[str]) -> None:
        """Make what tests printed inert; pytest-html has escaped it, and no more.

        Of a failed claim there is its sentence, without the traceback by which pytest is told of
        it; of the other verdicts nothing beside the columns.
        """
        record = self.records.get(report.nodeid)
        if record:
            data[:] = [escape(record.judgement.sentence())] if report.failed else []
        data[:] = [inert_text(part, max(len(part), 1)) for part in data]
        self.table.append(sum(map(len, data)))
