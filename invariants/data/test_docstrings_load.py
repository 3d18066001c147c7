"""The corpus of docstrings is extracted once, from public callables, and cached for its code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invariants.support.children import child
from invariants.support.made_docstrings import doc_of
from kvcore.data.datasets import load_corpus
from kvcore.data.docstrings import load, walk
from kvcore.data.sample import Corpus
from kvcore.errors import MissingResource
from kvcore.io import TEMPORARY


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Load the default corpus, which leaves its cache file behind."""
    return load_corpus("docstrings")


HEAVY_CODE = """
import json, sys
from kvcore.data.datasets import load_corpus
{first}
load_corpus("docstrings")
heavy = ("torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "datasets", "pytest")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


@pytest.mark.usefixtures("corpus")
def test_a_cached_load_imports_nothing_heavy() -> None:
    """Catches a cached load that imports anything heavy."""
    assert child(HEAVY_CODE.format(first="")) == []


@pytest.mark.usefixtures("corpus")
def test_a_heavy_import_is_noticed() -> None:
    """Twin: catches the module that cleans imported at the top of the file."""
    assert "scipy" in child(HEAVY_CODE.format(first="import kvcore.data.docstrings.clean"))


@pytest.fixture
def extractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Empty the cache and make extraction quick; the list grows with each."""
    calls: list[int] = []

    def extract() -> dict[str, Any]:
        calls.append(len(calls))
        return {"callables": [["p.f", "p", doc_of(1)], ["p.g", "p", "Short."]], "failed": ["p.bad"]}

    monkeypatch.setenv("KVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(load, "extract", extract)
    return calls


def assert_extracted_once(extractions: list[int], tmp_path: Path) -> None:
    """Loaded thrice, damaged between: one extraction, then one more for the damaged file."""
    first, second = load_corpus("docstrings"), load_corpus("docstrings")
    assert first == second
    assert len(extractions) == 1
    (stored,) = tmp_path.rglob("*.json")
    stored.write_bytes(stored.read_bytes()[:-5])
    assert load_corpus("docstrings") == first
    assert len(extractions) == 2
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


def test_a_corpus_is_extracted_once(extractions: list[int], tmp_path: Path) -> None:
    """Catches a corpus extracted twice, or a damaged cache file that is never replaced."""
    assert_extracted_once(extractions, tmp_path)


def test_a_cache_that_is_never_read_is_noticed(
    extractions: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches a cache that is never read."""
    monkeypatch.setattr(load, "read_cached", lambda _path, _revision: None)
    with pytest.raises(AssertionError):
        assert_extracted_once(extractions, tmp_path)


def test_what_was_dropped_survives_the_cache(extractions: list[int]) -> None:
    """Catches counts by reason that are lost on the way through the cache."""
    for _ in range(2):
        loaded = load_corpus("docstrings")
        assert loaded.dropped["module does not import"] == 1
        assert loaded.dropped["summary not 3 to 25 words"] == 1
        assert [sample.id for sample in loaded.samples] == ["p.f"]
    assert len(extractions) == 1


def test_other_package_versions_make_another_corpus(
    extractions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a revision or a cache file that ignores package versions."""
    before = load_corpus("docstrings").revision
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0")
    assert load_corpus("docstrings").revision != before
    assert len(extractions) == 2


def test_other_cleaning_code_makes_another_cache_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches samples that outlive the code that made them, each source file in turn."""
    before, sources = load.cache_file("r"), load.SOURCES
    changed = tmp_path / "changed.py"
    changed.write_text("changed", encoding="utf-8")
    names = {source.name for source in sources}
    assert names == {"walk.py", "prose.py", "clean.py", "sample.py", "overlap.py"}
    for i in range(len(sources)):
        monkeypatch.setattr(load, "SOURCES", (*sources[:i], changed, *sources[i + 1 :]))
        assert load.cache_file("r") != before, sources[i].name


def test_a_missing_package_is_one_line() -> None:
    """Catches a missing package told without the command that installs it."""
    with pytest.raises(MissingResource, match=r"'no-such-package' is not .*pip install no-such"):
        load.versions(("numpy", "no-such-package"))


def test_a_failing_extraction_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a failure of the child process whose last line is lost."""
    monkeypatch.setattr(load, "WALK", tmp_path / "walk.py")
    with pytest.raises(MissingResource, match=r"reading numpy failed: .*walk\.py"):
        load.extract(("numpy",))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a small package with everything that a walk must pass by."""
    files = {
        "__init__.py": """
            from kvwalkme.longer.path import f, Tool
            import json
            def _hidden(): "Private."
            class Text(str):
                def own(self): "Its own."
            """,
        "longer/__init__.py": "",
        "longer/path.py": """
            def f(): "F."
            class Tool:
                "A tool."
                def use(self): "Use it."
                @classmethod
                def make(cls): "Make it."
                def _hidden(self): "Private."
            class Bare: pass
            number = 3
            f.__module__ = "kvwalkme"  # as NumPy does, to look public
            """,
        "broken.py": "raise SystemExit('needs a screen')",
        "_private.py": "raise RuntimeError('never imported')",
        "tests/__init__.py": "raise RuntimeError('never imported')",
    }
    for name, text in files.items():
        path = tmp_path / "kvwalkme" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text("\n".join(line.removeprefix(" " * 12) for line in lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "kvwalkme"
    for name in [name for name in sys.modules if name.split(".")[0] == "kvwalkme"]:
        del sys.modules[name]


def assert_public_once(package: str) -> None:
    """Public names only, each object once under its shortest path, failures named."""
    walked = walk.walk([package])
    assert [item.name for item in walked["callables"]] == [
        f"kvwalkme.{name}" for name in ("Text.own", "Tool", "Tool.make", "Tool.use", "f")
    ]
    modules = {item.name: item.module for item in walked["callables"]}
    assert modules["kvwalkme.Tool.use"] == modules["kvwalkme.f"] == "kvwalkme.longer.path"
    assert modules["kvwalkme.Text.own"] == "kvwalkme"
    assert walked["failed"] == ["kvwalkme.broken"]


def test_a_walk_finds_every_public_callable_once(package: str) -> None:
    """Catches private names, tests, aliases, inherited methods or other packages collected."""
    assert_public_once(package)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_public", lambda name: "tests" not in name and "_private" not in name),
        ("by_length", lambda item: -len(item.name)),
        ("own_doc", lambda thing: getattr(thing, "__doc__", None)),
        ("source_module", lambda _thing: None),
        ("home_of", lambda *_args: "kvwalkme"),
        ("MAX_NESTING", 0),
    ],
)
def test_a_walk_that_lost_a_rule_is_noticed(
    name: str, value: object, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: catches each rule of the walk replaced in turn."""
    monkeypatch.setattr(walk, name, value)
    with pytest.raises(AssertionError):
        assert_public_once(package)
