"""The pytest side of the claims: cells from options, rows from the store, verdicts to reports."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from claims import cells, judging, kinds, ledger, measured, options
from claims.cells import ClaimSpec
from claims.harness.estimands.base import Finding
from claims.measured import Measured, Rows
from claims.needs import EVERY_LAYER
from claims.options import Settings
from kvcore.errors import MissingResource
from kvcore.verdict import Cell, Judgement

SETTINGS = pytest.StashKey[Settings]()
LAB = pytest.StashKey["Lab"]()


@dataclass
class Lab:
    """The measurements of one session, each cell measured once for all its claims."""

    settings: Settings
    needs: Mapping[tuple[str, str, str], tuple[str, ...]]
    families: Mapping[str, int]
    told: set[tuple[str, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.measured = functools.cache(self._measured)
        self.explanations = functools.cache(self._explanations)

    def _measured(self, kind: str, model: str, dataset: str) -> Measured | MissingResource:
        """Measure a cell; what this machine lacks is remembered, not retried per claim."""
        needs = self.needs[kind, model, dataset]
        try:
            return kinds.kind_of(kind).measure(model, dataset, needs, self.settings)
        except MissingResource as missing:
            return missing

    def cell(self, spec: ClaimSpec, cell: Cell) -> Measured | MissingResource:
        """Return what was measured for a claim in a cell."""
        found: Measured | MissingResource = self.measured(spec.kind, cell.model, cell.dataset)
        return found

    def explained_once(self, kind: str, model: str, dataset: str) -> list[Mapping[str, Any]]:
        """Return a cell's explanations the first time, then none: they are megabytes."""
        cell = (kind, model, dataset)
        if cell in self.told:
            return []
        self.told.add(cell)
        return list(self.explanations(*cell))

    def _explanations(self, kind: str, model: str, dataset: str
                      ) -> tuple[Mapping[str, Any], ...]:
        """Return the cell's explanations, kept on disk so that judging again loads no model."""
        from kvcore import wanted
        from kvcore.analysis import cached_json, estimate_key
        from kvcore.models import cache_dir

        found = self.measured(kind, model, dataset)
        if isinstance(found, MissingResource) or kind != "scores":
            return ()
        names = [c for c in self.needs[kind, model, dataset]
                 if found.two_bases or not c.startswith(measured.ONE_BASE)
                 if c not in found.lacking]
        key = estimate_key(wanted.code(), "explanations", {
            "model": model, "revision": found.revision, "dataset": dataset, "names": names,
            "seed": self.settings.seed})
        if self.settings.no_measure:
            return ()
        return tuple(cached_json(cache_dir() / "explanations", key, lambda: {
            "all": list(measured.explanations(model, dataset, names, self.settings))})["all"])


def configure(config: pytest.Config) -> None:
    """Read the options; make a run of the claims write its reports, if it is to judge any."""
    settings = options.read(config)
    options.check_names(settings)
    config.stash[SETTINGS] = settings
    if settings.explain:
        return
    if any("claims" in Path(str(arg).split("::")[0]).parts for arg in config.args):
        from reports import plugin

        plugin.enable(config, config.rootpath / "reports" / "out", settings.shown())


def header(config: pytest.Config) -> list[str]:
    """Return the effective options as one header line."""
    shown = config.stash[SETTINGS].shown()
    return ["kvclaims: " + ", ".join(f"{name} {value}" for name, value in shown.items())]


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a claim one test per cell."""
    marker = metafunc.definition.get_closest_marker("claim")
    if marker is not None:
        settings = metafunc.config.stash[SETTINGS]
        metafunc.parametrize("cell", cells.parameters(marker.args[0], settings), scope="session")


def collected(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which conditions each cell needs, so that its claims are measured together."""
    needs: dict[tuple[str, str, str], list[ClaimSpec]] = {}
    nowhere = [item for item in items if cells.spec_of(item) and not _has_cell(item)]
    if nowhere:  # none of the datasets asked for is of its kind
        config.hook.pytest_deselected(items=nowhere)
        items[:] = [item for item in items if item not in nowhere]
    families: dict[str, set[str]] = {}
    for item in items:
        spec = cells.spec_of(item)
        if spec is not None:
            cell: Cell = item.callspec.params["cell"]  # type: ignore[attr-defined]
            needs.setdefault((spec.kind, cell.model, cell.dataset), []).append(spec)
            families.setdefault(spec.claim.family, set()).add(f"{spec.claim.id} {cell}")
    config.stash[LAB] = Lab(
        config.stash[SETTINGS], {place: cells.needed(specs) for place, specs in needs.items()},
        {family: len(members) for family, members in families.items()})


def _has_cell(item: Any) -> bool:
    return isinstance(item.callspec.params.get("cell"), Cell)


def explain_all(config: pytest.Config) -> str:
    """Explain every condition of the collected claims, on one sample per cell."""
    lab = config.stash[LAB]
    parts = []
    for (kind, model, dataset), names in lab.needs.items():
        if kind != "scores":
            continue
        try:
            found = measured.explanations(model, dataset, names, lab.settings)
        except MissingResource as missing:
            parts.append(f"{model} on {dataset}: {missing}")
            continue
        parts += [f"=== {model} on {dataset} ===", *(str(one["text"]) + "\n" for one in found)]
    return "\n".join(parts)


def rows_of(request: pytest.FixtureRequest, cell: Cell) -> Callable[[str], Rows]:
    """Return the function that hands a claim its rows; measures first where rows lack.

    Skips where this machine lacks what the cell needs, or the claim has no meaning there.
    Whatever else goes wrong here is an error of the run, never a refutation.
    """
    spec, found = _spec_and_cell(request, cell)
    reason = spec.applies(found)
    if reason:
        pytest.skip(f"not applicable: {reason}")
    column = cell.metric if cell.metric in found.rows.columns else found.score
    try:
        for need in spec.needs:
            if EVERY_LAYER not in need:
                found.of(need, column)
    except MissingResource as missing:
        pytest.skip(f"no resource: {missing}")
    return lambda condition: found.of(condition, column)


def layers_of(request: pytest.FixtureRequest, cell: Cell) -> Callable[[str], dict[int, Rows]]:
    """Return the function that hands a claim the rows of a need for every layer."""
    found = _spec_and_cell(request, cell)[1]
    column = cell.metric if cell.metric in found.rows.columns else found.score

    def layers(pattern: str) -> dict[int, Rows]:
        rows = found.layers(pattern, column)
        if not rows:
            pytest.skip(f"no resource: no measurable rows of {pattern!r} for {cell.model}")
        return rows

    return layers


def _spec_and_cell(request: pytest.FixtureRequest, cell: Cell) -> tuple[ClaimSpec, Measured]:
    """Return the claim and what was measured for it; skip where this machine lacks something."""
    spec = cells.spec_of(request.node)
    if spec is None:
        raise pytest.UsageError("rows and judge: only for tests declared with @claim.")
    found = request.config.stash[LAB].cell(spec, cell)
    if isinstance(found, MissingResource):
        pytest.skip(f"no resource: {found}")
    return spec, found


def judge_of(request: pytest.FixtureRequest, cell: Cell) -> Callable[[Finding], None]:
    """Return the function that judges a claim's finding and tells pytest."""
    lab = request.config.stash[LAB]

    def judge(finding: Finding) -> None:
        __tracebackhide__ = True
        spec, found = _spec_and_cell(request, cell)
        bench = judging.Bench(spec, cell, found, lab.settings, lab.families[spec.claim.family])
        try:
            made = bench.judge(finding)
        except MissingResource as missing:
            pytest.skip(f"no resource: {missing}")
        _report(request, lab, spec.kind, made, found)
        judging.conclude(made, lab.settings)

    return judge


def _report(request: pytest.FixtureRequest, lab: Lab, kind: str, made: Judgement,
            found: Measured) -> None:
    from reports import plugin

    plugin.attach(request.node, made, {
        "explanations": lab.explained_once(kind, found.model, found.dataset),
        "provenance": dict(found.provenance)})


def explain_only(session: pytest.Session) -> bool | None:
    """With ``--kv-explain``, print the explanations in place of running any test."""
    if not session.config.stash[SETTINGS].explain or session.testscollected == 0:
        return None
    capture: Any = session.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + explain_all(session.config))
    return True


def summarize(terminal: Any, config: pytest.Config) -> None:
    """Say what was skipped for want of a resource; write the ledger where that was asked for."""
    skipped = [str(report.longrepr[2]) for report in terminal.stats.get("skipped", [])
               if isinstance(report.longrepr, tuple)]
    for reason in dict.fromkeys(r for r in skipped if "no resource:" in r):
        terminal.write_line(f"not judged ({skipped.count(reason)} tests): {reason}")
    if config.stash[SETTINGS].record and not hasattr(config, "workerinput"):
        judged = [report for reports in terminal.stats.values() for report in reports
                  if hasattr(report, "kv_judgement")]
        for line in _record(judged):
            terminal.write_line(line)


def _record(reports: list[Any]) -> list[str]:
    judgements = [Judgement.from_dict(json.loads(report.kv_judgement)) for report in reports]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}"
                         for name in ("torch", "transformers"))
    return ledger.record(judgements, versions)
