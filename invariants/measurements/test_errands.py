"""Errands: what another process measures is what this one would have, or is refused by name.

They are done in this process here, each pickled and read again; `test_ray` has real processes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from invariants.support import cells_elsewhere as cells
from invariants.support.cells_elsewhere import InThisProcess
from invariants.support.comparing import must_see
from invariants.support.patching import Fault, patched
from kvcore.conditions import registry as conditions
from kvcore.conditions.parse import condition
from kvcore.errors import KvError
from kvcore.measurements import continuations, errands, surrogate_queries
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import Collection
from kvcore.measurements.errands import Sender
from kvcore.measurements.registry import kind_of
from kvcore.store import artifacts

SAMPLES = 12
PAIRS = ("bare", "random", "oracle")


def no_model() -> Any:
    """Stand for a model in a process that only writes."""
    raise AssertionError("the process that writes loaded a model")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cells.questions(tmp_path_factory.mktemp("questions"), SAMPLES)


def check_elsewhere(
    folder: Path,
    dataset: str,
    needs: tuple[str, ...] = PAIRS,
    kind: str = "answer_nll",
    score: str = "nll",
) -> None:
    """Rows and texts of errands are those of this process, which loads no model for them."""
    shutil.rmtree(folder, ignore_errors=True)
    here, there = folder / "here", folder / "there"
    own = cells.collected(cells.request(here, dataset, needs), kind=kind)
    workers = InThisProcess()
    asked = cells.request(there, dataset, needs, load=no_model)
    rows = cells.collected(asked, Sender(workers, "cpu"), kind)
    cells.check_same_rows(own, rows, score)
    assert written(there) == written(here)
    assert len(set(map(id, workers.measuring))) == 1  # the samples are sent once


def written(store: Path) -> list[str]:
    """Return the texts that a model wrote, in order."""
    files = sorted((store / artifacts.FOLDER).glob("*.jsonl"))
    rows = [row for file in files for row in artifacts.read_file(file)]
    return sorted(str(row.get("text", row.get("ids"))) for row in rows)


def test_rows_of_errands_are_those_of_this_process(tmp_path: Path, dataset: str) -> None:
    """Catches rows of another sample or condition, and a model in the process that writes."""
    check_elsewhere(tmp_path, dataset)


def _scores_moved(patch: pytest.MonkeyPatch) -> None:
    right = errands.Errand.__call__

    def moved(self: errands.Errand, asked: pd.DataFrame | None) -> errands.Answer:
        answer = right(self, asked)
        rows = answer.result.assign(nll=answer.result["nll"] + 2e-6)
        return dataclasses.replace(answer, result=rows)

    patch.setattr(errands.Errand, "__call__", moved)


def _model_here(patch: pytest.MonkeyPatch) -> None:
    right = Sender.plan

    def plan(self: Sender, kind: Any, request: Any) -> Any:
        request.load()
        return right(self, kind, request)

    patch.setattr(Sender, "plan", plan)


@pytest.mark.parametrize("fault", [_scores_moved, _model_here])
def test_twin_other_rows_or_a_model_here_are_seen(
    tmp_path: Path, dataset: str, fault: Fault
) -> None:
    """Would catch a tolerance too wide, and a process that quietly loads the model."""
    must_see(fault, check_elsewhere, tmp_path, dataset)


def refusal(asked: MeasureRequest, workers: InThisProcess) -> str:
    """Return why nothing was measured."""
    try:
        cells.collected(asked, Sender(workers, "cpu"))
    except KvError as error:
        return str(error)
    raise AssertionError("rows were stored")


# --- another shard, other code, another model ----------------------------------------------------


def check_wrong_shard_is_refused(folder: Path, dataset: str) -> None:
    """Rows of another seed have the names of those asked for, and are refused all the same."""
    shutil.rmtree(folder, ignore_errors=True)

    def of_another_seed(payload: Any, answer: errands.Answer) -> errands.Answer:
        return dataclasses.replace(answer, asked=errands.asked_hash(payload.assign(seed=1)))

    asked = cells.request(folder, dataset, load=no_model)
    assert "another shard's rows" in refusal(asked, InThisProcess(of_another_seed))


def test_rows_of_another_shard_are_refused(tmp_path: Path, dataset: str) -> None:
    """Catches an answer that is stored under the keys of another one."""
    check_wrong_shard_is_refused(tmp_path / "store", dataset)


def test_twin_rows_matched_by_name_alone_are_seen(tmp_path: Path, dataset: str) -> None:
    """Would catch rows that are told apart by sample, condition and template alone."""
    fault = patched(errands, "asked_hash", lambda _: "")
    must_see(fault, check_wrong_shard_is_refused, tmp_path / "store", dataset)


def _other_code(patch: pytest.MonkeyPatch) -> None:
    right = kind_of
    patch.setattr(errands, "kind_of", lambda name: _with_code(right(name), "0123456789abcdef" * 4))


def _with_code(kind: Any, code: str) -> Any:
    other = dataclasses.replace(kind)
    other.__dict__["code"] = code
    return other


def _other_weights(patch: pytest.MonkeyPatch) -> None:
    right = errands.located
    patch.setattr(
        errands, "located", lambda *place: dataclasses.replace(right(*place), model_id="other")
    )


def check_refused(folder: Path, dataset: str, fault: Fault, said: str) -> None:
    """A process with other code or another model measures nothing, and says so in a line."""
    shutil.rmtree(folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        refused = refusal(cells.request(folder, dataset, load=no_model), InThisProcess())
    assert said in refused
    assert len(refused.splitlines()) == 1


REFUSALS = [
    (_other_code, "by other code (0123456789ab) than asked for"),
    (_other_weights, "has another tiny-llama than asked for (model_id other"),
]


@pytest.mark.parametrize(("fault", "said"), REFUSALS)
def test_other_code_and_other_weights_are_refused(
    tmp_path: Path, dataset: str, fault: Fault, said: str
) -> None:
    """Catches rows under a key whose hashes are not those of what measured them."""
    check_refused(tmp_path / "store", dataset, fault, said)


def test_twin_an_unchecked_model_is_seen(tmp_path: Path, dataset: str) -> None:
    """Would catch a refusal that comes from elsewhere."""
    fault, said = REFUSALS[1]
    unchecked = patched(errands, "check_model", lambda *_: None)
    must_see(unchecked, check_refused, tmp_path / "store", dataset, fault, said)


# --- what a user defined, what a model writes ----------------------------------------------------


def check_defined_goes_along(folder: Path, dataset: str) -> None:
    """A condition that a user defined is known where it is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditions, "DEFINED", {})
        conditions.define("my_own", condition("random").recipe, "a condition of one's own")
        right = errands.Errand.__call__

        def elsewhere(self: errands.Errand, asked: pd.DataFrame | None) -> errands.Answer:
            with pytest.MonkeyPatch.context() as there:
                there.setattr(conditions, "DEFINED", {})
                return right(self, asked)

        patch.setattr(errands.Errand, "__call__", elsewhere)
        patch.setattr(errands, "doing", errands.doing.__wrapped__)  # anew for every shard
        check_elsewhere(folder, dataset, ("bare", "my_own"))


def test_a_condition_of_ones_own_goes_along(tmp_path: Path, dataset: str) -> None:
    """Catches a condition that is unknown, or another one, where it is measured."""
    check_defined_goes_along(tmp_path, dataset)


def test_twin_a_condition_that_stays_here_is_seen(tmp_path: Path, dataset: str) -> None:
    """Would catch a process that knows what was defined in this one."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = errands.Errand.of

        def of(*arguments: Any) -> errands.Errand:
            return dataclasses.replace(right(*arguments), defined={})

        patch.setattr(errands.Errand, "of", of)

    with pytest.raises(KvError, match="my_own"):
        must_see(fault, check_defined_goes_along, tmp_path, dataset)


def test_surrogates_are_written_elsewhere(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model in the process that writes, and texts that stay where they were written."""
    monkeypatch.setattr(surrogate_queries, "MAX_NEW_TOKENS", 4, raising=False)
    check_elsewhere(tmp_path, dataset, ("bare", "llm_surrogate(question)"))
    assert written(tmp_path / "there")


def _texts_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(errands, "keep_written", lambda *_: None)


def test_twin_texts_that_stay_elsewhere_are_seen(tmp_path: Path, dataset: str) -> None:
    """Would catch two stores of which neither has a text."""
    must_see(_texts_stay, check_elsewhere, tmp_path, dataset, ("bare", "llm_surrogate(question)"))


def texts_file(folder: Path) -> str:
    """Write a file of texts that are continued, and return its path."""
    lines = "".join(
        f'{{"text": "The {word} stood at the end of the street. {"It was seen by many. " * 12}"}}\n'
        for word in ("house", "tower", "mill", "tree")
    )
    (folder / "texts.jsonl").write_text(lines)
    return str(folder / "texts.jsonl")


def test_continuations_are_written_elsewhere(tmp_path: Path) -> None:
    """Catches continuations that are written into a folder of another machine and lost."""
    data = texts_file(tmp_path)
    store = tmp_path / "store"
    check_elsewhere(store, data, ("human", "greedy"), "hidden_states", "ce")
    assert written(store / "there")
    assert continuations.CONTINUATIONS.stem in {
        file.name.split("-")[0] for file in (store / "there" / artifacts.FOLDER).iterdir()
    }


def test_what_cannot_be_sent_is_one_line(tmp_path: Path, dataset: str) -> None:
    """Catches a traceback of pickle for a kind whose measuring is a local function."""
    asked = cells.request(tmp_path, dataset)
    kind = kind_of("answer_nll")
    local: Callable[[pd.DataFrame], pd.DataFrame] = lambda todo: todo  # noqa: E731
    own = Collection.planned(
        kind, asked, tmp_path, progress=None, sender=Sender(InThisProcess(), "cpu")
    )
    own = dataclasses.replace(own, plan=dataclasses.replace(own.plan, measure=local))
    with pytest.raises(KvError, match="answer_nll cannot be sent to other processes") as error:
        own.measure(own.keys)
    assert len(str(error.value).splitlines()) == 1
