"""Whether a model's scores hang on the route or the dtype: every route in every dtype.

Few CPUs multiply 16-bit numbers; the others take seconds for a token. What is measured here is
therefore measured under `Float32Products`, which rounds as a GPU does.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from invariants.oracle import plain
from invariants.support.float32_products import Float32Products
from kvcore import analysis, loading, verdict
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine.prepared import prepare_one
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM
from kvcore.models.registry import DTYPES
from kvcore.store.agreement import tolerance

CONDITIONS = ("bare", "oracle", "random", "static_fact")
ROUTES: dict[str, Callable[[LM, Sequence[Sample], int], pd.DataFrame]] = {
    "engine, one pass": lambda lm, samples, seed: _engine(lm, samples, seed, "auto"),
    "engine, caches": lambda lm, samples, seed: _engine(lm, samples, seed, "cache"),
    "plain, truncated": lambda lm, samples, seed: _plain(lm, samples, seed, plain.truncated_nlls),
    "plain, one pass": lambda lm, samples, seed: _plain(lm, samples, seed, plain.one_pass_nlls),
}


def measure(lm: LM, samples: Sequence[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """Score samples by every route in every dtype; print and return the differences.

    Numbers agree where any two routes of a dtype differ by no more than stored rows of one key
    may. A dtype that the model is refused in is reported with the reason.
    """
    print(f"dtypes: {lm.name}, {len(samples)} samples × {', '.join(CONDITIONS)}")
    report: dict[str, Any] = {"samples": len(samples), "conditions": CONDITIONS, "dtypes": {}}
    for dtype in DTYPES:
        try:
            own = lm if lm.dtype == dtype else loading.load(lm.name, device="cpu", dtype=dtype)
        except KvError as refused:
            print(f"  {dtype}: refused: {refused}")
            report["dtypes"][dtype] = {"refused": str(refused)}
            continue
        with Float32Products():
            report["dtypes"][dtype] = _of_dtype(own, samples, options.seed)
        del own
        gc.collect()
    agree = [of.get("agrees", True) for of in report["dtypes"].values()]
    verdicts = [of["verdicts"] for of in report["dtypes"].values() if "verdicts" in of]
    same = all(each == verdicts[0] for each in verdicts)
    print(f"  verdicts {'are the same in every dtype' if same else 'change with the dtype'}")
    return report | {"numbers_agree": all(agree), "verdicts_agree": same}


def _of_dtype(lm: LM, samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    scores = {name: score(lm, samples, seed) for name, score in ROUTES.items()}
    largest, allowed = _differences(scores), tolerance(lm.dtype)
    first = next(iter(scores.values()))
    effects = {
        name: analysis.paired_effect(first["bare"], first[name]).d
        for name in CONDITIONS
        if name != "bare"
    }
    verdicts = {
        name: verdict.judge(effect, verdict.helps()).verdict for name, effect in effects.items()
    }
    said = ", ".join(f"{name} {effects[name].value:+.3f} {verdicts[name]}" for name in effects)
    print(
        f"  {lm.dtype}: routes differ by {largest['largest']:.1e} nats at most, "
        f"{largest['mean']:.1e} in the mean (allowed {allowed:g} × max(1, NLL)); d {said}"
    )
    return {
        "routes": {name: frame.mean().to_dict() for name, frame in scores.items()},
        **largest,
        "allowed": allowed,
        "agrees": bool(largest["largest, scaled"] <= allowed),
        "d": {name: effect.to_dict() for name, effect in effects.items()},
        "verdicts": verdicts,
    }


def _differences(scores: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Differences of the routes, sample by sample: largest, largest over the NLL, in the mean."""
    stacked = np.stack([frame.to_numpy() for frame in scores.values()])
    spread = np.ptp(stacked, axis=0)
    return {
        "largest": float(spread.max()),
        "largest, scaled": float((spread / np.maximum(1, np.abs(stacked[0]))).max()),
        "mean": float(np.ptp(stacked.mean(axis=1), axis=0).max()),
    }


def _engine(lm: LM, samples: Sequence[Sample], seed: int, route: answer_nll.Route) -> pd.DataFrame:
    rows = answer_nll.score(lm, samples, CONDITIONS, seed=seed, route=route)
    wide = rows.pivot(index="sample_id", columns="condition", values="nll")
    return wide.loc[[s.id for s in samples], list(CONDITIONS)]


def _plain(lm: LM, samples: Sequence[Sample], seed: int, route: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: [_plain_score(lm, sample, name, seed, route) for sample in samples]
            for name in CONDITIONS
        },
        index=pd.Index([sample.id for sample in samples]),
    )


def _plain_score(lm: LM, sample: Sample, name: str, seed: int, route: Any) -> float:
    own = condition(name)
    prepared = prepare_one(lm, sample, own, seed=seed)
    prefix, read = prepared.prefixes[own.prefixes()[0]], prepared.tokens
    parts = (list(part) for part in (prefix, read.document, read.prompt, read.answer))
    return float(np.mean(route(lm.model, lm.bos_id, *parts)))
