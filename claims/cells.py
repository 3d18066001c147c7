"""Claims as data, and the cells (model and dataset) they are judged in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from claims.kinds import kind_of
from claims.options import Settings
from kvcore.models.registry import entry_of, installed
from kvcore.verdict import Cell, Claim, Prediction, Published

DEFAULT = ("smollm2-135m", "gemma3-270m")
MISTRAL, GEMMA_4B = ("mistral-7b", "ms_marco"), ("gemma3-4b", "ms_marco")
BOTH = ("nll", "nll_tail")
Place = tuple[str, str]


@dataclass(frozen=True)
class ClaimSpec:
    """A claim with everything its cells need.

    Attributes
    ----------
    needs : tuple of str
        Conditions that must be measured.
    metrics : tuple of str
        ``nll`` and ``nll_tail``, or what else the claim is about (``lengths``, ``boundary``).
    published : mapping of (model, dataset) to Published
        The published values; the first is shown in every cell, each is compared in its own.
    applies : callable
        Takes what is known of a cell; returns why the claim has no meaning there, or "".
    kind : str
        Of measurement, as `claims.kinds` names it.
    """

    claim: Claim
    needs: tuple[str, ...]
    metrics: tuple[str, ...]
    published: Mapping[Place, Published]
    applies: Callable[[Any], str]
    slow: bool
    kind: str = "scores"

    def published_for(self, cell: Cell) -> tuple[Published | None, bool]:
        """Return the value to show in a cell, and whether it was published for that very cell."""
        there = self.published.get((cell.model, cell.dataset))
        shown = there or next(iter(self.published.values()), None)
        fits = shown is not None and shown.metric == cell.metric
        return (shown if fits else None), there is not None


def claim(claim_id: str, *, version: int = 1, family: str, source: str, predicts: Prediction,
          needs: Sequence[str], metrics: Sequence[str] = BOTH,
          published: Published | Mapping[Place, Published] | None = None, min_n: int = 100,
          applies: Callable[[Any], str] = lambda _cell: "", slow: bool = False,
          kind: str = "scores") -> Callable[[Any], Any]:
    """Declare a test to be a claim; its docstring is the statement.

    Parameters
    ----------
    claim_id, version
        The slug under which the ledger knows it, and the version of its meaning.
    predicts : Prediction
        Written down before measuring.
    needs : sequence of str
        Conditions the test asks ``rows`` for; ``bare@256`` is ``bare`` on documents padded to
        256 tokens.
    published : Published or mapping of (model, dataset) to Published, optional
        The published values; a single one was measured where the kind's were, scores on
        mistral-7b and ms_marco.
    min_n : int
        Fewest samples whose refutation may enter the ledger.
    slow : bool
        Leave it out of the default selection: it takes measurements that no other claim shares.
    kind : str
        Of measurement, a key of `claims.kinds.KINDS`.
    """
    def decorate(test: Any) -> Any:
        statement = inspect.getdoc(test) or ""
        if not statement:
            raise pytest.UsageError(f"claim {claim_id!r}: give the test a docstring; it is the "
                                    "statement that readers see.")
        made = Claim(claim_id, version, statement, source, family, predicts, min_n)
        values = {kind_of(kind).published[0]: published} if isinstance(
            published, Published) else published or {}
        spec = ClaimSpec(made, tuple(needs), tuple(metrics), values, applies, slow, kind)
        marked = pytest.mark.claim(spec)(test)
        return pytest.mark.slow(marked) if slow else marked

    return decorate


def spec_of(item: Any) -> ClaimSpec | None:
    """Return the claim a test or function declares, if it does."""
    marker = item.get_closest_marker("claim")
    return marker.args[0] if marker else None


def places(spec: ClaimSpec, settings: Settings) -> tuple[Place, ...]:
    """Return the (model, dataset) pairs to judge: those asked for, or the default and published.

    Notes
    -----
    The opt-in model appears among the defaults where its package is installed. Datasets that hold
    no data of the claim's kind are left out.
    """
    kind = kind_of(spec.kind)
    if settings.models or settings.datasets:
        models = settings.models or DEFAULT[:1]
        datasets = settings.datasets or (kind.dataset,)
        return tuple((m, d) for m in models for d in datasets if kind.knows(d))
    opt_in = [model for model in DEFAULT[1:] if settings.no_measure or installed(model)]
    own = ((model, kind.dataset) for model in (DEFAULT[0], *opt_in))
    return (*own, *(spec.published or kind.published))


def parameters(spec: ClaimSpec, settings: Settings) -> list[Any]:
    """Return one pytest parameter per cell, with a slug as id, GPU cells marked."""
    made = []
    for model, dataset in places(spec, settings):
        dtype = settings.dtype or entry_of(model).dtype
        for metric in spec.metrics:
            cell = Cell(model, dataset, metric, dtype)
            made.append(pytest.param(cell, id=cell.slug, marks=_marks(model, settings)))
    return made


def _marks(model: str, settings: Settings) -> list[pytest.MarkDecorator]:
    group = [pytest.mark.xdist_group(model)]
    on_gpu = entry_of(model).gpu or settings.device.startswith("cuda") or (
        settings.device == "auto" and has_cuda())
    return [*group, pytest.mark.gpu] if on_gpu else group


def has_cuda() -> bool:
    """Whether this machine has a CUDA GPU."""
    if not Path("/dev/nvidiactl").exists():  # spares the seconds that importing torch takes
        return False
    return torch.cuda.is_available()


def needed(specs: Iterable[ClaimSpec]) -> tuple[str, ...]:
    """Return every condition that some claim needs, each once, in a stable order."""
    return tuple(sorted({name for spec in specs for name in spec.needs}))
