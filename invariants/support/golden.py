"""Small measurements whose numbers are known: every kind on tiny models, a dozen conditions.

Files, seeds and needs are fixed, so the numbers depend on the code alone. Models are measured in
float64 where the code does not ask for less, so that they hold on any machine.

``python -m invariants.support.golden`` writes the values anew: only where a kind's version was
raised because its numbers are meant to change.
"""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvcore import io

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
            "values_of_another(random)",
            "keys_only(random)",
            "values_layers(random,0.25,0.75)",
            "values_positions(random,0.25,0.75)",
            "amplified(random,2)",
            "with_separator(random)",
            "unrelated",
            "first_sentence",
            "keywords(query)",
            "keywords(passage)",
            "keywords(another)",
            "shuffled_surrogate(keyword)",
            "surrogate_of_another(keyword)",
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
    "attention_sinks": GoldenRequest(
        str(FOLDER / "samples.jsonl"),
        3,
        ("bare", "random", "full_context(random)", "keep_first(random,2)", "keep_sink(random)"),
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
            "injection@own",
            "noise@own",
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
        | {name: value for name in columns if (value := _summary(row[name])) is not None}
        for row in rows.sort_values(["need", "sample"]).to_dict("records")
    }


def _summary(value: Any) -> Any:
    """Return a number, the mean of numbers or a hash of texts; None where there is none."""
    if np.ndim(value):
        cells = list(value)
        if cells and isinstance(cells[0], str):
            return io.digest(" ".join(cells))[:12]
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


def pairs() -> list[tuple[str, str]]:
    """Return every model and kind that is measured; long switches do not fit tiny-longrope."""
    return [
        (model, kind)
        for model in MODELS
        for kind in REQUESTS
        if (model, kind) != ("tiny-longrope", "context_switch")
    ]


def known() -> dict[str, Any]:
    """Return the committed values by model and kind, and the method of each kind."""
    content: dict[str, Any] = json.loads(VALUES.read_text("utf-8"))
    return content


def write(values: Mapping[str, Mapping[str, Values]], methods: Mapping[str, str]) -> None:
    """Write the values that are to be committed, with 9 significant digits."""
    rounded = json.loads(json.dumps(values), parse_float=lambda text: float(f"{float(text):.9g}"))
    text = json.dumps({"methods": dict(methods), "values": rounded}, indent=0, sort_keys=True)
    io.write_atomically(VALUES, text + "\n")


def main() -> None:
    """Measure everything and write it."""
    from kvcore.measurements.registry import kind_of

    values: dict[str, dict[str, Values]] = {}
    for model, kind in pairs():
        with tempfile.TemporaryDirectory() as folder:
            values.setdefault(model, {})[kind] = measured(model, kind, Path(folder))
    write(values, {kind: kind_of(kind).method() for kind in REQUESTS})


if __name__ == "__main__":
    main()
