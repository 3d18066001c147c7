"""Made-up data for every kind of plot that a judgement may ask for, the same every time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

TEXT = (
    "The",
    " kettle",
    " sings",
    " before",
    " it",
    " boils",
    ":",
    "\n",
    "steam",
    " rises",
    " through",
    " the",
    " spout",
    ",",
    " and",
    " the",
    " lid",
    " begins",
    " to",
    " rattle",
    ".",
    "\n",
    "Turn",
    " the",
    " heat",
    " down",
    " when",
    " you",
    " hear",
    " it",
    ".",
)
WAYS = (
    ("as judged", 0.31),
    ("Question/Answer wording", 0.24),
    ("no wording", 0.12),
    ("next seed", 0.33),
    ("seed after", 0.28),
)


def _curve(label: str, level: float, count: int = 12) -> dict[str, Any]:
    x = np.arange(count)
    y = level + 0.3 * np.sin(x / 3)
    return {
        "label": label,
        "x": x.tolist(),
        "y": y.tolist(),
        "low": (y - 0.1).tolist(),
        "high": (y + 0.1).tolist(),
    }


def _roc(label: str, power: float) -> dict[str, Any]:
    x = np.linspace(0, 1, 60)
    return {"label": label, "fpr": x.tolist(), "tpr": (x**power).tolist(), "auc": 1 / (1 + power)}


def _wins() -> dict[str, Any]:
    ranks = 1 / np.random.default_rng(1).integers(1, 10, (2, 120))
    gaps = np.where(np.arange(120) % 2, 0, ranks[0] - ranks[1]).round(4)
    return {
        "kind": "wins",
        "label": "reciprocal rank at 10, condition less baseline",
        "differences": gaps.tolist(),
        "wins": int((gaps > 0).sum()),
        "ties": int((gaps == 0).sum()),
        "losses": int((gaps < 0).sum()),
    }


def _specifications() -> dict[str, Any]:
    rows = [
        {
            "label": f"{way}, {metric}",
            "value": value - shift,
            "low": value - shift - 0.13,
            "high": value - shift + 0.13,
            "judged": False,
        }
        for way, value in WAYS
        for metric, shift in (("nll", 0.0), ("nll_tail", 0.14))
    ]
    rows[5]["judged"] = True
    return {"kind": "specifications", "unit": "d", "rows": rows}


def _survival(label: str, rate: float) -> dict[str, Any]:
    x = np.arange(0, 40, 3)
    y = np.exp(-x / rate)
    return {
        "label": label,
        "x": x.tolist(),
        "y": y.tolist(),
        "low": np.clip(y - 0.08, 0, 1).tolist(),
        "high": np.clip(y + 0.08, 0, 1).tolist(),
    }


def _stack() -> dict[str, Any]:
    raw = np.random.default_rng(2).gamma(4, size=(4, 48)) + np.array([[9], [4], [1], [6]])
    names = ("first token", "prefix", "other tokens", "the token itself")
    return {
        "kind": "stack",
        "x_label": "token of the document",
        "y_label": "share of attention",
        "parts": [
            {"label": name, "y": y.tolist()}
            for name, y in zip(names, raw / raw.sum(0), strict=True)
        ],
    }


def _bars() -> dict[str, Any]:
    return {
        "kind": "bars",
        "x_label": "share of an answer's attention, 40 samples",
        "parts": ["BOS", "the sink", "everything else"],
        "bars": [
            {"label": "bare", "y": [0.31, 0.0, 0.69]},
            {"label": "primed", "y": [0.05, 0.25, 0.7]},
            {"label": "sink kept", "y": [], "missing": "not measured yet"},
        ],
    }


def _tokens() -> dict[str, Any]:
    classes = {
        "name": "a noun",
        "act": "a verb",
        "mark": "punctuation and line ends",
        "rest": "anything else",
    }
    of = {
        " kettle": "name",
        "steam": "name",
        " spout": "name",
        " lid": "name",
        " heat": "name",
        " sings": "act",
        " boils": "act",
        " rises": "act",
        " rattle": "act",
        "Turn": "act",
        ":": "mark",
        ",": "mark",
        ".": "mark",
        "\n": "mark",
    }
    return {
        "kind": "tokens",
        "classes": classes,
        "tokens": [{"text": text, "class": of.get(text, "rest")} for text in TEXT],
    }


def _trace() -> dict[str, Any]:
    values = np.abs(np.random.default_rng(3).normal(size=len(TEXT))) + 0.2
    return {
        "kind": "trace",
        "tokens": list(TEXT),
        "y": values.tolist(),
        "y_label": "step relative to the norm",
    }


@cache
def plots() -> dict[str, dict[str, Any]]:
    """Return one plot of each kind that `invented.judgements` does not show, by name."""
    step = {
        "kind": "curve",
        "x": [16, 32, 64, 128],
        "d": [0.4, 0.31, 0.2, 0.05],
        "low": [0.2, 0.2, 0.1, -0.1],
        "high": [0.6, 0.42, 0.3, 0.2],
        "x_label": "tokens of the document",
        "log": True,
    }
    roc = {"kind": "roc", "curves": [_roc("baseline", 0.4), _roc("condition", 0.25)]}
    return {
        "curve": step,
        "roc": roc,
        "wins": _wins(),
        "specifications": _specifications(),
        "layers": {
            "kind": "layers",
            "x_label": "layer",
            "y_label": "cosine with the bare value",
            "curves": [
                _curve(f"{name} prefix", level)
                for name, level in (("random", 0.1), ("fixed", 0.5), ("real", 0.9))
            ],
        },
        "survival": {
            "kind": "survival",
            "x_label": "tokens generated",
            "curves": [_survival("bare", 9), _survival("primed", 20)],
        },
        "stack": _stack(),
        "bars": _bars(),
        "tokens": _tokens(),
        "trace": _trace(),
        "table": {
            "kind": "table",
            "columns": ["token", "n", "mean step"],
            "rows": [["line feed", 1_240, 0.412], ["comma", 310, 0.193], ["digit", None, -0.02]],
        },
        "several": {"kind": "several", "figures": [roc, _wins()]},
    }
