"""Runs that measure: memory that ends, models that break, files that cannot be read, warnings."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from claims.harness import cells, checks, hooks, options, phases, session
from claims.harness.claims import CellKey
from claims.harness.held import HeldModel
from claims.harness.looking import Judge
from claims.harness.session import Session
from invariants.support import checkpoints, invented_cell
from invariants.support.claim_runs import NO_PAGE, ClaimRun, run_here
from invariants.support.own_files import jsonl
from kvcore import loading
from kvcore.engine import limits

CLAIMS = '''
"""Claims of two kinds that tiny models are measured for."""

import warnings

from claims.harness.claims import claims_about
from claims.harness.estimands.base import Outcome, estimand
from claims.harness.estimands.paired import mean_benefit, paired_benefit
from kvcore.verdict import helps

topic = claims_about("invented", source="an invented source", metrics=("nll",), min_n=10)


@topic.claim("random-helps", predicts=helps())
def test_random_helps(judge):
    """Random tokens help."""
    judge(paired_benefit("bare", "random"))


@topic.claim("oracle-helps", predicts=helps())
def test_oracle_helps(judge):
    """The query helps."""
    judge(paired_benefit("bare", "values_only(oracle)"))


@topic.claim(
    "random-is-nearer", predicts=helps(unit="nats/token"), kind="divergence", metrics=("js",)
)
def test_random_is_nearer(judge):
    """Random tokens move a distribution less than the query does."""
    judge(mean_benefit("bare~oracle", "bare~random"))
'''
ONE_CLAIM = CLAIMS.split('@topic.claim("oracle-helps"')[0]
TESTS = 3
N = 12
Spoil = Callable[[Any], None]


@dataclass
class Loads:
    """Stands in for `kvcore.loading.load`: counts loads, and spoils what is loaded."""

    spoil: Spoil = lambda _: None
    names: list[str] = field(default_factory=list)
    models: list[weakref.ref[Any]] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)  # models still there when one is loaded

    def __post_init__(self) -> None:
        self.right = loading.load

    def __call__(self, name: str, **named: Any) -> Any:
        self.names.append(name)
        self.alive.append(sum(model() is not None for model in self.models))
        lm = self.right(name, **named)
        self.models.append(weakref.ref(lm.model))
        self.spoil(lm)
        return lm


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {
            "query": f"what is number {i}",
            "passage": f"It is number {i} of them, and {'many ' * (i % 4)}follow it.",
            "answer": f"it is the number {i}",
        }
        for i in range(N)
    ]
    return jsonl(tmp_path / "data.jsonl", *rows)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> Any:
    """Return the function that measures and judges with a stand-in for loading."""

    def measure(
        loads: Loads, *options: str, claims: str = CLAIMS, models: str = "tiny-llama"
    ) -> ClaimRun:
        monkeypatch.setattr(loading, "load", loads)
        where = ("--kv-models", models, "--kv-datasets", data, "--kv-store", "store")
        return run_here(tmp_path, monkeypatch, claims, *NO_PAGE, *where, *options, measures=True)

    return measure


def rows_of(folder: Path) -> pd.DataFrame:
    """Return every stored row of a run, in an order of their own."""
    tables = [pd.read_parquet(path) for path in sorted(folder.rglob("part-*.parquet"))]
    columns = ["sample_id", "condition", "status", "nll", "js"]
    rows = pd.concat([table.reindex(columns=columns) for table in tables])
    return rows.sort_values(["condition", "sample_id"], ignore_index=True)


# --- memory ------------------------------------------------------------------------------------


def failing_at_random(seed: int, failures: list[int]) -> Spoil:
    """Return what makes a model run out of memory at random passes.

    At three: too few for a sample to be hit twice when it is alone.
    """

    def spoil(lm: Any) -> None:
        chosen = random.Random(seed).sample(range(8), 3)
        passes = itertools.count()

        def before(*_: Any) -> None:
            number = next(passes)
            if number in chosen:
                failures.append(number)
                raise torch.OutOfMemoryError("CUDA out of memory: a test's")

        lm.model.register_forward_pre_hook(before)

    return spoil


def check_memory(whole: pd.DataFrame, run: ClaimRun, loads: Loads, failures: list[int]) -> None:
    assert failures
    assert loads.names == ["tiny-llama"]
    assert not [name for name, case in run.junit.items() if case.find("error") is not None]
    assert len(run.results["judgements"]) == TESTS
    rows = rows_of(run.folder.parents[2] / "store")
    assert rows[["sample_id", "condition", "status"]].equals(
        whole[["sample_id", "condition", "status"]]
    )
    for score in ("nll", "js"):
        assert rows[score].to_numpy() == pytest.approx(
            whole[score].to_numpy(), abs=1e-5, nan_ok=True
        )


def give_up_at_once(patch: pytest.MonkeyPatch) -> None:
    def broken(_lm: Any, items: Any, run: Any, give_up: Any = None, **_: str) -> Any:
        try:
            return list(run(items))
        except torch.OutOfMemoryError:
            return [give_up(item) for item in items]

    patch.setattr(limits, "run_or_halve", broken)


def test_out_of_memory_at_random_passes_changes_no_number(
    measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch scores lost or changed, a claim that fails, or a model that is loaded again.

    1. A run that nothing disturbs.
    2. One in which memory ends at random passes.

    The twin gives up in place of halving.
    """
    loads = Loads()
    measured(loads)
    assert loads.names == ["tiny-llama"]
    whole = rows_of(tmp_path / "store")
    assert set(whole["status"]) == {"ok"}
    for seed, fault in ((1, None), (2, None), (1, give_up_at_once)):
        (tmp_path / "store").rename(tmp_path / f"store-before-{seed}-{fault}")
        failures: list[int] = []
        loads = Loads(failing_at_random(seed, failures))
        with monkeypatch.context() as patch:
            if fault is None:
                check_memory(whole, measured(loads), loads, failures)
                continue
            fault(patch)
            with pytest.raises(AssertionError):
                check_memory(whole, measured(loads), loads, failures)


def test_a_model_that_never_fits_is_one_line_and_no_refutation(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch an out-of-memory that fails claims, or is tried again by each of them."""

    def spoil(_lm: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory: a test's")

    loads = Loads(spoil)
    run = measured(loads)
    assert loads.names == ["tiny-llama"]
    assert all(case.find("skipped") is not None for case in run.junit.values())
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("not judged (")]
    assert lines
    assert all("tiny-llama could not be loaded: out of memory" in line for line in lines)


# --- failures ----------------------------------------------------------------------------------


def broken_kernel(lm: Any) -> None:
    def before(*_: Any) -> None:
        raise RuntimeError("a kernel broke")

    lm.model.register_forward_pre_hook(before)


def check_failure_is_remembered(run: ClaimRun, loads: Loads) -> None:
    errors = [str(error.text) for case in run.junit.values() for error in case.iter("error")]
    assert len(errors) == TESTS
    assert sum("Traceback" in e or "a kernel broke" in e for e in errors) == TESTS
    assert sum(len(error.splitlines()) == 1 for error in errors) >= 1
    assert not [case for case in run.junit.values() if case.find("failure") is not None]
    assert loads.names == ["tiny-llama"]


def cannot_load(_lm: Any) -> None:
    raise RuntimeError("a kernel broke")


def forgetful(patch: pytest.MonkeyPatch) -> None:
    right = Session.measured

    def measured(self: Session, key: CellKey, judge: Judge) -> Any:
        vars(self)["_failures"].clear()
        vars(self)["_model"] = HeldModel(self.settings)
        return right(self, key, judge)

    patch.setattr(Session, "measured", measured)


@pytest.mark.parametrize("spoil", [broken_kernel, cannot_load])
def test_a_cell_that_failed_is_not_tried_again(measured: Any, spoil: Spoil) -> None:
    """Would catch a model loaded once per test, or a crash that counts as a refutation."""
    loads = Loads(spoil)
    check_failure_is_remembered(measured(loads), loads)


def test_twin_a_failure_that_is_forgotten_is_seen(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a check that counts no loads."""
    forgetful(monkeypatch)
    loads = Loads(cannot_load)
    run = measured(loads)
    with pytest.raises(AssertionError):
        check_failure_is_remembered(run, loads)


def check_one_model_at_a_time(loads: Loads) -> None:
    assert loads.names == ["tiny-llama", "tiny-gemma3"]
    assert loads.alive == [0, 0]


@pytest.mark.parametrize("spoil", [lambda _: None, broken_kernel], ids=["whole", "broken"])
def test_one_model_is_in_memory_at_a_time(measured: Any, spoil: Spoil) -> None:
    """Would catch a model kept alive by its session or by the traceback of a failed test."""
    loads = Loads(spoil)
    measured(loads, models="tiny-llama,tiny-gemma3", claims=ONE_CLAIM)
    check_one_model_at_a_time(loads)


@pytest.mark.parametrize(
    ("module", "name", "spoil"),
    [
        (HeldModel, "free_others", lambda _: None),
        (session, "as_text", broken_kernel),
    ],
    ids=["never freed", "tracebacks whole"],
)
def test_twin_a_model_that_stays_is_seen(
    measured: Any, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, spoil: Spoil
) -> None:
    """Would catch a check of dead references to what never lived."""
    kept: list[Any] = []

    def broken(*arguments: Any) -> Any:
        kept.append(arguments if name == "as_text" else vars(arguments[0])["_held"])
        return arguments[0]

    monkeypatch.setattr(module, name, broken)
    loads = Loads(spoil)
    measured(loads, models="tiny-llama,tiny-gemma3", claims=ONE_CLAIM)
    with pytest.raises(AssertionError):
        check_one_model_at_a_time(loads)


# --- warnings ----------------------------------------------------------------------------------

WARNING = '''

@estimand("d")
def noisy(interval, bare, random):
    """Use what a library will drop."""
    warnings.warn("an argument of another library will go", DeprecationWarning, stacklevel=1)
    warnings.warn("its default will change", FutureWarning, stacklevel=1)
    return Outcome(paired_effect(bare.values, random.values, bare.clusters, interval).d)


@topic.claim("noisy-one", predicts=helps())
def test_noisy_one(judge):
    """It warns."""
    judge(noisy("bare", "random"))


@topic.claim("noisy-two", predicts=helps())
def test_noisy_two(judge):
    """It warns too."""
    judge(noisy("bare", "framed"))
'''
NOISY = (
    ONE_CLAIM.replace(
        "from kvcore.verdict", "from kvcore.analysis import paired_effect\nfrom kvcore.verdict"
    )
    + WARNING
)


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the function that judges claims on the invented cell's rows."""
    invented_cell.write_store(tmp_path / "store")

    def judge(claims: str, *options: str) -> ClaimRun:
        return run_here(tmp_path, monkeypatch, claims, *NO_PAGE, "--kv-store", "store", *options)

    return judge


def check_warnings(run: ClaimRun, printed: str) -> None:
    assert not [case for case in run.junit.values() if case.find("error") is not None]
    assert len(run.results["judgements"]) == 3
    for said in ("an argument of another library will go", "its default will change"):
        assert printed.count(f"Warning: {said}") == 1


def test_a_librarys_warnings_are_shown_once_and_end_nothing(
    invented: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a deprecation that ends a run of hours, is repeated, or is not shown at all."""
    run = invented(NOISY, "--kv-models", invented_cell.MODEL, "-W", "error")
    check_warnings(run, capsys.readouterr().out)


def test_twin_warnings_that_are_errors_are_seen(
    invented: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a run in which nothing warns."""
    monkeypatch.setattr(phases, "NOTHING_IS_AN_ERROR", "error")
    run = invented(NOISY, "--kv-models", invented_cell.MODEL)
    with pytest.raises(AssertionError):
        check_warnings(run, capsys.readouterr().out)


# --- what is selected --------------------------------------------------------------------------


def check_gpu_cells(invented: Any, patch: pytest.MonkeyPatch) -> None:
    selected = []
    for available in (False, True):
        patch.setattr(torch.cuda, "is_available", lambda available=available: available)
        selected.append(set(invented(ONE_CLAIM, "-m", "gpu").junit))
    assert selected[0] == selected[1] == {"test_random_helps[mistral-7b-ms-marco-nll]"}


def test_gpu_selects_the_published_cells_on_every_machine(
    invented: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a selection that hangs on the GPUs of the machine."""
    check_gpu_cells(invented, monkeypatch)


def test_twin_a_selection_by_machine_is_seen(
    invented: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a check that selects on one machine alone."""
    right = cells.marks

    def by_machine(*arguments: Any) -> Any:
        return [pytest.mark.gpu] if torch.cuda.is_available() else right(*arguments)

    monkeypatch.setattr(cells, "marks", by_machine)
    with pytest.raises(AssertionError):
        check_gpu_cells(invented, monkeypatch)


def test_torch_is_asked_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a device file that WSL2 and ROCm do not have being looked for."""
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.setattr(Path, "exists", lambda _: False)
        assert cells.has_cuda() == available


ALIKE = ("own/my_model", "own/my-model", "own/other")


def check_ids(run: ClaimRun) -> None:
    names = sorted(run.junit)
    assert len(names) == len(ALIKE)
    assert sum("own-my-model-docstrings-nll-" in name for name in names) == 2
    assert "test_random_helps[own-other-docstrings-nll]" in names


def test_models_with_one_slug_have_ids_of_their_own(invented: Any) -> None:
    """Would catch two models in one test id, at which pytest stops."""
    check_ids(invented(ONE_CLAIM, "--kv-models", ",".join((*ALIKE, ALIKE[0]))))


def test_twin_models_in_one_id_are_seen(invented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check of ids that cannot collide."""
    monkeypatch.setattr(hooks, "distinct_names", lambda tests: [name for _, name, _ in tests])
    run = invented(ONE_CLAIM, "--kv-models", ",".join(ALIKE))
    with pytest.raises(AssertionError):
        check_ids(run)


# --- files -------------------------------------------------------------------------------------

GOOD = {"query": "q", "passage": "p", "answer": "a"}
UNREADABLE = {
    "missing": ("{folder}/nowhere.jsonl", None, "cannot be read"),
    "not JSON": ("{folder}/file.jsonl", [GOOD, "{"], "line 2 is not JSON"),
    "no answer": ("{folder}/file.jsonl", [{"query": "q", "passage": "p"}], "column 'answer'"),
    "empty": ("{folder}/file.jsonl", [], "no sample left"),
    "Parquet": ("{folder}/file.parquet", ["PAR1"], "not a readable Parquet file"),
    "texts": ("texts:{folder}/file.jsonl", [GOOD], "column 'text' is missing"),
    "pairs": ("pairs:{folder}/file.jsonl", [GOOD], "column 'question' is missing"),
}


def check_usage_error(run: ClaimRun, printed: Any, said: str) -> None:
    assert run.status == pytest.ExitCode.USAGE_ERROR
    (line,) = [x for x in printed.err.splitlines() if x.strip()]
    assert line.startswith("ERROR: ")
    assert said in line
    assert "Traceback" not in printed.out


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_usage_error(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch a traceback for each test in place of one line before there are any."""
    name, lines, said = UNREADABLE[case]
    path = name.format(folder=tmp_path)
    if lines is not None:
        jsonl(Path(path.rpartition(":")[2]), *lines)
    run = run_here(tmp_path, monkeypatch, ONE_CLAIM, "--kv-datasets", path, measures=True)
    check_usage_error(run, capsys.readouterr(), said)


def test_twin_a_file_that_is_not_read_first_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a check that passes whenever a run ends badly."""
    monkeypatch.setattr(options, "check_file", lambda _: None)
    path = str(tmp_path / "nowhere.jsonl")
    where = ("--kv-models", "tiny-llama", "--kv-datasets", path, "--kv-store", "store")
    run = run_here(tmp_path, monkeypatch, ONE_CLAIM, *NO_PAGE, *where, measures=True)
    with pytest.raises(AssertionError):
        check_usage_error(run, capsys.readouterr(), "cannot be read")


def cut_model(folder: Path) -> Path:
    """Save a small model whose weights were cut off while they were downloaded."""
    path = checkpoints.save_tiny(folder / "cut")
    weights = path / checkpoints.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    return path


def test_a_damaged_model_is_one_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a damaged folder that is told once for each test, and ends as failed tests do."""
    where = ("--kv-models", str(cut_model(tmp_path)))
    capsys.readouterr()  # what saving it has shown
    run = run_here(tmp_path, monkeypatch, ONE_CLAIM, *where, measures=True)
    check_usage_error(run, capsys.readouterr(), "is cut or damaged")


def test_twin_a_damaged_model_that_is_not_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a check that passes whenever a run ends badly."""
    monkeypatch.setattr(checks, "check_folder", lambda _: None)
    where = ("--kv-models", str(cut_model(tmp_path)), "--kv-store", "store")
    capsys.readouterr()
    run = run_here(tmp_path, monkeypatch, ONE_CLAIM, *NO_PAGE, *where, measures=True)
    with pytest.raises(AssertionError):
        check_usage_error(run, capsys.readouterr(), "is cut or damaged")


def test_stored_rows_are_judged_without_their_file(invented: Any) -> None:
    """Would catch a file that is asked for where nothing is measured."""
    run = invented(ONE_CLAIM, "--kv-models", invented_cell.MODEL, "--kv-datasets", "gone.jsonl")
    assert run.status != pytest.ExitCode.USAGE_ERROR
