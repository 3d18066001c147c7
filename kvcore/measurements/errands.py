"""Work on a cell that another process does: it is sent what it needs, and this one alone writes.

A process that does an errand loads the model by its name and keeps it until another one is asked
for. It does nothing unless its code, the model's weights and the tokenizer are those of the process
that sends it: their hashes stand in the rows' keys. Its store is a folder of its own, which holds
the texts that models have written so far; what is written there comes back with the rows.
"""

from __future__ import annotations

import contextlib
import functools
import io as bytes_io
import os
import pickle
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import pandas as pd

from kvcore.conditions import registry as conditions
from kvcore.conditions.recipes import Condition
from kvcore.errors import KvError, one_line
from kvcore.io import disk_errors, json_digest
from kvcore.measurements.base import MeasurementKind, MeasurePlan, MeasureRequest
from kvcore.measurements.provenance import provenance
from kvcore.measurements.registry import kind_of
from kvcore.models.registry import BosPolicy, Quantization, entry_of
from kvcore.store import artifacts, folder
from kvcore.store.fill import Executor, Measured, Work
from kvcore.store.keys import row_keys

if TYPE_CHECKING:
    from kvcore.models.files import ModelFiles
    from kvcore.models.lm import LM

Named = TypeVar("Named")
Payload = TypeVar("Payload")
Result = TypeVar("Result")
THE_REQUEST = "the request"
"""Stands in what is sent for the request, which every process has its own of."""


class Workers(Protocol):
    """Processes that do errands."""

    def run(
        self, do: Callable[[Payload], Result], parts: Iterator[tuple[Named, Payload]]
    ) -> Generator[tuple[Named, Result], None, None]:
        """Apply a function to the payloads of parts; return each part's name with its result."""

    def ask(self, do: Callable[[None], Result]) -> Result:
        """Have one process call a function with None."""


class NeedsModel(Exception):
    """What was asked for takes a model, and none is to be loaded in this process."""


def refuse() -> NoReturn:
    """Stand for the loading of a model in a process that is to load none."""
    raise NeedsModel("a model is needed here, and none is to be loaded in this process.")


@dataclass(frozen=True)
class Answer:
    """What an errand brings back.

    - `asked`: hash of the keys that it was done for, "" where there were none.
    - `result`: what was asked for.
    - `meta`: what is recorded with rows.
    - `written`: texts that a model wrote on the way, by the name of their file.
    """

    asked: str
    result: Any
    meta: Mapping[str, str]
    written: Mapping[str, bytes]


@dataclass(frozen=True, eq=False)
class Errand:
    """Something to be done for a cell.

    - `do`: takes the request and, where rows are to be measured, some of the plan's keys; bytes as
      `spelled` makes them.
    - `kind`: name of the kind of measurement, `plan` the function that plans it: sent so that its
      module is imported.
    - `code`: hash of the code that is to do it.
    - `request`: without what only its own process can use.
    - `model`: the name by which another process loads the model.
    - `device`: where the model is put, as the option spells it.
    - `written`: files of texts that models have written.
    - `defined`: conditions that a user defined.
    """

    do: bytes
    kind: str
    plan: Callable[[MeasureRequest], MeasurePlan]
    code: str
    request: MeasureRequest
    model: str
    device: str
    written: Mapping[str, bytes]
    defined: Mapping[str, Condition]

    @classmethod
    def of(
        cls,
        do: Callable[..., Any],
        kind: MeasurementKind,
        request: MeasureRequest,
        device: str,
    ) -> Errand:
        """Return the errand of doing something for a cell.

        Raises KvError where what is to be done cannot be sent to another process, or texts cannot
        be read.

        - `do`: takes the request, or holds the very one.
        """
        bare = replace(request, load=refuse, store=Path())
        model = name_elsewhere(request.files)
        texts = _written(request.store / artifacts.FOLDER)
        return cls(
            spelled(do, request, kind.name),
            kind.name,
            kind.plan,
            kind.code,
            bare,
            model,
            device,
            texts,
            dict(conditions.DEFINED),
        )

    def __call__(self, asked: pd.DataFrame | None) -> Answer:
        """Do it in this process, for some keys or for the cell.

        Raises KvError where code or model are not those of the process that sent it.
        """
        return doing(self).answer(asked)


@dataclass(frozen=True, eq=False)
class Sender:
    """Sends errands from the process that writes.

    - `workers`: who does them.
    - `device`: where they put the model, as the option spells it.
    """

    workers: Workers
    device: str

    def plan(self, kind: MeasurementKind, request: MeasureRequest) -> MeasurePlan:
        """Plan a cell, elsewhere where it takes the model; errors as `MeasurementKind.plan`."""
        try:
            return kind.plan(replace(request, load=refuse))
        except NeedsModel:
            planned: MeasurePlan = self.ask(kind.plan, kind, request)
            return planned

    def ask(
        self, do: Callable[[MeasureRequest], Any], kind: MeasurementKind, request: MeasureRequest
    ) -> Any:
        """Have something done that takes the request, and return what comes of it.

        What a model wrote on the way is kept.
        """
        answer = self.workers.ask(Errand.of(do, kind, request, self.device))
        keep_written(request.store, answer.written)
        return read(answer.result, request)

    def executor(
        self, kind: MeasurementKind, request: MeasureRequest, plan: MeasurePlan
    ) -> Executor:
        """Return what measures shards of a cell elsewhere; what a model wrote on the way is kept.

        What it returns raises KvError for the rows of another shard than was asked for.
        """
        errand = Errand.of(plan.measure, kind, request_in(plan.measure, request), self.device)

        def measured(work: Iterator[Work]) -> Generator[Measured, None, None]:
            parts = ((each, each.missing) for each in work)
            with contextlib.closing(self.workers.run(errand, parts)) as answers:
                for each, answer in answers:
                    if answer.asked != asked_hash(each.missing):
                        raise KvError("a worker returned another shard's rows than it was sent.")
                    keep_written(request.store, answer.written)
                    yield each, answer.result, answer.meta

        return measured


def request_in(measure: Callable[..., Any], request: MeasureRequest) -> MeasureRequest:
    """Return the request that is bound in what measures, which differs from a cell's in `load`."""
    bound = getattr(measure, "args", ())
    held = (thing for thing in bound if isinstance(thing, MeasureRequest))
    return next((each for each in held if replace(each, load=request.load) == request), request)


def asked_hash(keys: pd.DataFrame) -> str:
    """Return a hash of the keys of rows, in their order."""
    return json_digest(row_keys(keys))


def keep_written(store: Path, written: Mapping[str, bytes]) -> None:
    """Add files of texts that a model wrote elsewhere to those of a store."""
    place = store / artifacts.FOLDER
    with disk_errors(str(place), f"write {len(written)} files of texts"):
        for name, data in written.items():
            folder.put(place / name, data)


def _written(place: Path) -> dict[str, bytes]:
    with disk_errors(str(place), "read its files"):
        paths = folder.paths(place, artifacts.NAME)
        return {path.name: path.read_bytes() for path in paths if path.exists()}


def name_elsewhere(files: ModelFiles) -> str:
    """Return the name by which processes that work in other folders load a model."""
    is_path = entry_of(files.name).source in ("folder", "gguf")
    return str(Path(files.name).resolve()) if is_path else files.name


# --- spelling ------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    def __init__(self, file: Any, request: MeasureRequest) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._request = request

    def persistent_id(self, thing: Any) -> str | None:
        return THE_REQUEST if thing is self._request else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, request: MeasureRequest) -> None:
        super().__init__(file)
        self._request = request

    def persistent_load(self, name: Any) -> MeasureRequest:
        if name != THE_REQUEST:
            raise pickle.UnpicklingError(f"unknown name {name!r}")
        return self._request


def spelled(thing: Any, request: MeasureRequest, kind: str) -> bytes:
    """Spell something as bytes, a request in it by name.

    Raises KvError where it holds what cannot be sent to another process.

    - `kind`: name of the kind of measurement that it is of.
    """
    file = bytes_io.BytesIO()
    try:
        _Pickler(file, request).dump(thing)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise KvError(
            f"--kv-executor ray: {kind} cannot be sent to other processes ({one_line(error)}); "
            "measure by a function of a module, its data bound with functools.partial."
        ) from error
    return file.getvalue()


def read(data: bytes, request: MeasureRequest) -> Any:
    """Return what was spelled, with this request in it."""
    return _Unpickler(bytes_io.BytesIO(data), request).load()


# --- in the process that does it -----------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def doing(errand: Errand) -> _Doing:
    """Return what does an errand, the same one until another errand comes."""
    return _Doing(errand)


class _Doing:
    """An errand in the process that does it, with a store of its own."""

    def __init__(self, errand: Errand) -> None:
        for condition in errand.defined.values():
            conditions.define(condition.name, condition.recipe, condition.tests)
        own = kind_of(errand.kind)
        if own.code != errand.code:
            raise KvError(
                f"{_here()} measures {errand.kind} by other code ({own.code[:12]}) than asked for "
                f"({errand.code[:12]}): install the same kvclaims on all nodes."
            )
        # Begun with the first text: most kinds write none, and a process may be killed at its end.
        self._store = Path(tempfile.gettempdir()) / f"kvclaims-{uuid.uuid4().hex}"
        weakref.finalize(self, shutil.rmtree, self._store, ignore_errors=True)
        keep_written(self._store, errand.written)
        asked = errand.request.files
        files = located(errand.model, asked.dtype, asked.quantization, asked.bos)
        check_model(asked, files)
        self._request = replace(
            errand.request,
            files=replace(asked, folder=files.folder),
            load=functools.partial(_HELD.load, files, errand.device),
            store=self._store,
        )
        self._do = read(errand.do, self._request)
        self._known = set(errand.written)

    def answer(self, asked: pd.DataFrame | None) -> Answer:
        """Do it once."""
        if asked is None:
            result = spelled(self._do(self._request), self._request, "what came of it")
            return Answer("", result, {}, self._new_texts())
        rows = self._do(asked)
        return Answer(asked_hash(asked), rows, provenance(self._request.load()), self._new_texts())

    def _new_texts(self) -> dict[str, bytes]:
        texts = _written(self._store / artifacts.FOLDER)
        new = {name: data for name, data in texts.items() if name not in self._known}
        self._known |= set(new)
        return new


@functools.lru_cache(maxsize=1)
def located(name: str, dtype: str, quantization: Quantization | None, bos: BosPolicy) -> ModelFiles:
    """Return where a model lies in this process; the files of a folder are hashed once."""
    from kvcore.models.files import locate

    return locate(name, dtype, quantization, bos=bos)


class _HeldModel:
    """The one model that this process holds for the errands that it does."""

    def __init__(self) -> None:
        self._held: tuple[ModelFiles, str, LM] | None = None

    def load(self, files: ModelFiles, device: str) -> LM:
        """Return a model, the one that is held or another one in its place."""
        from kvcore import loading
        from kvcore.engine.limits import free_memory

        if self._held is not None and self._held[:2] == (files, device):
            return self._held[2]
        if self._held is not None:
            self._held = None
            free_memory()
        lm = loading.load(
            files.name,
            device=device,
            dtype=files.dtype,
            quantization=files.quantization,
            bos=files.bos,
        )
        self._held = (files, device, lm)
        return lm


_HELD = _HeldModel()


def check_model(asked: ModelFiles, own: ModelFiles) -> None:
    """Raise KvError where a model's weights, dtype or tokenizer are not those asked for."""
    for what in ("model_id", "dtype", "tokenizer_id"):
        if getattr(asked, what) != getattr(own, what):
            raise KvError(
                f"{_here()} has another {asked.name} than asked for ({what} {getattr(own, what)}, "
                f"not {getattr(asked, what)}): put the same files on all nodes."
            )


def _here() -> str:
    return f"node {os.uname().nodename}"
