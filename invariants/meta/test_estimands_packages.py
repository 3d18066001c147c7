"""Effects by package: which modules make one, and whether the packages differ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as sps

from claims.harness.estimands import packages
from claims.harness.estimands.paired import paired_benefit
from claims.harness.rows import Rows
from invariants.support.comparing import Fault, must_see, replaced
from invariants.support.estimand_rows import computed, score_rows
from kvcore.analysis import DEFAULT_INTERVAL

MODULES = {"alpha": 25, "beta": 30, "gamma": 5}
GAINS = {"alpha": 0.6, "beta": -0.6, "gamma": 0.0}


def rows() -> tuple[Rows, Rows, np.ndarray, list[str]]:
    """Return bare and primed scores in modules of two samples, benefits and modules."""
    rng = np.random.default_rng(7)
    modules = [f"{name}.m{i}" for name, n in MODULES.items() for i in range(n) for _ in (0, 1)]
    gains = np.array([GAINS[m.partition(".")[0]] for m in modules]) + rng.normal(size=len(modules))
    bare, primed = (
        replace(score_rows(name, [[x] * 2 for x in values]), clusters=tuple(modules))
        for name, values in (("bare", np.full(len(modules), 5.0)), ("p", 5.0 - gains))
    )
    return bare, primed, gains, modules


def d_and_error(gains: np.ndarray, modules: list[str]) -> tuple[float, float]:
    """Return d and its jackknife error, one module after another left out."""

    def d(x: np.ndarray) -> float:
        return float(x.mean() / x.std(ddof=1))

    labels = np.array(modules)
    rest = [d(gains[labels != module]) for module in sorted(set(modules))]
    k = len(rest)
    return d(gains), math.sqrt((k - 1) / k * sum((x - d(gains)) ** 2 for x in rest))


def check_packages() -> None:
    bare, primed, gains, modules = rows()
    details = computed(paired_benefit, bare, primed).details
    effects = []
    for name in ("alpha", "beta"):
        own = [i for i, module in enumerate(modules) if module.startswith(name)]
        value, error = d_and_error(gains[own], [modules[i] for i in own])
        effects.append((value, error**-2))
        shown = str(details[f"d on {name}"])
        assert shown.startswith(f"{value:+.3f}".replace("-", "−"))
        assert shown.endswith(f"], {MODULES[name]} modules")
    mean = sum(v * w for v, w in effects) / sum(w for _, w in effects)
    q = sum(w * (v - mean) ** 2 for v, w in effects)
    p = float(sps.chi2.sf(q, 1))
    said = str(details["on these packages"])
    assert said == f"alpha, beta: effects differ, Q = {q:.1f} on 1 df, p = {p:.2g}"
    assert "d on others" not in details


def test_packages() -> None:
    """A package of few modules with a d of its own, or a spread that is not Cochran's.

    1. The details of a paired benefit; 2. d by package, jackknifed over modules, and Q by hand.
    """
    check_packages()


TWINS: dict[str, Fault] = {
    "few-modules": lambda patch: patch.setattr(packages, "MIN_UNITS", 4),
    "no-clusters": replaced(
        packages, "effect_size", lambda real, x, _clusters, settings: real(x, None, settings)
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_twin_packages(name: str) -> None:
    """A check of packages that each of these faults passes."""
    must_see(TWINS[name], check_packages)


def test_small_packages_stand_together() -> None:
    """Modules of small packages that are left out where they are many enough."""
    modules = tuple(f"p{i % 5}.m{i}" for i in range(40)) + tuple(f"big.m{i}" for i in range(30))
    values = np.random.default_rng(1).normal(size=len(modules))
    values[0] = math.nan
    details = packages.d_by_package(values, modules, DEFAULT_INTERVAL)
    assert list(details) == ["d on big", "d on others", "on these packages"]
    assert str(details["d on others"]).endswith("39 modules")


@pytest.mark.parametrize("label", ["s{}", "one.m{}", "p{}.m"])
def test_nothing_is_said_without_two_packages(label: str) -> None:
    """Packages made up of labels that are no modules, or one compared with nothing."""
    values = np.random.default_rng(1).normal(size=60)
    clusters = tuple(label.format(i) for i in range(60))
    assert packages.d_by_package(values, clusters, DEFAULT_INTERVAL) == {}
