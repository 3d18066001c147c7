"""Small measurements whose numbers are known: every kind on tiny models, a dozen conditions.

Files, seeds and needs are fixed, so the numbers depend on the code alone. Models are measured in
float64 where the code does not ask for less, so that they hold on any machine.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parents[1] / "measurements" / "golden"
VALUES = FOLDER / "values.json"
MODELS = ("tiny-llama", "tiny-mistral", "tiny-gemma2", "tiny-gemma3", "tiny-qwen3", "tiny-longrope")
TOLERANCE = 1e-6
Values = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class GoldenRequest:
    """What is measured of a kind."""

    dataset: str
    limit: int
    needs: tuple[str, ...]


REQUESTS: Mapping[str, GoldenRequest] = {
    "answer_nll": GoldenRequest(
        str(FOLDER / "samples.jsonl"),
        4,
        (
            "bare",
            "random",
            "oracle",
            "full_context(static_fact)",
            "one_base(static_fact)",
            "no_reposition(static_fact)",
            "reposition(random,model)",
            "blocks(static_fact,2,last)",
            "suffix(random)",
            "values_only(static_fact)",
            "values_early_layers(static_fact,0.5)",
            "values_early_positions(random,0.5)",
            "values_layer(random,*)",
            "interp(static_fact,0.25)",
            "beacons(random,4)",
            "qvi(0.5)",
            "click_history(2)",
            "separator",
            "bare@160",
            "bare@lists",
            "random@seed1",
            "bare@samples.qdoc",
        ),
    ),
    "divergence": GoldenRequest(
        str(FOLDER / "samples.jsonl"),
        3,
        (
            "bare~random",
            "bare~static_fact",
            "bare~values_only(random)",
            "full_context(random)~no_reposition(random)",
        ),
    ),
    "hidden_states": GoldenRequest(
        str(FOLDER / "texts.jsonl"), 2, ("human", "greedy", "temperature(0.7)", "shuffled")
    ),
    "context_switch": GoldenRequest(
        "word_problems",
        2,
        (
            "oracle",
            "ignore",
            "injection",
            "flush",
            "noise",
            "repetition",
            "partial(8)",
            "free:injection",
            "free:oracle",
        ),
    ),
}


def measured(model: str, kind_name: str, root: Path) -> Values:
    """Measure a kind's request on a tiny model, and summarise every row."""
    from kvcore import loading
    from kvcore.measurements.base import MeasureRequest
    from kvcore.measurements.collect import collect_rows
    from kvcore.measurements.registry import kind_of
    from kvcore.models.files import locate

    @functools.cache
    def load() -> Any:
        lm = loading.load(model, device="cpu")
        lm.model.double()
        return lm

    request, kind = REQUESTS[kind_name], kind_of(kind_name)
    asked = MeasureRequest(
        locate(model), load, request.dataset, request.needs, request.limit, 0, None, root
    )
    rows = collect_rows(kind, asked, root, progress=None).rows
    return summarised(rows, kind.schema.types)


def summarised(rows: pd.DataFrame, columns: Mapping[str, Any]) -> Values:
    """Return by need and sample what each row holds: numbers, and the mean of a list."""
    return {
        f"{row['need']} | {row['sample']}": {"status": row["status"]}
        | {
            name: value
            for name in columns
            if (value := _summary(row[name])) is not None
        }
        for row in rows.sort_values(["need", "sample"]).to_dict("records")
    }


def _summary(value: Any) -> Any:
    """Return a number as it is, the mean of numbers, texts as one; None where there is none."""
    if np.ndim(value):
        cells = list(value)
        if cells and isinstance(cells[0], str):
            return " ".join(cells)
        numbers = np.asarray(cells, dtype=float)
        numbers = numbers[~np.isnan(numbers)]
        return float(numbers.mean()) if numbers.size else None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else float(value)


def differences(known: Values, found: Values) -> list[str]:
    """Return in words where two sets of values differ by more than `TOLERANCE`."""
    wrong = [f"{row}: measured or known alone" for row in sorted(set(known) ^ set(found))]
    for row in sorted(set(known) & set(found)):
        for name in sorted(set(known[row]) | set(found[row])):
            a, b = known[row].get(name), found[row].get(name)
            if distance(a, b) > TOLERANCE:
                wrong.append(f"{row}: {name} was {a}, is {b}")
    return wrong


def distance(a: Any, b: Any) -> float:
    """Return how far two values lie apart, relative where they exceed 1; infinite for texts."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) / max(1.0, abs(a))
    return 0.0 if a == b else math.inf


def known_values() -> dict[str, dict[str, Values]]:
    """Return the committed values, by model and kind."""
    values: dict[str, dict[str, Values]] = json.loads(VALUES.read_text("utf-8"))
    return values
