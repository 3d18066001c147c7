"""What the documentation says is so: its code runs; commands, options, names, files exist."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

from invariants.support import markdown

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "kvcore").rglob("README.md"),
    ]
)
LANGUAGES = {"python", "sh", "text", "mermaid", "json", "toml"}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


@every_page
def test_blocks_are_of_a_known_language_and_python_compiles(page: Path) -> None:
    """Fault: a block that no check reads, a Python block that is none, an import that fails."""
    made = {b.file for b in markdown.blocks(page.read_text("utf-8"))}
    for block in markdown.blocks(page.read_text("utf-8")):
        assert block.language in LANGUAGES, f"line {block.line}: {block.language!r}"
        if block.language == "python":
            absent = [
                name
                for name in markdown.unresolved_imports(block.text)
                if not any(name.startswith(str(f)[:-3].replace("/", ".")) for f in made if f)
            ]
            assert not absent, f"line {block.line}: {absent} cannot be imported"


@every_page
def test_what_a_page_names_exists(page: Path, pytestconfig: pytest.Config) -> None:
    """Fault: a file, a dotted name, a make target, an option or a variable that is gone."""
    text = page.read_text("utf-8")
    created = {b.file for b in markdown.blocks(text) if b.file}
    assert not markdown.missing_paths(text, page.parent, ROOT, created)
    created_names = tuple(name[:-3].replace("/", ".") for name in created)
    assert not [n for n in markdown.missing_names(text) if not n.startswith(created_names or "-")]
    targets = markdown.make_targets((ROOT / "Makefile").read_text("utf-8"))
    assert not set(markdown.named_targets(text)) - targets
    assert not unknown_options(text, pytestconfig)


def unknown_options(text: str, config: pytest.Config) -> list[str]:
    """Return the ``--kv-*`` options and ``KVCORE_*`` variables that pytest does not know."""
    options = set(markdown.OPTION.findall(text))
    variables = set(markdown.VARIABLE.findall(text)) - {"KVCORE_CACHE", "KVCORE_"}
    options |= {v.replace("KVCORE_", "--kv-").replace("_", "-").lower() for v in variables}
    return sorted(o for o in options if config.getoption(o, default="unknown") == "unknown")


def test_new_names_of_the_glossary_exist_and_old_ones_do_not() -> None:
    """Fault: a renaming that was not carried out, or carried out otherwise than the table says."""
    source = "\n".join(
        path.read_text("utf-8")
        for name in ("kvcore", "claims", "reports")
        for path in (ROOT / name).rglob("*.py")
    )
    words = set(re.findall(r"\w+", source))
    defined = set(re.findall(r"^\s*(?:def|class) (\w+)", source, re.MULTILINE))
    page = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    rows = markdown.table_rows(page, "## Names before 0.2")
    assert len(rows) > 20
    for old, new in rows:
        for name in markdown.CODE.findall(new):
            assert set(re.findall(r"\w+", name)) <= words, f"{name} is nowhere in the code"
        for name in markdown.CODE.findall(old):
            assert not re.fullmatch(r"[A-Z]\w+", name) or name not in defined, f"{name} is back"


def test_the_table_of_packages_is_the_import_contract() -> None:
    """Fault: a package that the page leaves out, or an order other than the one that is checked."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    layers = next(c["layers"] for c in settings["contracts"] if c.get("containers") == ["kvcore"])
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    listed = [
        markdown.CODE.findall(row[0])[0] for row in markdown.table_rows(page, "## The packages")
    ]
    assert [name for name in listed if name.startswith("kvcore.")] == [
        f"kvcore.{layer}" for layer in reversed(layers)
    ]
    children = {p.stem for p in (ROOT / "kvcore").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert children - {"__init__", "__pycache__", "README"} == set(layers)
    others = {name for name in listed if "." not in name}
    assert others == set(settings["root_packages"]) - {"kvcore"}


def test_the_workflow_uses_what_exists() -> None:
    """Fault: a workflow that calls a target that is gone, or leaves out a supported Python."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    jobs = workflow["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    matrix = jobs["invariants"]["strategy"]["matrix"]["include"]
    used = {c.removeprefix("make ") for c in commands if "${{" not in c}
    used |= {entry["target"] for entry in matrix}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert used <= markdown.make_targets(makefile)
    assert all(command.startswith("make ") for command in commands)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = [c.rsplit(" ")[-1] for c in project["classifiers"] if "Python :: 3." in c]
    assert [e["python"] for e in matrix if e["transformers"] == "newest"] == pythons
    assert f"OLDEST := {_floor(project, 'transformers')}.0\n" in makefile


def _floor(project: dict[str, list[str]], name: str) -> str:
    """Return the lowest version of a package that the project allows."""
    return next(d.split(">=")[1] for d in project["dependencies"] if d.startswith(f"{name}>="))


def test_version_changelog_and_citation_agree() -> None:
    """Fault: a release whose changelog or citation tells another version or license."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert cited.keys() >= {"message", "title", "authors"}
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    releases = re.findall(
        r"^## \[([\d.]+)\] \(?(Unreleased|\d{4}-\d\d-\d\d)\)?$",
        (ROOT / "CHANGELOG.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert (cited["version"], str(cited["date-released"])) in releases


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("See `kvcore/nowhere.py`.", "kvcore/nowhere.py"),
        ("[here](nowhere.md)", "nowhere.md"),
        ("Run `make nothing`.", "nothing"),
        ("```sh\nmake claims nothing\n```\n", "nothing"),
        ("`kvcore.engine.nothing`", "kvcore.engine.nothing"),
        ("```python\nfrom kvcore.engine import nothing\n```\n", "kvcore.engine.nothing"),
        ("Pass `--kv-nothing`.", "--kv-nothing"),
        ("Set `KVCORE_NOTHING`.", "--kv-nothing"),
    ],
)
def test_names_that_do_not_exist_are_seen(
    text: str, problem: str, pytestconfig: pytest.Config
) -> None:
    """Twin of `test_what_a_page_names_exists`: each planted fault is found, by its name."""
    seen = [
        *markdown.missing_paths(text, ROOT, ROOT),
        *markdown.missing_names(text),
        *(
            b
            for block in markdown.blocks(text)
            if block.language == "python"
            for b in markdown.unresolved_imports(block.text)
        ),
        *set(markdown.named_targets(text)) - markdown.make_targets("claims: x\n"),
        *unknown_options(text, pytestconfig),
    ]
    assert problem in seen


NUMBER = r"[+−]?\d(?:\.\d{3}|e−\d\d)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")


def check_what_holds(page: str, verdicts: str) -> None:
    """Demand that each estimate of a page is that of its claim among all verdicts."""
    rows = {line.split(" | ")[0].strip("|. "): line for line in verdicts.splitlines()}
    lines = [line for line in page.splitlines() if INTERVAL.search(line)]
    assert len(lines) > 10
    for line in lines:
        claim = line.split(" | ")[0].strip("|. ")
        for estimate in INTERVAL.findall(line):
            assert estimate.replace("+", "") in rows[claim].replace("+", ""), (claim, estimate)


CONTROL = "Under the document's own keys the values of another document make the answer far harder"


def check_control(page: str, verdicts: str) -> None:
    """Demand that the effect which a page names of the positive control is the shipped one."""
    named = re.search(r"much harder\s+\(d (−\d\.\d\d)\)", page)
    shipped = re.search(rf"\| {CONTROL}\. \| (−\d\.\d{{3}}) ", verdicts)
    assert named is not None
    assert shipped is not None
    values = [float(found[1].replace("−", "-")) for found in (named, shipped)]
    assert abs(values[0] - values[1]) < 0.0051


@pytest.mark.parametrize("name", ["README.md", "docs/what_holds.md"])
def test_the_named_control_is_the_shipped_one(name: str) -> None:
    """Catches an effect of the positive control that newer rows have left behind."""
    page = (ROOT / name).read_text("utf-8")
    verdicts = (ROOT / "reports" / "verdicts.md").read_text("utf-8")
    check_control(page, verdicts)
    with pytest.raises(AssertionError):
        check_control(re.sub(r"\(d −\d\.\d\d\)", "(d −1.07)", page), verdicts)


def test_what_holds_here_are_the_shipped_verdicts() -> None:
    """Catches figures left behind by other rows, or by another way of making intervals."""
    page = (ROOT / "docs" / "what_holds.md").read_text("utf-8")
    verdicts = (ROOT / "reports" / "verdicts.md").read_text("utf-8")
    check_what_holds(page, verdicts)
    moved = INTERVAL.sub("+0.123 [+0.045, +0.201]", page, count=1)
    with pytest.raises(AssertionError):
        check_what_holds(moved, verdicts)


def test_every_fence_is_a_block_on_the_site() -> None:
    """Catches words behind a fence's language, with which the site shows the block as prose."""
    as_site = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["on_page_markdown"]
    fences = re.compile(r"^ *```\w+ .*$", re.MULTILINE)
    pages = [page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
    assert any(fences.search(page) for page in pages)
    assert not [page for page in pages if fences.search(as_site(page))]
    assert as_site("```python run\nx = 1\n```\n") == "```python\nx = 1\n```\n"
