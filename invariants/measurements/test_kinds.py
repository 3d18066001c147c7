"""Kinds of measurement: found by themselves, torch-free, keyed by what their rows depend on."""

from __future__ import annotations

import ast
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from invariants.support import toy_kind
from invariants.support.children import child
from kvcore.conditions import registry as conditions
from kvcore.conditions.recipes import Mix
from kvcore.conditions.registry import BARE, QUERY, primed, truncation
from kvcore.data.sample import Sample
from kvcore.errors import KvError, MissingResource
from kvcore.measurements import base, registry
from kvcore.measurements.base import ENGINE, MeasurementKind, RowSpec, source_files
from kvcore.measurements.collect import collect_rows, stored_rows
from kvcore.measurements.kinds.answer_nll import row_specs
from kvcore.measurements.needs import Need
from kvcore.store.code_hash import code_hash
from kvcore.store.schema import KEY

NAMES = ("answer_nll", "attention_sinks", "context_switch", "divergence", "hidden_states")
DECIDING = ("models", "cache", "conditions", "engine", "measurements", "tokenization.py")
# What turns requests into rows and texts into files, whatever the numbers are.
PLUMBING = (
    {f"measurements/{name}.py" for name in ("base", "collect", "needs", "registry", "shard_size")}
    | {"measurements/surrogate_store.py", "measurements/surrogate_queries.py"}
    | {"measurements/__init__.py", "measurements/kinds/__init__.py", "measurements/explain.py"}
    | {"measurements/explain_kinds.py", "measurements/sink_diagnosis.py"}
)


# --- the registry -------------------------------------------------------------------------------


def test_every_module_of_the_package_registers_its_kind() -> None:
    """Catches a kind that has a module and is not known by the module's name."""
    modules = {path.stem for path in (base.PACKAGE / "measurements" / "kinds").glob("[a-z]*.py")}
    assert set(registry.all_kinds()) == modules == set(NAMES)


def test_an_unknown_kind_is_one_line_with_the_nearest_name() -> None:
    """Catches a KeyError in place of a message."""
    with pytest.raises(KvError, match="did you mean 'divergence'") as refused:
        registry.kind_of("divergences")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"), [("name", "answer_nll"), ("folder", "_divergence"), ("prefix", "texts:")]
)
def test_a_kind_that_takes_what_is_another_s_is_refused(
    field: str, value: str, tmp_path: Path
) -> None:
    """Catches rows of two kinds in one folder, and names or prefixes that mean two kinds."""
    registry.all_kinds()
    changes: dict[str, Any] = {field: value}
    toy = dataclasses.replace(toy_kind.Toy(tmp_path).kind(), **changes)
    with pytest.raises(KvError, match=f"{field} '{value}' is taken by kind"):
        registry.register(toy)
    assert set(registry.all_kinds()) == set(NAMES)


def check_torch_free(extra: str = "") -> None:
    loaded = child(
        f"import sys, json; {extra}\n"
        "from kvcore.measurements import collect, registry\n"
        "codes = [kind.code for kind in registry.all_kinds().values()]\n"
        "print(json.dumps(sorted({'torch', 'transformers'} & set(sys.modules))))"
    )
    assert loaded == []


def test_kinds_are_known_without_torch() -> None:
    """Catches an import of the engine at the top of a kind: judging must not load torch."""
    check_torch_free()


def test_twin_an_import_of_torch_is_seen() -> None:
    """The test above looks where it should."""
    with pytest.raises(AssertionError):
        check_torch_free("import torch")


# --- what a row depends on ----------------------------------------------------------------------

SAMPLE = Sample("what", "some passage of words", "an answer", id="s")


def key_of(name: str, kind: MeasurementKind) -> dict[str, Any]:
    """Return the key of one sample under a condition."""
    frame = kind.keys(toy_kind.FILES, "x", 0, row_specs({Need(name): [SAMPLE]}))
    assert list(frame.columns) == [*KEY, "length"]
    return dict(frame.iloc[0])


@pytest.fixture
def user_conditions() -> Iterator[None]:
    """Forget the conditions that a test defines."""
    before = dict(conditions.DEFINED)
    yield
    conditions.DEFINED.clear()
    conditions.DEFINED.update(before)


def check_keys_follow_recipes(kind: MeasurementKind) -> None:
    """Define one name twice over; demand another key for another recipe and only for that."""
    methods = []
    for recipe in (
        truncation(QUERY),
        truncation(QUERY),
        Mix(BARE, primed(QUERY)),
        Mix(BARE, primed(QUERY), weight=0.5),
    ):
        conditions.DEFINED.clear()
        conditions.define("mine", recipe, "a test")
        methods.append(key_of("mine", kind)["method"])
    assert methods[0] == methods[1], "the same recipe, another key"
    assert len(set(methods)) == 3, "another recipe, the same key"
    assert all(method.startswith("answer_nll/1/") for method in methods)
    assert key_of("bare", kind)["method"] == "answer_nll/1"


@pytest.mark.usefixtures("user_conditions")
def test_a_changed_recipe_changes_the_key() -> None:
    """Catches rows of a user's condition that are taken for those of its older self."""
    check_keys_follow_recipes(registry.kind_of("answer_nll"))


@pytest.mark.usefixtures("user_conditions")
def test_twin_keys_without_recipes_are_seen() -> None:
    """Without the recipe in the key the test above fails."""
    kind = registry.kind_of("answer_nll")
    with pytest.raises(AssertionError, match="another recipe, the same key"):
        check_keys_follow_recipes(dataclasses.replace(kind, recipe_of=base.no_recipe))


@pytest.mark.usefixtures("user_conditions")
def test_a_pair_with_a_user_s_condition_has_its_recipe_in_the_key() -> None:
    """Catches divergence rows of a redefined condition that pass for the new one's."""
    kind, methods = registry.kind_of("divergence"), set()
    for recipe in (truncation(QUERY), Mix(BARE, primed(QUERY))):
        conditions.DEFINED.clear()
        conditions.define("mine", recipe, "a test")
        methods |= {kind.method("bare~mine"), kind.method("mine~bare")}
    assert len(methods) == 4
    assert kind.method("bare~random") == "divergence/2"


def test_another_version_makes_every_row_another_row(tmp_path: Path) -> None:
    """Catches a version that is raised and changes no key."""
    toy = toy_kind.Toy(tmp_path)
    first = toy.kind().keys(toy_kind.FILES, "x", 0, [RowSpec("a", "b", "c", "d", 1)])
    toy.version = 2
    second = toy.kind().keys(toy_kind.FILES, "x", 0, [RowSpec("a", "b", "c", "d", 1)])
    assert (first["method"].tolist(), second["method"].tolist()) == (["letters/1"], ["letters/2"])


def imported_files(path: Path, package: Path) -> set[Path]:
    """Return the modules of kvcore that a module imports, anywhere in it but for types alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    files = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = package.joinpath(*name.split(".")[1:])
            if name.startswith("kvcore."):
                files |= {f for f in (module.with_suffix(".py"), module / "__init__.py")
                          if f.is_file()}  # fmt: skip
    return files


def check_sources(kind: MeasurementKind, sources: tuple[str, ...]) -> None:
    """Demand every module among the sources that the kind imports and that decides numbers."""
    package = base.PACKAGE
    todo, seen = [package / "measurements" / "kinds" / f"{kind.name}.py"], set()
    while todo:
        path = todo.pop()
        name = path.relative_to(package).as_posix()
        if path in seen or name.split("/")[0] not in DECIDING or name in PLUMBING:
            continue
        seen.add(path)
        todo += imported_files(path, package)
    absent = seen - set(source_files(sources))
    absent -= {path for path in absent if path.parent.name == "kinds" and path.stem != kind.name}
    assert not absent, f"{kind.name}: {sorted(p.name for p in absent)} are not among its sources"


@pytest.mark.parametrize("name", NAMES)
def test_the_sources_of_a_kind_are_all_that_it_imports(name: str) -> None:
    """Catches a module that can change a number and is in no hash, however it is imported."""
    kind = registry.kind_of(name)
    check_sources(kind, kind.sources)


@pytest.mark.parametrize("left_out", ENGINE)
@pytest.mark.parametrize("name", ["answer_nll", "context_switch", "divergence"])
def test_twin_a_package_left_out_of_the_sources_is_seen(name: str, left_out: str) -> None:
    """A list of sources that lacks a package of the engine fails the test above."""
    kind = registry.kind_of(name)
    with pytest.raises(AssertionError, match="are not among its sources"):
        check_sources(kind, tuple(source for source in kind.sources if source != left_out))


# --- engine modules changed one after another -----------------------------------------------------


class _Mutation(ast.NodeTransformer):
    """Change the first operator, comparison or number that is met."""

    OPERATORS: ClassVar[dict[type, type]] = {
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.Div: ast.Mult,
        ast.Lt: ast.LtE,
        ast.Gt: ast.GtE,
        ast.LtE: ast.Lt,
        ast.GtE: ast.Gt,
        ast.Eq: ast.NotEq,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
    }

    def __init__(self) -> None:
        self.done = False

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        return self._changed(node, "op")

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if not self.done and type(node.ops[0]) in self.OPERATORS:
            node.ops[0] = self.OPERATORS[type(node.ops[0])]()
            self.done = True
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if (
            not self.done
            and isinstance(node.value, int | float)
            and not isinstance(node.value, bool)
        ):
            self.done = True
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def _changed(self, node: Any, field: str) -> ast.AST:
        operator = type(getattr(node, field))
        if not self.done and operator in self.OPERATORS:
            setattr(node, field, self.OPERATORS[operator]())
            self.done = True
        return self.generic_visit(node)


def mutated(source: str) -> str | None:
    """Return a source with one change of what it computes; None where it computes nothing."""
    mutation = _Mutation()
    tree = mutation.visit(ast.parse(source))
    return ast.unparse(tree) if mutation.done else None


DECIDING_FILES = sorted(
    {
        file
        for name in NAMES
        for file in source_files(registry.kind_of(name).sources)
        if mutated(file.read_text("utf-8"))
    }
)


@pytest.mark.parametrize(
    "path", DECIDING_FILES, ids=lambda p: p.relative_to(base.PACKAGE).as_posix()
)
def test_any_change_of_a_deciding_module_moves_the_provenance(path: Path, tmp_path: Path) -> None:
    """Catches a change of arithmetic after which stored rows still look like this code's.

    1. A copy of one module with one operator, comparison or number changed.
    2. The module as it is.

    The hashes must differ, for all kinds where the module belongs to the engine.
    """
    source = path.read_text("utf-8")
    copy = tmp_path / path.name
    copy.write_text(source)
    assert code_hash([copy]) == code_hash([path])
    copy.write_text(mutated(source) or "")
    assert code_hash([copy]) != code_hash([path])
    shared = path.relative_to(base.PACKAGE).parts[0] in ENGINE
    kinds = [name for name in NAMES if path in source_files(registry.kind_of(name).sources)]
    assert len(kinds) == len(NAMES) if shared else kinds


def test_the_whole_hash_moves_with_one_file_of_it(tmp_path: Path) -> None:
    """Catches a hash of many files that does not depend on each of them."""
    for name, content in (("a", "x = 1"), ("b", "y = 2"), ("c/b", "z = 3")):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    sources = ("a.py", "b.py", "c")
    before = code_hash(source_files(sources, tmp_path))
    (tmp_path / "c" / "b.py").write_text("z = 4")
    assert code_hash(source_files(sources, tmp_path)) != before


# What is changed, into what, and the model whose numbers must show it for every kind. "": the
# scores of tiny models are so small that capping them at 50 moves nothing beyond 1e-6 nats, and
# provenance alone tells.
MUTANTS = {
    "models/attention.py scale": ("scale=scaling,", "scale=(scaling or 1.0) * 1.01,", "tiny-llama"),
    "models/attention.py soft-capping": (
        'getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None',
        "False",
        "",
    ),
}


def moved_in_copy(package: Path, model: str, kinds: Sequence[str]) -> dict[str, str]:
    """Measure golden numbers with a copy of the package; return the first that moved by kind.

    A model that the copy refuses to load or to measure counts as moved; "" where nothing moved.
    """
    moved: dict[str, str] = child(
        f"import sys, json, tempfile; sys.path.insert(0, {str(package.parent)!r})\n"
        "from pathlib import Path\n"
        "import kvcore\n"
        f"assert Path(kvcore.__file__).is_relative_to({str(package)!r}), kvcore.__file__\n"
        "from invariants.support import golden\n"
        f"known, moved = golden.known()['values'][{model!r}], {{}}\n"
        f"for kind in {list(kinds)!r}:\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        try:\n"
        f"            found = golden.measured({model!r}, kind, Path(folder))\n"
        "            moved[kind] = (golden.differences(known[kind], found) or [''])[0]\n"
        "        except ValueError as error:\n"
        "            moved[kind] = f'refused: {error}'\n"
        "print(json.dumps(moved))",
        PYTHONWARNINGS="ignore",
    )
    return moved


@pytest.fixture(scope="module")
def package_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package that tests may change, if they put it right again."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(base.PACKAGE, folder / "kvcore", ignore=ignored))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_changed_attention_moves_golden_numbers_or_provenance(
    mutant: str, package_copy: Path
) -> None:
    """Catches attention that is changed and leaves the stored rows of a kind valid.

    1. A copy of the package with another scale, or without regard to soft-capping.
    2. The committed golden numbers, and the hash of the package as it is.
    """
    old, new, model = MUTANTS[mutant]
    path = package_copy / mutant.split()[0]
    source = path.read_text("utf-8")
    assert old in source
    try:
        path.write_text(source.replace(old, new))
        for kind in map(registry.kind_of, NAMES):
            assert code_hash(source_files(kind.sources, package_copy)) != kind.code, kind.name
        moved = moved_in_copy(package_copy, model, NAMES) if model else {}
    finally:
        path.write_text(source)
    assert set(moved) == (set(NAMES) if model else set())
    assert all(moved.values()), moved


def test_an_unchanged_copy_moves_nothing(package_copy: Path) -> None:
    """Catches golden numbers that differ for being measured in a subprocess."""
    kind = registry.kind_of("divergence")
    assert code_hash(source_files(kind.sources, package_copy)) == kind.code
    assert moved_in_copy(package_copy, "tiny-llama", ["divergence"]) == {"divergence": ""}


# --- collecting ---------------------------------------------------------------------------------


def test_rows_are_measured_once_and_read_back(tmp_path: Path) -> None:
    """Catches rows that are measured again, lost, or arranged under another need."""
    toy = toy_kind.Toy(source_of(tmp_path))
    request = toy_kind.request(tmp_path)
    rows = collect_rows(toy.kind(), request, tmp_path, progress=None)
    assert len(rows.rows) == len(toy.asked) == 40
    again = collect_rows(toy.kind(), request, tmp_path, progress=None)
    assert len(toy.asked) == 40
    pd.testing.assert_frame_equal(again.rows, rows.rows)
    stored = stored_rows(toy.kind(), model="tiny-llama", dtype="float32", dataset=request.dataset,
                         seed=0, store=tmp_path)  # fmt: skip
    pd.testing.assert_frame_equal(stored.rows, rows.rows)
    assert set(rows.rows["need"]) == {"1", "2"}
    first = rows.rows[(rows.rows["need"] == "2") & (rows.rows["sample"] == "l01")].iloc[0]
    assert (first["letters"], first["by_word"].tolist(), first["words"]) == (6.0, [4.0, 8.0], 2)
    assert rows.facts["samples"] == 20
    assert rows.facts["lines"] == 20


def source_of(folder: Path, content: str = "x = 1") -> Path:
    """Write the source that a toy kind's hash is of."""
    path = folder / "toy.py"
    path.write_text(content)
    return path


def test_more_needs_and_samples_are_added_to_what_is_there(tmp_path: Path) -> None:
    """Catches a run that starts from nothing when it is asked for more."""
    toy = toy_kind.Toy(source_of(tmp_path))
    collect_rows(toy.kind(), toy_kind.request(tmp_path, ("1",), 8), tmp_path, progress=None)
    assert len(toy.asked) == 8
    rows = collect_rows(toy.kind(), toy_kind.request(tmp_path), tmp_path, progress=None).rows
    assert len(toy.asked) == len(rows) == 40


def test_nothing_stored_and_nothing_to_measure_are_one_line(tmp_path: Path) -> None:
    """Catches an empty frame handed to a claim, or an IndexError in its place."""
    toy = toy_kind.Toy(source_of(tmp_path))
    with pytest.raises(MissingResource, match="no stored rows for tiny-llama"):
        stored_rows(toy.kind(), model="tiny-llama", dtype="float32", dataset="lines", seed=0,
                    store=tmp_path)  # fmt: skip
    empty = toy_kind.request(tmp_path, needs=())
    with pytest.raises(MissingResource, match="gives tiny-llama nothing to measure"):
        collect_rows(toy.kind(), empty, tmp_path, progress=None)


def test_rows_of_another_seed_dataset_or_version_are_not_the_cell_s(tmp_path: Path) -> None:
    """Catches cells that mix rows which only look alike."""
    toy = toy_kind.Toy(source_of(tmp_path))
    request = toy_kind.request(tmp_path)
    for other in (request, dataclasses.replace(request, seed=1)):
        collect_rows(toy.kind(), other, tmp_path, progress=None)
    toy.version = 2
    collect_rows(toy.kind(), dataclasses.replace(request, limit=5), tmp_path, progress=None)
    assert set(of_cell(toy, tmp_path)["method"]) == {"letters/2"}
    assert len(of_cell(toy, tmp_path)) == 10
    toy.version = 1
    assert len(of_cell(toy, tmp_path)) == 40
    assert set(of_cell(toy, tmp_path)["seed"]) == {0}


def of_cell(toy: toy_kind.Toy, folder: Path) -> pd.DataFrame:
    """Return the stored rows of the toy's cell."""
    return stored_rows(toy.kind(), model="tiny-llama", dtype="float32", dataset="lines", seed=0,
                       store=folder).rows  # fmt: skip


def test_keys_name_every_row_once(tmp_path: Path) -> None:
    """Catches a plan whose keys lack a column, or name one row twice."""
    keys = toy_kind.Toy(source_of(tmp_path)).plan(toy_kind.request(tmp_path)).keys
    assert list(keys.columns) == [*KEY, "length"]
    assert not keys.duplicated(list(KEY)).any()
