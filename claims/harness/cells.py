"""The cells (model, dataset, metric and dtype) that a claim is judged in."""

from __future__ import annotations

import pytest

from claims.harness.claims import ClaimSpec
from claims.harness.datasets import is_for
from claims.harness.options import DEFAULT_LIMIT, Settings
from claims.harness.published import limit_for
from kvcore.errors import MissingResource
from kvcore.measurements.base import Place
from kvcore.models.registry import NO_BOS, adds_quantization, entry_of, installed, precision
from kvcore.verdict import Cell, slugify

DEFAULT_MODEL = "smollm2-135m"
OPT_IN_MODELS = ("gemma3-270m", "qwen2.5-coder-0.5b")
"""Among the defaults where their packages are installed, or where stored rows alone are judged."""


def places(spec: ClaimSpec, settings: Settings) -> tuple[Place, ...]:
    """Return the (model, dataset) pairs to judge: those asked for, or the default and published.

    Datasets that hold no data of the claim's kind are left out. Where stored rows alone are judged,
    the claim's stored places belong to the default datasets of a model.
    """
    kind = spec.kind
    shipped = settings.no_measure and not settings.datasets
    stored = spec.declared.also_stored_at if shipped else ()
    if settings.models or settings.datasets:
        models = settings.models or (DEFAULT_MODEL,)
        datasets = settings.datasets or (kind.dataset,)
        asked = tuple((m, d) for m in models for d in datasets if is_for(kind, d))
        return (*asked, *(place for place in stored if place[0] in models))
    opt_in = [name for name in OPT_IN_MODELS if settings.no_measure or installed(name)]
    own = ((model, kind.dataset) for model in (DEFAULT_MODEL, *opt_in))
    return tuple(dict.fromkeys((*own, *stored, *spec.places)))


def cells_of(spec: ClaimSpec, settings: Settings) -> list[Cell]:
    """Return a claim's cells, each place with each metric."""
    return [
        Cell(model, dataset, metric, precision_name(model, settings))
        for model, dataset in places(spec, settings)
        for metric in spec.declared.metrics
    ]


def precision_name(model: str, settings: Settings) -> str:
    """Return a model's dtype, with a quantization that the registry does not have it in.

    A cell whose caches begin without BOS is another one, and says so here.
    """
    chosen = precision(model, settings.dtype, settings.quantization)
    added = adds_quantization(model, chosen.quantization)
    own = f"{chosen.dtype}+{chosen.quantization}" if added else chosen.dtype
    return own + NO_BOS * (settings.bos == "none")


def cell_id(cell: Cell) -> str:
    """Return the cell's slug, with the precision behind the model where it is not its own."""
    if cell.dtype == entry_of(cell.model).dtype:
        return cell.slug
    model = slugify(cell.model)
    return f"{model}-{slugify(cell.dtype)}{cell.slug.removeprefix(model)}"


def limit_of(place: Place, settings: Settings) -> int:
    """Return how many samples a cell has at most: asked for, published or `DEFAULT_LIMIT`.

    Published counts are those of models that need a GPU; a small model's cells are this project's
    own, and are not cut down to the n of an early finding about them.
    """
    if settings.limit is not None:
        return settings.limit
    published = limit_for(place) if entry_of(place[0]).gpu else None
    return published or DEFAULT_LIMIT


def marks(spec: ClaimSpec, cell: Cell) -> list[pytest.MarkDecorator]:
    """Return what selects a claim in a cell, the same on every machine: slow, and gpu."""
    slow = [pytest.mark.slow] if spec.declared.slow else []
    return [*slow, *([pytest.mark.gpu] if entry_of(cell.model).gpu else [])]


def has_cuda() -> bool:
    """Whether torch has a GPU on this machine, be it NVIDIA's or AMD's; imports torch."""
    import torch

    return torch.cuda.is_available()


def check_gpu(model: str, settings: Settings) -> None:
    """Raise MissingResource for a model that needs a GPU on a machine without one.

    A Ray cluster may have one where this machine has none: it says so itself.
    """
    if settings.executor == "ray":
        return
    if entry_of(model).gpu and settings.device in ("auto", "cuda") and not has_cuda():
        raise MissingResource(
            f"{model} needs a GPU and this machine has none; judge stored rows with "
            "--kv-no-measure, or force it with --kv-device cpu."
        )
