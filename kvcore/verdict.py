"""Estimates against predictions: what is supported, what is refuted, what it would take to know.

A prediction is two sets of regions of the number line, written down before measuring. One
geometric rule serves every claim: the confidence interval inside the supported region is
*supported*; else inside the refuted one *refuted*; else *inconclusive*.

================= ==================== ========================== ================================
prediction        supported            refuted                    needs, with a noise floor f
================= ==================== ========================== ================================
helps             (0, inf)             (-inf, delta)              supported: CI above f.
                                                                  refuted: delta > f, or CI below -f
hurts             (-inf, 0)            (-delta, inf)              the mirror image of helps
does_not_help     (-inf, delta)        (delta, inf)               supported: delta > f, or CI
                                                                  below -f. refuted: CI above f
negligible        (-delta, delta)      (-inf, -delta) and         supported: delta > f.
                                       (delta, inf)               refuted: CI beyond f
differs           (-inf, 0) and        (-delta, delta)            supported: CI beyond f.
                  (0, inf)                                        refuted: delta > f
at_least(x)       [x, inf)             (-inf, x)                  CI beyond x + f, or below x - f
at_most(x)        (-inf, x]            (x, inf)                   CI below x - f, or beyond x + f
================= ==================== ========================== ================================

The last column is one rule too. Measuring alone may move an estimate anywhere within the *noise
band*, f to either side of the prediction's null (0, or x). A region is decisive as it stands when
it holds the whole band; otherwise only what of it lies clear of the band counts. With f = 0 the
band is a point and nothing changes.

Edges. The interval is taken closed, so an interval that ends at an open bound is not inside, and
one of zero width at 0 refutes `helps` and `hurts` and supports `negligible`; an infinite bound
holds anything, infinity included. An interval inside both regions, as in (0, delta) for `helps`,
is *supported*. NaN, and fewer than `MIN_UNITS` independent units, are *inconclusive*.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from scipy import optimize
from scipy import stats as sps

from kvcore.errors import KvError
from kvcore.stats import Estimate, from_plain, to_plain

Verdict = Literal["supported", "refuted", "inconclusive"]

# A bootstrap over fewer units is far narrower than it says: 4 units give 78 % coverage, not 95.
MIN_UNITS = 10
# The smallest effect of interest for priming, in units of d (the family's smallest published).
SMALLEST_D = 0.09
_SLUG = re.compile(r"[a-z0-9.-]+")
# Keeps the bracket of the power equation off 0 (where inf * 0 has no value) and clear of rounding.
_SLIVER = 1e-9


def check_slug(what: str, text: str) -> str:
    """Return a name that can stand in a test id; raise KvError for anything else."""
    if not _SLUG.fullmatch(text):
        raise KvError(f"{what} {text!r} is no slug; use a-z, 0-9, '.' and '-' only.")
    return text


def slugify(text: str) -> str:
    """Spell a name (a hub id, ``ms_marco``, ``nll_tail``) with a-z, 0-9, '.' and '-' only."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "-"


def familywise(confidence: float, m: int) -> float:
    """Widen a confidence level so that m intervals hold together (Bonferroni)."""
    if not 0 < confidence < 1 or m < 1:
        raise KvError(f"familywise({confidence}, {m}): pass a level in (0, 1) and m >= 1.")
    return 1 - (1 - confidence) / m


# --- regions and predictions -------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """An interval of the number line; each bound belongs to it only where it says closed."""

    low: float
    high: float
    low_closed: bool = False
    high_closed: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise KvError(f"region: low={self.low} is not below high={self.high}; swap them.")

    def holds(self, low: float, high: float) -> bool:
        """Whether the closed interval [low, high] lies inside; never with a NaN."""
        above = self.low in (-math.inf, low if self.low_closed else -math.inf) or low > self.low
        below = self.high in (math.inf, high if self.high_closed else math.inf) or high < self.high
        return low <= high and above and below

    def clear_of(self, low: float, high: float) -> tuple[Region, ...]:
        """What is left of the region outside the closed interval [low, high]."""
        parts = []
        if self.low < low:
            keeps = self.high < low
            parts.append(Region(self.low, min(self.high, low), self.low_closed,
                                self.high_closed and keeps))
        if self.high > high:
            keeps = self.low > high
            parts.append(Region(max(self.low, high), self.high, self.low_closed and keeps,
                                self.high_closed))
        return tuple(parts)

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "any number"
        if self.high == math.inf:
            return f"{'≥' if self.low_closed else '>'} {self.low:g}"
        if self.low == -math.inf:
            return f"{'≤' if self.high_closed else '<'} {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Prediction:
    """What a claim predicts, written down before measuring.

    Parameters
    ----------
    name : str
        ``"helps"``, ``"negligible"``, ...
    supported, refuted : tuple of Region
        Where the claim holds and where it does not; see the table of this module.
    delta : float or None
        Smallest effect of interest, in ``unit``.
    effect : float or None
        The pre-registered effect, for the required n; None where there is none.
    unit : str
        The unit of the estimate this is for, as `Estimate.unit`.
    null : float
        Where the noise band is centred: 0, or the bound of `at_least` and `at_most`.
    """

    name: str
    supported: tuple[Region, ...]
    refuted: tuple[Region, ...]
    delta: float | None
    effect: float | None
    unit: str
    null: float = 0.0

    @property
    def directional(self) -> bool:
        """Whether support takes an effect on one side of the null, beyond the noise floor."""
        return all(r.low >= self.null or r.high <= self.null for r in self.supported)

    @property
    def needs(self) -> str:
        """What supports the claim, for people: ``"> 0"``, ``"between -0.09 and 0.09"``."""
        return " or ".join(str(region) for region in self.supported)

    def decisive(self, floor: float = 0.0) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
        """Supported and refuted regions as far as a noise floor leaves them decisive."""
        if not floor >= 0:
            raise KvError(f"floor={floor} is no noise floor; pass a number >= 0.")
        low, high = self.null - floor, self.null + floor

        def left(regions: tuple[Region, ...]) -> tuple[Region, ...]:
            return tuple(
                part
                for region in regions
                for part in ((region,) if region.holds(low, high) else region.clear_of(low, high))
            )

        return left(self.supported), left(self.refuted)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as strict JSON can hold them."""
        plain: dict[str, Any] = to_plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prediction:
        """Rebuild a prediction from `to_dict`."""
        plain = from_plain({field.name: data[field.name] for field in fields(cls)})
        for key in ("supported", "refuted"):
            plain[key] = tuple(Region(**region) for region in plain[key])
        return cls(**plain)


def _smallest(delta: float) -> float:
    if not 0 < delta < math.inf:
        raise KvError(f"delta={delta} is no smallest effect of interest; pass a number > 0.")
    return delta


def _above(low: float, closed: bool = False) -> Region:
    return Region(low, math.inf, low_closed=closed)


def _below(high: float, closed: bool = False) -> Region:
    return Region(-math.inf, high, high_closed=closed)


def helps(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect above 0; refuted where it is surely below delta."""
    chosen = _smallest(delta) if effect is None else effect
    return Prediction("helps", (_above(0.0),), (_below(_smallest(delta)),), delta, chosen, unit)


def hurts(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict an effect below 0; refuted where it is surely above -delta."""
    chosen = -_smallest(delta) if effect is None else effect
    return Prediction("hurts", (_below(0.0),), (_above(-_smallest(delta)),), delta, chosen, unit)


def does_not_help(delta: float = SMALLEST_D, effect: float = 0.0, unit: str = "d") -> Prediction:
    """Predict an effect below delta (non-superiority); refuted above it."""
    _smallest(delta)
    return Prediction("does_not_help", (_below(delta),), (_above(delta),), delta, effect, unit)


def negligible(delta: float = SMALLEST_D, effect: float = 0.0, unit: str = "d") -> Prediction:
    """Predict an effect between -delta and delta (equivalence); refuted beyond either."""
    inside = (Region(-_smallest(delta), delta),)
    return Prediction("negligible", inside, (_below(-delta), _above(delta)), delta, effect, unit)


def differs(delta: float = SMALLEST_D, effect: float | None = None, unit: str = "d"
            ) -> Prediction:
    """Predict an effect on either side of 0; refuted where it is surely within delta of 0."""
    chosen = _smallest(delta) if effect is None else effect
    sides = (_below(0.0), _above(0.0))
    return Prediction("differs", sides, (Region(-_smallest(delta), delta),), delta, chosen, unit)


def at_least(x: float, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict x or more; refuted below x. No required n unless an effect is given."""
    return Prediction("at_least", (_above(x, True),), (_below(x),), None, effect, unit, x)


def at_most(x: float, effect: float | None = None, unit: str = "d") -> Prediction:
    """Predict x or less; refuted above x. No required n unless an effect is given."""
    return Prediction("at_most", (_below(x, True),), (_above(x),), None, effect, unit, x)


# --- judging -----------------------------------------------------------------------------------


def _check_units(estimate: Estimate, prediction: Prediction) -> None:
    if estimate.unit != prediction.unit:
        raise KvError(
            f"{prediction.name}: the estimate is in {estimate.unit!r}, the prediction in "
            f"{prediction.unit!r}; pass unit={estimate.unit!r} to the prediction."
        )


def judge(estimate: Estimate, prediction: Prediction, floor: float = 0.0) -> Verdict:
    """Set an interval against a prediction, by the table of this module.

    Parameters
    ----------
    estimate : Estimate
        In the prediction's unit.
    prediction : Prediction
        Supported and refuted regions.
    floor : float
        How far measuring alone may move the estimate, in its own unit (`floor_on_scale`).

    Raises
    ------
    KvError
        Units that differ, a negative or NaN floor.
    """
    _check_units(estimate, prediction)
    supported, refuted = prediction.decisive(floor)
    if math.isnan(estimate.value) or estimate.clusters < MIN_UNITS:
        return "inconclusive"
    interval = (estimate.ci_low, estimate.ci_high)
    if any(region.holds(*interval) for region in supported):
        return "supported"
    return "refuted" if any(region.holds(*interval) for region in refuted) else "inconclusive"


def required_n(
    estimate: Estimate, prediction: Prediction, power: float = 0.8, floor: float = 0.0
) -> int | None:
    """How many samples would settle a claim, were the pre-registered effect the true one.

    The smallest n at which the interval falls inside the supported region (or the refuted one,
    where the pre-registered effect lies there) with the given power.

    Parameters
    ----------
    estimate : Estimate
        Its interval's width, taken to fall as 1 / sqrt(n), says how noisy a sample is; so the
        design effect of its clusters is included.
    prediction : Prediction
        Whose ``effect`` is assumed.
    power : float
        In (0, 1).
    floor : float
        Noise floor in the estimate's unit.

    Returns
    -------
    int or None
        None where no n would (the effect is on a bound, within the noise floor, or not given)
        and where the width is unknown.

    Notes
    -----
    Normal approximation. Never below `MIN_UNITS` units, at the samples per unit observed.
    """
    _check_units(estimate, prediction)
    if not 0 < power < 1:
        raise KvError(f"power={power} is no probability; pass one between 0 and 1, e.g. 0.8.")
    if prediction.effect is None or estimate.n < 1 or not math.isfinite(estimate.half_width):
        return None
    room = _room(prediction, prediction.effect, floor)
    if room is None:
        return None
    z = float(sps.norm.ppf((1 + estimate.confidence) / 2))
    noise = estimate.half_width * math.sqrt(estimate.n) / z
    settled = math.ceil((_precision(*room, z, power) * noise) ** 2)
    return max(settled, math.ceil(MIN_UNITS * estimate.n / estimate.clusters))


def _room(prediction: Prediction, effect: float, floor: float) -> tuple[float, float] | None:
    """Distance from the effect down and up to the bounds of the region that settles it."""
    supported, refuted = prediction.decisive(floor)
    for region in (*supported, *refuted):
        if region.low < effect < region.high:
            return effect - region.low, region.high - effect
    return None


def _precision(below: float, above: float, z: float, power: float) -> float:
    """1 / standard error at which an interval of z errors to either side fits with that power."""

    def excess(precision: float) -> float:
        fits = sps.norm.cdf(below * precision - z) + sps.norm.cdf(above * precision - z) - 1
        return float(fits - power)

    # There each tail misses with (1 - power) / 2, so together they miss with 1 - power at most.
    enough = (z + float(sps.norm.ppf((1 + power) / 2))) / min(below, above)
    return float(optimize.brentq(excess, _SLIVER * enough, enough * (1 + _SLIVER)))


# --- published values --------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A value as it was published, on the claim's scale.

    ``n`` samples, on ``metric`` (``nll`` or ``nll_tail``); ``legacy`` values come from a first
    version known to be wrong and are shown, never judged; ``text`` is how the source words it.
    """

    value: float
    n: int | None
    metric: str
    legacy: bool = False
    text: str = ""


def consistent(estimate: Estimate, published: Published | None) -> bool | None:
    """Whether our value and a published one differ by no more than their errors allow.

    abs(ours - published) <= 1.96 sqrt(se^2 + se_published^2); ours from the interval's width, the
    published from its n: d sqrt(1/n + d^2/2n), r (1 - r^2)/sqrt(n - 1), proportion
    sqrt(p (1 - p)/n).

    Returns
    -------
    bool or None
        None for legacy values, without n, for other units and where our error is unknown.
    """
    if published is None or published.legacy or published.n is None or published.n < 2:
        return None
    theirs = _published_error(estimate.unit, published.value, published.n)
    if theirs is None or not math.isfinite(estimate.half_width + estimate.value):
        return None
    ours = estimate.half_width / float(sps.norm.ppf((1 + estimate.confidence) / 2))
    allowed = float(sps.norm.ppf(0.975)) * math.hypot(ours, theirs)
    return bool(abs(estimate.value - published.value) <= allowed)


def _published_error(unit: str, value: float, n: int) -> float | None:
    if unit == "d":
        return math.sqrt(1 / n + value**2 / (2 * n))
    if unit == "r":
        return (1 - value**2) / math.sqrt(n - 1)
    if unit == "proportion":
        return math.sqrt(value * (1 - value) / n)
    return None


# --- claims, cells, judgements -----------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A statement with a prediction; its version rises when its meaning changes.

    ``id`` and ``family`` are slugs; ``statement`` is in plain words; ``min_n`` is the fewest
    samples whose refutation may enter the ledger.
    """

    id: str
    version: int
    statement: str
    source: str
    family: str
    prediction: Prediction
    min_n: int

    def __post_init__(self) -> None:
        check_slug("claim id", self.id)
        check_slug("claim family", self.family)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as strict JSON can hold them."""
        plain: dict[str, Any] = to_plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Claim:
        """Rebuild a claim from `to_dict`."""
        plain = {field.name: data[field.name] for field in fields(cls)}
        return cls(**plain | {"prediction": Prediction.from_dict(data["prediction"])})


@dataclass(frozen=True)
class Cell:
    """Where a claim is judged: model, dataset, metric (``nll`` or ``nll_tail``) and dtype."""

    model: str
    dataset: str
    metric: str
    dtype: str

    @property
    def slug(self) -> str:
        """Test id of the cell, e.g. ``smollm2-135m-docstrings-nll-tail``; leaves the dtype out."""
        return "-".join(slugify(part) for part in (self.model, self.dataset, self.metric))

    def __str__(self) -> str:
        return f"{self.model} × {self.dataset} ({self.metric})"


@dataclass(frozen=True)
class Judgement:
    """One claim judged in one cell: all that a report needs.

    Parameters
    ----------
    claim, cell, estimate, verdict
        What was judged, where, on what, and how it came out.
    floor, floor_nats : float, float or None
        Noise floor in the estimate's unit and in nats per token.
    required_n : int or None
        Samples that would settle it; None where no n would.
    published, consistent
        Published value, and whether ours agrees with it; None where that has no answer.
    conditions : tuple of str
        Conditions compared, as they are spelled.
    seed, store, rows_hash, model_revision
        Where the numbers come from.
    ledger : str
        ``""`` or what the ledger knows, e.g. ``"known refuted (published)"``.
    outcome : str
        passed, failed, skipped or xfailed.
    details : mapping of str to float or str
        Secondary numbers. The strings that `to_plain` reserves come back as numbers.
    plot : mapping
        What the claim's own figure shows; plain lists.
    """

    claim: Claim
    cell: Cell
    estimate: Estimate
    verdict: Verdict
    floor: float
    floor_nats: float | None
    required_n: int | None
    published: Published | None
    consistent: bool | None
    conditions: tuple[str, ...]
    seed: int
    store: str
    rows_hash: str
    model_revision: str
    ledger: str
    outcome: str
    details: Mapping[str, float | str]
    plot: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise KvError(f"verdict {self.verdict!r}: pass one of {', '.join(get_args(Verdict))}.")

    def sentence(self) -> str:
        """Say in one line what came out, on what, and what the claim needs."""
        e = self.estimate
        clusters = f" in {e.clusters} clusters" if e.clusters < e.n else ""
        said = (
            f"{self.claim.id} {self.verdict} on {self.cell}: {_measured(e)} "
            f"({e.confidence * 100:.6g} %, n = {e.n}{clusters}); "
            f"the claim needs {self.claim.prediction.needs}"
        )
        if self.floor > 0:
            said += f"; noise floor {_short(self.floor)}"
        if self.verdict == "inconclusive":
            said += f"; {_what_it_takes(self)}"
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as strict JSON can hold them."""
        plain: dict[str, Any] = to_plain({f.name: getattr(self, f.name) for f in fields(self)})
        return plain | {
            "claim": self.claim.to_dict(),
            "cell": asdict(self.cell),
            "estimate": self.estimate.to_dict(),
            "published": self.published and to_plain(asdict(self.published)),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Judgement:
        """Rebuild a judgement from `to_dict`."""
        plain = {field.name: data[field.name] for field in fields(cls)}
        for name in ("floor", "floor_nats", "details", "plot"):
            plain[name] = from_plain(plain[name])
        published = data["published"]
        return cls(**plain | {
            "claim": Claim.from_dict(data["claim"]),
            "cell": Cell(**data["cell"]),
            "estimate": Estimate.from_dict(data["estimate"]),
            "published": published
            and Published(**published | {"value": from_plain(published["value"])}),
            "conditions": tuple(data["conditions"]),
        })


def _measured(estimate: Estimate) -> str:
    value, low, high = map(_short, (estimate.value, estimate.ci_low, estimate.ci_high))
    if estimate.unit == "nats/token":
        return f"benefit {value} nats/token [{low}, {high}]"
    return f"{estimate.unit} {value} [{low}, {high}]"


def _short(x: float) -> str:
    """Three decimals, or two significant figures where three decimals would show 0."""
    return f"{x:.3f}" if x == 0 or abs(x) >= 0.0005 or math.isnan(x) else f"{x:.1e}"


def _what_it_takes(judgement: Judgement) -> str:
    if judgement.estimate.clusters < MIN_UNITS:
        return f"no verdict below {MIN_UNITS} independent units"
    if judgement.required_n is None:
        return "no n is known to settle it"
    return f"about {judgement.required_n} samples would settle it at 80 % power"
