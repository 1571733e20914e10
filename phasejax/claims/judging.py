"""Quantitative statements, each judged on a run's Dataset, or on a study's tree, by one rule.

A claim is a list of scalar series m(step), each with the interval the statement puts it in. A statement that one number
is larger than another is a series too: their difference, with the interval above 0. Let

    gap = max(low - m, m - high)            negative inside the interval
    e   = bootstrap error over seeds, the same draws for every cell and record, for seeds share data across cells

The rule, for every claim: it *agrees* where gap < 0 for each of its series at the record judged. If not, it *needs longer
training* where the run is shorter than the t_f the statement was made at and every series that does not agree has a gap that
shrinks, over the last decade of steps, by more than twice the slope's own error. Otherwise it *differs*. A number within 2e
of the end of its interval is said to be so, whichever side it is on. What the paper writes with "~" is given half a decade
on either side.

Every claim has a null: the run changed so that what is claimed cannot be there. A claim that its null passes says nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from phasejax.analysis.run import NotRecordedError
from phasejax.analysis.statistics import bootstrap, log10
from phasejax.claims.nulls import Null

AGREES, DIFFERS, LONGER, ABSENT = "agrees", "differs", "needs longer training", "not in this run"
VERDICTS = (AGREES, DIFFERS, LONGER, ABSENT)
PAPER_STEPS = 10**8
"""Training length behind the paper's figures: 10^5 epochs of 1000 batches."""

RULE = (
    "agrees: every number lies inside its interval; needs longer training: the run is shorter than the statement's t_f, "
    "some number lies outside, and each of those moves towards its interval over the last decade of steps by more than "
    "twice the error of the trend; differs: anything else. Errors are from a bootstrap over seeds; a number within two of "
    "them of its interval's end is not settled by this run, and its row says so"
)
_RESAMPLES, _CLEAR = 300, 2

Statistic: TypeAlias = Callable[[xr.Dataset], xr.DataArray]
Phase: TypeAlias = Callable[[xr.Dataset], xr.DataArray]
Take: TypeAlias = Callable[[Any], xr.Dataset]
Averages: TypeAlias = xr.Dataset
"""Means over resampled seeds, (resample, step, ...); resample 0 is the ensemble itself."""


class NotInRunError(Exception):
    """What a claim needs is not in the file: one sentence."""


@dataclass(frozen=True)
class Measure:
    """A series m(step) and the interval that a statement puts it in."""

    name: str
    samples: Take
    """What is averaged over seeds, of a run, or of a study's tree: variables (step, seed, ...)."""
    statistic: Statistic
    """m from the averages, (resample, step)."""
    low: float = -np.inf
    high: float = np.inf

    def series(self, data: xr.Dataset | xr.DataTree, resamples: int) -> xr.DataArray:
        """(resample, step): m itself at resample 0, then its bootstrap replicates."""
        samples = self.samples(data)
        if samples.sizes["seed"] < 2:
            raise NotInRunError("A single seed has no error.")
        averages = samples.weighted(bootstrap(samples, resamples)).mean("seed")
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.statistic(averages).transpose("resample", "step")

    def agrees(self, value: float) -> bool:
        """Whether a number lies inside the interval."""
        return self.low < value < self.high

    def interval(self) -> str:
        """The interval in words."""
        if np.isinf(self.low):
            return f"below {self.high:.3g}"
        return f"above {self.low:.3g}" if np.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Claim:
    """A quantitative statement: numbers, and where it puts them."""

    key: str
    """What it is called in files."""
    statement: str
    where: str = ""
    """Where it is made."""
    expected: str = ""
    """What is said there, in numbers."""
    steps: int | None = None
    """t_f it was made at, 0 for the initial state; None for whatever length it is judged at."""
    measures: tuple[Measure, ...] = ()
    remark: str = ""
    null: Null | None = None
    """The run in which it must not come out."""
    over: Literal["run", "study"] = "run"
    """What its measures are taken of: a run, and of every member of a study in its turn, or a study's tree."""


@dataclass(frozen=True)
class Measured:
    """One number of a claim at the record judged."""

    name: str
    value: float
    error: float
    low: float
    high: float
    slope: float
    """Change per decade of steps over the last decade; NaN where there is none."""
    slope_error: float
    trend: float
    """The same of the gap: negative towards the interval."""
    trend_error: float

    @property
    def gap(self) -> float:
        """Distance outside the interval, negative inside."""
        return max(self.low - self.value, self.value - self.high)

    @property
    def agrees(self) -> bool:
        """Inside the interval."""
        return self.gap < 0

    @property
    def settled(self) -> bool:
        """Clear of the interval's ends."""
        return abs(self.gap) > _CLEAR * self.error

    @property
    def approaches(self) -> bool:
        """The gap shrinks significantly."""
        return self.trend < -_CLEAR * self.trend_error

    def leaves(self, decades: float) -> bool:
        """Whether the last decade's slope, significant, would carry it out of the interval in so many decades."""
        ahead = self.value + decades * self.slope
        return self.agrees and abs(self.slope) > _CLEAR * self.slope_error and not self.low <= ahead <= self.high


@dataclass(frozen=True)
class Verdict:
    """A claim with what a run says of it."""

    claim: Claim
    verdict: str
    reason: str
    step: int
    """Training length it was judged at."""
    measured: tuple[Measured, ...] = ()
    null: str = ""
    """What its null comes out as, agrees or differs; empty where that is not known."""
    member: str = ""
    """Of a study, whose run it was judged on."""

    @property
    def empty(self) -> bool:
        """Whether the null passes too, so that the verdict says nothing."""
        return self.null == AGREES

    @property
    def rule(self) -> str:
        """The intervals, in words."""
        return "; ".join(f"{m.name}: {m.interval()}" for m in self.claim.measures)


def judge(claim: Claim, data: xr.Dataset | xr.DataTree, step: int) -> Verdict:
    """Apply the rule to one claim at a record of a run, or to one over a study at the end of its tree."""
    at = step if claim.steps is None else min(step, claim.steps)
    try:
        if isinstance(data, xr.Dataset):
            steps = data.step.values
            data = data.sel(step=(steps == 0) | ((steps >= at / 10) & (steps <= at)))
        measured = tuple(_measure(m, data) for m in claim.measures)
    except (NotInRunError, NotRecordedError) as missing:
        return Verdict(claim, ABSENT, str(missing), at)
    failing = [m for m in measured if not m.agrees]
    if not failing:
        verdict = AGREES
    elif claim.steps is not None and at < claim.steps and all(m.approaches for m in failing):
        verdict = LONGER
    else:
        verdict = DIFFERS
    null = ""
    if claim.null:
        changed = claim.null.of(data)
        passes = all(m.agrees(float(m.series(changed, 0)[0, -1])) for m in claim.measures)
        null = AGREES if passes else DIFFERS
    return Verdict(claim, verdict, _reason(claim, verdict, measured, at), at, measured, null)


def _measure(measure: Measure, data: xr.Dataset | xr.DataTree) -> Measured:
    m = measure.series(data, _RESAMPLES)
    gap: xr.DataArray = xr.apply_ufunc(np.maximum, measure.low - m, m - measure.high)
    slope = trend = (np.nan, np.nan)
    trained = m.step.values > 0
    if trained.sum() > 1:
        log_steps = log10(m.step[trained])
        slope, trend = (_estimate(slope_of(series[:, trained], log_steps, "step")) for series in (m, gap))
    return Measured(measure.name, *_estimate(m[:, -1]), measure.low, measure.high, *slope, *trend)


def _estimate(replicates: xr.DataArray) -> tuple[float, float]:
    """Value and bootstrap error."""
    with np.errstate(invalid="ignore"):
        return float(replicates[0]), float(replicates[1:].std(ddof=1))


def _reason(claim: Claim, verdict: str, measured: tuple[Measured, ...], step: int) -> str:
    """Why, in words."""
    parts = []
    decades = math.log10(claim.steps / step) if claim.steps and 0 < step < claim.steps else 0.0
    if claim.steps and verdict in (LONGER, DIFFERS) and decades:
        moves = "moves towards" if verdict == LONGER else "does not move all of it towards"
        parts.append(f"training is {claim.steps / step:,.0f} times shorter than the paper's {claim.steps:,} steps, and the "
                     f"last decade of steps {moves} the statement")  # fmt: skip
    for m in measured:
        if not math.isfinite(m.value):
            parts.append(f"'{m.name}' has no value here")
        elif not m.agrees:
            closes = f", and this closes by {-m.trend:.2g} per decade" if decades and m.approaches else ""
            parts.append(f"'{m.name}' lies {m.gap:.2g} outside its interval{closes}")
        if math.isfinite(m.value) and not m.settled:
            parts.append(f"'{m.name}' is within two standard errors of its interval's end: more seeds could turn it")
        # Agreement at a shorter training length is agreement there, and the reader should know if it may not last.
        if m.leaves(decades):
            onward = f"changes by {m.slope:+.2g} per decade, with {decades:.2g} decades to the paper's length"
            parts.append(f"'{m.name}' agrees at this length but {onward}")
    return "; ".join([*parts, claim.remark] if claim.remark else parts)


def slope_of(y: xr.DataArray, x: xr.DataArray, dim: str) -> xr.DataArray:
    """Least-squares slope along a dimension, over the points where y is known."""
    x = x.where(y.notnull())
    off = x - x.mean(dim)
    return (off * (y - y.mean(dim))).sum(dim) / (off**2).sum(dim)
