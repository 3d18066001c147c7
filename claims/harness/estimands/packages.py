"""Whether an effect is the same on every package of a corpus.

A cluster of the docstrings corpus is a module; its package is what stands before the first dot.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from kvcore.analysis import Estimate, FloatArray, IntervalSettings, effect_size
from kvcore.analysis.over_models import heterogeneity
from kvcore.verdict import MIN_UNITS

OTHERS = "others"


def d_by_package(
    differences: FloatArray, clusters: tuple[str, ...], interval: IntervalSettings
) -> dict[str, float | str]:
    """Return d on each package with its interval, and Cochran's Q over them, for the report.

    A package has a d of its own from `MIN_UNITS` modules on; the others stand together, if they
    have as many. Nothing where clusters are no modules, or where there are not two to compare.
    """
    packages = _packages(differences, clusters)
    labels = np.array(clusters)
    effects = {
        name: effect_size(differences[packages == name], labels[packages == name], interval.alone)
        for name in sorted(set(packages), key=lambda name: (name == OTHERS, name))
        if name
    }
    compared = {name: e for name, e in effects.items() if e.clusters >= MIN_UNITS}
    spread = heterogeneity(list(compared.values()))
    if spread is None:
        return {}
    shown: dict[str, float | str] = {f"d on {name}": _words(e) for name, e in compared.items()}
    q = f"Q = {spread.q:.1f} on {spread.df} df, p = {spread.p:.2g}"
    apart = "effects differ" if spread.p < 1 - interval.confidence else "no difference is shown"
    return shown | {"on these packages": f"{', '.join(compared)}: {apart}, {q}"}


def _packages(differences: FloatArray, clusters: tuple[str, ...]) -> NDArray[np.str_]:
    """Return each sample's package: "" without a score, `OTHERS` for one of few modules."""
    scored = ~np.isnan(differences)
    if not any("." in label for label in clusters):
        return np.full(len(clusters), "")
    modules = {label for label, usable in zip(clusters, scored, strict=True) if usable}
    counted = Counter(_package(module) for module in modules)
    names = [
        "" if not usable else name if counted[name] >= MIN_UNITS else OTHERS
        for name, usable in zip(map(_package, clusters), scored, strict=True)
    ]
    return np.array(names)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _words(estimate: Estimate) -> str:
    value, low, high = (
        f"{x:+.3f}".replace("-", "−") for x in (estimate.value, estimate.ci_low, estimate.ci_high)
    )
    return f"{value} [{low}, {high}], {estimate.clusters} modules"
