"""Where an answer looks and where the attention sink is, with the answer's NLL beside it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pyarrow as pa

from kvcore.conditions.parse import condition
from kvcore.conditions.registry import PREFIXES, recipe_of_defined
from kvcore.data.datasets import DATASETS, load_corpus
from kvcore.errors import KvError
from kvcore.measurements.base import ENGINE, MeasurementKind, MeasurePlan, MeasureRequest
from kvcore.measurements.kinds import answer_nll
from kvcore.measurements.kinds.answer_nll import SamplesByPlace, template_of
from kvcore.measurements.needs import Need
from kvcore.measurements.registry import register
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, RowSchema, clean

SHARE = "attention share"
SHARD_SAMPLES = 20
HOLDS = 0.1
"""Share of an answer's attention, in a bare pass, from which on BOS holds the sink."""
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


def in_words(rows: pd.DataFrame) -> str:
    """Say in a line where the sink is, from stored rows under ``bare`` and primed conditions."""
    usable = rows[rows["status"] == "ok"]
    bare = usable[usable["condition"] == "bare"]
    primed = usable[[name.split("(")[0] in PREFIXES for name in usable["condition"]]]
    if bare.empty:
        return "no bare row tells where the sink is"
    share = float(bare["bos_share"].mean())
    if share >= HOLDS:
        return f"BOS is the sink: {share:.2f} of an answer's attention in a bare pass"
    removed = bool(primed["sink_part"].eq("prefix").mean() > 0.5)
    if share != share:
        return f"there is no BOS: truncation {'removes' if removed else 'keeps'} the sink"
    return f"the sink is not BOS ({share:.3f})" + (
        ": truncation removes it" if removed else ", nor in the prefix"
    )


def described(rows: pd.DataFrame) -> Mapping[str, str]:
    """Return what the report says of a cell's sinks: in words, and its figures."""
    usable = rows[rows["status"] == "ok"]
    figures = {
        f"sink under {name}": f"in {part['sink_part'].mode().iloc[0]} on "
        f"{part['sink_part'].eq(part['sink_part'].mode().iloc[0]).sum()} of {len(part)} samples, "
        f"share {part['sink_share'].mean():.3f}, BOS {part['bos_share'].mean():.3f}"
        for name, part in usable.groupby("condition")
        if name == "bare" or name.split("(")[0] in PREFIXES
    }
    return {"attention sink": in_words(rows), **figures}


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
