"""Pytest's side of the claims: tests from declarations, rows from the store, verdicts to reports.

Whatever breaks is an error, never a failed claim. What is declared wrongly is one collection error
a claim and spares the others; what breaks while a finding is computed breaks the set-up of its
test. The test itself only tells the verdict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import inspect
import json
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from claims.harness import (
    cells,
    checks,
    claims,
    closing,
    datasets,
    display,
    judging,
    ledger,
    options,
    phases,
    resources,
    samples,
    workers,
)
from claims.harness.claims import CellClaim, Declaration
from claims.harness.judging import CellJudge, Conclusion
from claims.harness.options import Settings
from claims.harness.session import Session
from claims.harness.sources import LookedAt
from kvcore.errors import KvError, MissingResource
from kvcore.io import digest
from kvcore.verdict import Cell, Judgement
from reports import folders, plugin

SETTINGS = pytest.StashKey[Settings]()
SESSION = pytest.StashKey[Session]()
MARKERS = (
    "claim(spec): a published finding, judged once per cell",
    "gpu: needs a CUDA GPU",
    'slow: a claim outside the default selection; -m "" runs all',
)
PROBLEMS = pytest.StashKey[dict[tuple[str, str], None]]()
MEASURED = pytest.StashKey[closing.MeasuredRows]()
REPEATS = pytest.StashKey[datasets.Repeats]()
TOLD_TO_WORKERS = pytest.StashKey[Mapping[str, str]]()
DECLARED = pytest.StashKey[list[CellClaim]]()
"""Every claim in its cells, also those that ``-k`` and ``-m`` leave out."""


def configure(config: pytest.Config) -> None:
    """Read the options; make a run of the claims write its reports, if it is to judge any."""
    settings = options.read(config)
    if not settings.explain:
        _check_settings(settings)
    config.stash[SETTINGS] = settings
    config.stash[REPEATS] = datasets.Repeats.of(settings.datasets)
    config.stash[PROBLEMS] = {}
    config.stash[DECLARED] = []
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    of_claims = ["claims" in Path(str(arg).split("::")[0]).parts for arg in config.args]
    if all(of_claims):  # while tests are collected and reported; each test has a filter of its own
        config.addinivalue_line("filterwarnings", phases.NOTHING_IS_AN_ERROR)
        _leave_the_summary_to_us(config)
    if any(of_claims) and (number := _worker(config)) is not None:
        workers.take_own_gpu(number, settings)
    phases.refuse_workers(config, settings)
    if any(of_claims):
        _show_progress(config)
    if any(of_claims) and not (settings.explain or settings.measure_only):
        _write_reports(config, settings)


def _check_settings(settings: Settings) -> None:
    try:
        checks.check(settings)
    except KvError as error:
        raise pytest.UsageError(str(error)) from error


def _leave_the_summary_to_us(config: pytest.Config) -> None:
    """Leave out pytest's list of what was skipped and failed: the end of the run says it."""
    if not any(str(arg).startswith("-r") for arg in config.invocation_params.args):
        config.option.reportchars = "N"


def _show_progress(config: pytest.Config) -> None:
    """Show how far the measuring is from here to the end of the session, and count it."""
    stack = contextlib.ExitStack()
    config.stash[MEASURED] = closing.MeasuredRows()
    config.stash[TOLD_TO_WORKERS] = stack.enter_context(
        display.shown(config, config.stash[MEASURED].telling)
    )
    config.add_cleanup(stack.close)


def tell_worker(node: Any) -> None:
    """Tell a worker of pytest-xdist, before it starts, where it writes its progress."""
    node.workerinput.update(node.config.stash.get(TOLD_TO_WORKERS, {}))


def worker_finished(node: Any) -> None:
    """Count what a worker measured."""
    counted = node.config.stash.get(MEASURED, None)
    output = getattr(node, "workeroutput", {})
    if counted is not None and closing.MEASURED in output:
        counted.add(*output[closing.MEASURED])


def session_finished(config: pytest.Config) -> None:
    """Report what this process measured to the one that started it, if it is a worker."""
    output = vars(config).get("workeroutput")
    if output is not None and MEASURED in config.stash:
        measured = config.stash[MEASURED]
        output[closing.MEASURED] = [measured.rows, measured.seconds]


def _write_reports(config: pytest.Config, settings: Settings) -> None:
    out = config.rootpath / "reports" / "out"
    before = closing.previous_verdicts(out)

    def notes(
        judgements: Sequence[Judgement], contexts: Sequence[Mapping[str, Any]], broken_off: bool
    ) -> list[str]:
        measured = config.stash[MEASURED]
        said = closing.lines(
            judgements, contexts, measured, before, settings.store, broken_off=broken_off
        )
        return config.stash[REPEATS].warnings + said

    folder = folders.new_folder(out)
    behind = functools.partial(samples.sample_cells, settings=settings)
    plugin.enable(config, folder, settings.shown(), notes=notes, latest=True, samples=behind)


def _worker(config: pytest.Config) -> int | None:
    """Return the number of this worker, None in the process that starts them."""
    worker = vars(config).get("workerinput", {}).get("workerid", "")
    return int(worker.removeprefix("gw")) if worker else None


def header(config: pytest.Config) -> list[str]:
    """Return the effective options as one header line."""
    shown = config.stash[SETTINGS].shown()
    return ["kvclaims: " + ", ".join(f"{name} {value}" for name, value in shown.items())]


# --- collection --------------------------------------------------------------------------------


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a claim one test per cell; note what is wrong with its declaration."""
    marker = metafunc.definition.get_closest_marker("claim")
    if marker is None:
        return
    settings = metafunc.config.stash[SETTINGS]
    taken = inspect.signature(metafunc.function).parameters
    parameters = [name for declared in marker.args for name in declared.parameters]
    names = list(dict.fromkeys(name for name in parameters if name in taken))
    tests = []
    for declared in marker.args:
        try:
            tests += _tests(declared, metafunc.function, settings)
        except Exception as error:  # a claim's own code may raise anything
            problem = f"{_where(metafunc, error)}: claim {declared.claim_id!r}: {_line(error)}"
            metafunc.config.stash[PROBLEMS][metafunc.definition.nodeid, problem] = None
    metafunc.config.stash[DECLARED] += [test for test, _, _ in tests]
    rows = [
        pytest.param(*(test.spec.declared.parameters[n] for n in names), test, id=name, marks=marks)
        for (test, _, marks), name in zip(tests, distinct_names(tests), strict=True)
    ]
    metafunc.parametrize([*names, "cell"], rows)


def _tests(
    declared: Declaration, test: Any, settings: Settings
) -> list[tuple[CellClaim, str, list[pytest.MarkDecorator]]]:
    """Return a claim's tests with their ids and marks."""
    spec, tests = claims.specified(declared, test), []
    for cell in cells.cells_of(spec, settings):
        local = spec.at((cell.model, cell.dataset))
        claim = CellClaim(local, cell, claims.finding_of(test, local, cell))
        test_id = "-".join([*map(_id, declared.parameters.values()), cells.cell_id(cell)])
        tests.append((claim, test_id, cells.marks(spec, cell)))
    return tests


def distinct_names(
    tests: Sequence[tuple[CellClaim, str, list[pytest.MarkDecorator]]],
) -> list[str]:
    """Return the tests' ids; those that several cells would share get a hash of the cell each."""
    uses = Counter(name for _, name, _ in tests)
    return [
        f"{name}-{digest(*dataclasses.astuple(test.cell))[:8]}" if uses[name] > 1 else name
        for test, name, _ in tests
    ]


def _id(value: Any) -> str:
    return "-".join(value) if isinstance(value, tuple) else str(value)


def _where(metafunc: pytest.Metafunc, error: Exception) -> str:
    """Return the claim's file, with the line where its own code broke."""
    path = str(metafunc.definition.path)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    file = metafunc.definition.nodeid.split("::")[0]
    return f"{file}:{lines[-1]}" if lines else file


def _line(error: Exception) -> str:
    """Say an error in one line; one of our own needs no name of its class."""
    text = " ".join(str(error).split())
    return text if isinstance(error, KvError) else f"{type(error).__name__}: {text}"


def collected(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Report what is declared wrongly; arrange what is left, cell by cell."""
    claimed = [item for item in items if item.get_closest_marker("claim")]
    without_cell = [item for item in claimed if claim_of(item) is None]
    if without_cell:  # none of the datasets asked for is of its kind, or its declaration is wrong
        config.hook.pytest_deselected(items=without_cell)
    tests = [(item, test) for item in claimed if (test := claim_of(item)) is not None]
    by_cell: dict[Cell, list[pytest.Item]] = {}
    for item, test in tests:
        by_cell.setdefault(test.cell, []).append(item)
    others = [item for item in items if item not in claimed]
    by_model: dict[str, list[pytest.Item]] = {}  # one model in memory at a time, each loaded once
    for cell, group in by_cell.items():
        by_model.setdefault(cell.model, []).extend(group)
    ordered = [item for group in by_model.values() for item in group]
    for item in ordered:
        item.add_marker(pytest.mark.filterwarnings(phases.NOTHING_IS_AN_ERROR))
    if getattr(config.option, "loadgroup", False):
        _name_groups(config, ordered)
    items[:] = [*others, *ordered]
    declared: list[CellClaim] = config.stash[DECLARED]
    config.stash[SESSION] = Session.of(
        config.stash[SETTINGS], [test for _, test in tests], declared
    )
    _report_problems(config, _twice_declared(tests) | config.stash[PROBLEMS])


def _name_groups(config: pytest.Config, items: Sequence[Any]) -> None:
    """Say in which worker each test of a claim runs: behind its id, as pytest-xdist reads it.

    Not by its mark, which it reads before ``-m`` has chosen the tests, and which it cannot hand on
    from pytest 9.2 on, where ids are objects.
    """
    count = int(vars(config)["workerinput"]["workercount"])
    models = [test.cell.model for item in items if (test := claim_of(item)) is not None]
    for item, group in zip(items, workers.groups(models, count), strict=True):
        named = f"{item.nodeid}@{group}"
        if hasattr(item, "id"):
            item._id = type(item.id).parse(named)
        else:
            item._nodeid = named


def claim_of(item: Any) -> CellClaim | None:
    """Return the claim and the cell of a test, if it has any."""
    test = item.callspec.params.get("cell") if hasattr(item, "callspec") else None
    return test if isinstance(test, CellClaim) else None


def _twice_declared(
    tests: list[tuple[pytest.Item, CellClaim]],
) -> dict[tuple[str, str], None]:
    """Return what is wrong with claims that share an id: the ledger would mix them up."""
    first: dict[str, str] = {}
    problems: dict[tuple[str, str], None] = {}
    for item, test in tests:
        name, function = test.spec.claim.id, item.nodeid.split("[")[0]
        if first.setdefault(name, function) != function:
            problem = f"{function}: claim {name!r} is declared in {first[name]} too: rename one."
            problems[function, problem] = None
    return problems


def _report_problems(config: pytest.Config, problems: dict[tuple[str, str], None]) -> None:
    """Make each problem a collection error that lets the other claims be judged."""
    if not problems:
        return
    config.option.continue_on_collection_errors = True
    for nodeid, line in problems:
        report = pytest.CollectReport(nodeid, "failed", line, [])
        config.hook.pytest_collectreport(report=report)


def resources_lines(config: pytest.Config) -> list[str]:
    """Say before the first test what the run lacks, and the commands that fetch it."""
    settings = config.stash[SETTINGS]
    repeats = config.stash[REPEATS].warnings
    if settings.no_measure or config.option.collectonly or SESSION not in config.stash:
        return repeats
    cells_of_run = [(model, dataset) for _, model, dataset in config.stash[SESSION].needs]
    return repeats + resources.report(resources.lacking(cells_of_run, settings))


# --- judging -----------------------------------------------------------------------------------


def judged(request: pytest.FixtureRequest, test: CellClaim) -> Conclusion:
    """Measure, compute and judge a claim in its cell.

    Skips where this machine lacks what the cell needs, or the claim has no meaning there.
    """
    session = request.config.stash[SESSION]
    try:
        cell = _measured(session, test)
        measured, look = cell.stop_of(test)
        reason = test.spec.declared.applies(measured)
        if reason:
            pytest.skip(f"not applicable: {reason}")
        judgement = CellJudge(test, measured, session, look).judge()
    except MissingResource as missing:
        pytest.skip(f"no resource: {missing}")
    context = {
        "explanations": session.explained_once(test.key),
        "provenance": {**cell.facts, **request.config.stash[REPEATS].fact(test.key.dataset)},
    }
    plugin.attach(request.node, judgement, context)
    return judging.conclusion(judgement, session.settings)


def _measured(session: Session, test: CellClaim) -> LookedAt:
    """Return a cell's rows; a refusal to measure is an error of one line."""
    try:
        return session.measured(test.key, judging.judge_of(session))
    except KvError as error:
        refusal = str(error)
    # Outside the handler, whose error would be shown once more.
    pytest.fail(refusal, pytrace=False)


def tell(item: Any) -> bool | None:
    """Tell pytest a claim's verdict, by its outcomes, in place of calling its test once more."""
    __tracebackhide__ = True
    conclusion = item.funcargs.get("judge")
    if not isinstance(conclusion, Conclusion):
        return None
    if conclusion.note:
        warnings.warn(conclusion.note, stacklevel=1)
    if conclusion.outcome == "failed":
        pytest.fail(conclusion.sentence, pytrace=False)
    if conclusion.outcome == "skipped":
        pytest.skip(conclusion.sentence)
    if conclusion.outcome == "xfailed":
        pytest.xfail(conclusion.sentence)
    return True


# --- beside judging ----------------------------------------------------------------------------


def before_tests(session: pytest.Session) -> bool | None:
    """Explain or measure alone where that is asked for; else measure, and let the tests run."""
    settings, own = session.config.stash[SETTINGS], session.config.stash[SESSION]
    return phases.before_tests(session, settings, own)


def summarize(terminal: Any, config: pytest.Config) -> None:
    """Write the ledger where that was asked for, and say what changed in it."""
    if not config.stash[SETTINGS].record or hasattr(config, "workerinput"):
        return
    judgements = [
        Judgement.from_dict(json.loads(report.kv_judgement))
        for reports in terminal.stats.values()
        for report in reports
        if hasattr(report, "kv_judgement")
    ]
    for line in ledger.record(judgements, _versions()):
        terminal.write_line(line)


def _versions() -> str:
    names = ("torch", "transformers")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
