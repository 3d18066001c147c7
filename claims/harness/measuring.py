"""The measuring of a run, apart from its judging: what is asked for is planned, told, measured.

`pytest claims --kv-measure-only` measures every row up to the limit and judges nothing; a later run
judges. Where a run judges too, it measures first, look by look, all cells of a model before the
next model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from claims.harness.claims import CellKey
from claims.harness.session import Session
from kvcore.errors import KvError, MissingResource, one_line
from kvcore.measurements.collect import Collection
from kvcore.measurements.errands import NeedsModel, refuse
from kvcore.measurements.forecast import (
    CellForecast,
    ModelForecast,
    cell_forecast,
    model_forecast,
)
from kvcore.measurements.registry import kind_of

Tell = Callable[[str], None]
"""Takes one line of what is told."""


@dataclass(frozen=True)
class Outcome:
    """What came of measuring.

    - `measured`: cells that have all their rows now.
    - `lacking`: what this machine lacks, by cell.
    - `broken`: what went wrong, by cell.
    """

    measured: tuple[CellKey, ...] = ()
    lacking: Mapping[CellKey, str] = field(default_factory=dict)
    broken: Mapping[CellKey, str] = field(default_factory=dict)


def measure_all(session: Session, tell: Tell) -> Outcome:
    """Plan all cells of a session, tell the plan, and measure what the store lacks of each.

    What goes wrong in one cell is told in a line and spares the others.

    Parameters
    ----------
    session : Session
        Of the claims asked for.
    tell : callable
        Takes the lines of the plan, and one for each cell that is done or cannot be measured.
    """
    outcome = Outcome()
    for forecast in forecasts(session):
        for line in forecast.lines():
            tell(line)
    for model, keys in session.by_model().items():
        for key in keys:
            outcome = _measured(session, key, outcome, tell)
        session.free(model)
    if session.lost_shards:
        tell(f"{session.lost_shards} shards were begun again: their Ray worker was lost")
    tell(_summary(outcome))
    return outcome


def forecasts(session: Session) -> list[ModelForecast]:
    """Plan every cell of a session without loading a model, and say what is missing."""
    told = []
    for model, keys in session.by_model().items():
        cells = tuple(_forecast(session, key) for key in keys)
        settings = session.settings
        try:
            files = session.files(model)
            is_here = settings.executor != "ray"
            device = settings.device if is_here else "cpu"
            forecast = model_forecast(files, cells, device, settings.batch_tokens)
            # The rate of other machines is not this one's.
            told.append(forecast if is_here else replace(forecast, seconds=None))
        except (KvError, MissingResource) as error:
            reason = one_line(error).partition(": ")[2]
            refused = tuple(replace(cell, why_not=cell.why_not or reason) for cell in cells)
            told.append(ModelForecast(model, refused, 1, None, None))
    return told


def _forecast(session: Session, key: CellKey) -> CellForecast:
    try:
        request = replace(session.request(key), load=refuse)
        kind = kind_of(key.kind)
        planned = Collection.planned(kind, request, session.settings.store, progress=None)
    except NeedsModel:
        return CellForecast(str(key), why_not="texts that the model writes come first")
    except (KvError, MissingResource) as error:
        return CellForecast(str(key), why_not=f"cannot be measured: {error}")
    return cell_forecast(str(key), planned)


def _measured(session: Session, key: CellKey, outcome: Outcome, tell: Tell) -> Outcome:
    try:
        collection = session.collection(key)
        collection.measure(collection.keys)
        collection.keep_texts()
    except Exception as error:
        remembered = session.remember(key, error)
        tell(f"not measured: {key}: {remembered}")
        if isinstance(remembered, MissingResource):
            return replace(outcome, lacking={**outcome.lacking, key: str(remembered)})
        return replace(outcome, broken={**outcome.broken, key: str(remembered)})
    tell(f"measured: {key}")
    return replace(outcome, measured=(*outcome.measured, key))


def _summary(outcome: Outcome) -> str:
    parts = [f"{len(outcome.measured)} cells have all their rows"]
    parts += [f"{len(outcome.lacking)} lack something on this machine"] if outcome.lacking else []
    parts += [f"{len(outcome.broken)} went wrong"] if outcome.broken else []
    return f"{', '.join(parts)}; judge with the same options, without --kv-measure-only."
