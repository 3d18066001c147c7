"""Where an answer looks and where the attention sink is, with the answer's NLL beside it."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from kvcore.conditions.parse import condition
from kvcore.conditions.registry import recipe_of_defined
from kvcore.data.datasets import DATASETS, load_corpus
from kvcore.errors import KvError
from kvcore.measurements.base import ENGINE, MeasurementKind, MeasurePlan, MeasureRequest
from kvcore.measurements.kinds import answer_nll
from kvcore.measurements.kinds.answer_nll import SamplesByPlace, template_of
from kvcore.measurements.needs import Need
from kvcore.measurements.registry import register
from kvcore.measurements.sink_diagnosis import described
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, RowSchema, clean

SHARE = "attention share"
SHARD_SAMPLES = 20
SCHEMA = RowSchema(
    {
        **dict.fromkeys(("nll", "nll_tail", "bos_share", "sink_share", "prefix_share"), NUMBER),
        **dict.fromkeys(("sink_norm", "bos_norm", "median_norm"), NUMBER),
        "profile": NUMBERS,
        **dict.fromkeys(("sink_slot", "n_answer_tokens", "cache_len"), COUNT),
        "sink_part": pa.string(),
        "sink_token": pa.string(),
    },
    "nll",
)


def plan(request: MeasureRequest) -> MeasurePlan:
    """Plan every sample under every condition, with the controls of ``bare``."""
    return answer_nll.plan_samples(KIND, request, request.needs, _measure, lambda _: SHARD_SAMPLES)


def check_need(spelled: str) -> None:
    """Raise KvError for an unknown condition, or samples other than the cell's own."""
    answer_nll.check_need(spelled)
    need = Need.read(spelled)
    if str(need) != need.condition:
        raise KvError(
            f"need {spelled!r}: attention_sinks is measured on the cell's own samples and answers; "
            f"pass {need.condition!r}."
        )


def _measure(request: MeasureRequest, samples: SamplesByPlace, todo: pd.DataFrame) -> pd.DataFrame:
    """Measure rows of one seed."""
    from kvcore.measurements.sinks import measure_sinks

    seed = int(todo["seed"].iloc[0])
    by_id = samples[todo["dataset"].iloc[0], seed]
    requests = [
        (by_id[name], [condition(c) for c in part["condition"]])
        for name, part in todo.groupby("sample_id", sort=True)
    ]
    rows = measure_sinks(request.load(), requests, seed=seed, batch_tokens=request.batch_tokens)
    ids = [clean(i) for i in rows["sample_id"]]
    return rows.assign(
        sample_id=ids, template=template_of(), cluster=[clean(by_id[i].cluster) for i in ids]
    )


KIND = register(
    MeasurementKind(
        name="attention_sinks",
        version=1,
        schema=SCHEMA,
        folder="_sinks",
        sources=(
            *ENGINE,
            "measurements/answer_nll.py",
            "measurements/frames.py",
            "measurements/sink_parts.py",
            "measurements/sinks.py",
            "measurements/token_nlls.py",
            "measurements/kinds/answer_nll.py",
            "measurements/kinds/attention_sinks.py",
        ),
        plan=plan,
        without_bos=True,
        dataset="docstrings",
        datasets=lambda: tuple(DATASETS),
        load_data=load_corpus,
        arrange=answer_nll.arrange,
        recipe_of=recipe_of_defined,
        check_need=check_need,
        explain=answer_nll.explain,
        described=described,
        units={SHARE: "share of an answer's attention, the mean over layers and heads"},
    )
)
