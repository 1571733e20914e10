"""Quantitative statements, each judged on a run's Dataset, or on a study's tree, by one rule.

A claim is a list of scalar series m(step), each with the interval the statement puts it in. A statement that one number
is larger than another is a series too: their difference, with the interval above 0; a number without an interval is told
and not judged. Let, at the record judged,

    gap = max(low - m, m - high)            negative inside the interval
    e   = bootstrap error over seeds, the same draws for every cell and record, for seeds share data across cells
    t   = as many errors as leave to Student's distribution of the number of seeds what two leave to the normal one

The rule, for every claim. It *agrees* where gap < -t e for each of its numbers: an equivalence test, wrong at most once in
44 where the truth is at an end of the interval. If not, it *needs longer training* where the run is shorter than the t_f the
statement was made at, some number lies outside, and each of those has a gap that shrinks, over the last decade of steps, by
more than t of the slope's own errors. It *differs* where some number lies outside by more than its error allows: one-sided,
by Student's t, and with Holm's correction over all numbers of the page, so that all its *differs* together are wrong at most
once in 20. Otherwise it is *undecided*. A number that has no value, as a line that is not there, lies outside by as much as
its bootstrap has no value either. What the paper writes with "~" is given half a decade on either side.

Every claim has a null: the run changed so that what is claimed cannot be there, which must come out as *differs*, by the
same rule; or, where an absence is claimed, so that it is there. What agrees in its null is undecided: it says nothing.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr
from scipy.special import ndtr, stdtr, stdtrit

from phasejax.analysis.run import NotRecordedError
from phasejax.analysis.statistics import bootstrap, independent, log10
from phasejax.claims.nulls import Null

AGREES, DIFFERS, LONGER = "agrees", "differs", "needs longer training"
UNDECIDED, ABSENT = "undecided", "not in this run"
VERDICTS = (AGREES, DIFFERS, LONGER, UNDECIDED, ABSENT)
PAPER_STEPS = 10**8
"""Training length behind the paper's figures: 10^5 epochs of 1000 batches."""

RULE = (
    "agrees: every number lies inside its interval by two errors; needs longer training: the run is shorter than the "
    "statement's t_f, some number lies outside, and each of those moves towards its interval over the last decade of steps "
    "by more than two errors of the trend; differs: some number lies outside by more than its error allows, at 5 % for all "
    "numbers of the page together (Holm); undecided: anything else, and what agrees in its null too. Errors are from a "
    "bootstrap over seeds, and few seeds need more of them (Student's t)"
)
_RESAMPLES, _RESAMPLES_OF_NULLS, _CLEAR, _LEVEL = 300, 100, 2, 0.05
_ROUNDING = 1e-12
"""What is less is none: the difference of two equal means is not exactly 0."""

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
    share: bool = False
    """Of seeds of which something is true: it is known to one seed at best, even if it is true of all."""

    @property
    def judged(self) -> bool:
        """Whether it has an interval."""
        return not (np.isinf(self.low) and np.isinf(self.high))

    def interval(self) -> str:
        """The interval in words."""
        if not self.judged:
            return "told, not judged"
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
    afterwards: bool = False
    """Whether some interval is neither the statement's own nor half a decade about it, but was set with a run in view."""
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
    seeds: int
    """How many were drawn independently."""
    present: float
    """Share of the bootstrap's replicates that have a value."""
    differs: bool = False
    """Outside, by the rule; known once all numbers of the page are."""

    @property
    def judged(self) -> bool:
        """Whether it has an interval."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    @property
    def gap(self) -> float:
        """Distance outside the interval, negative inside."""
        return max(self.low - self.value, self.value - self.high)

    @property
    def clear(self) -> float:
        """How many errors are enough."""
        return float(stdtrit(self.seeds - 1, ndtr(_CLEAR)))

    @property
    def inside(self) -> bool:
        """Inside the interval, by however little."""
        return self.gap < -_ROUNDING

    @property
    def agrees(self) -> bool:
        """Clearly inside."""
        return not self.judged or (self.inside and self.gap < -self.clear * self.error and self.present > 1 - _LEVEL)

    @property
    def p_value(self) -> float:
        """Of what is at least as far outside, were the truth at the end of the interval."""
        if not math.isfinite(self.value):
            return max(self.present, 0.5**self.seeds)
        exact = 1.0 if self.inside else 0.0
        p = float(stdtr(self.seeds - 1, -self.gap / self.error)) if self.error > _ROUNDING else exact
        return max(p, 1 - self.present)

    @property
    def approaches(self) -> bool:
        """The gap shrinks significantly."""
        return self.trend < -self.clear * self.trend_error

    def leaves(self, decades: float) -> bool:
        """Whether the last decade's slope, significant, would carry it out of the interval in so many decades."""
        ahead = self.value + decades * self.slope
        significant = abs(self.slope) > self.clear * self.slope_error
        return self.judged and self.agrees and significant and not self.low <= ahead <= self.high


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
    """What its null comes out as: agrees, differs or undecided; empty where that is not known."""
    null_measured: tuple[Measured, ...] = ()
    member: str = ""
    """Of a study, whose run it was judged on."""

    @property
    def empty(self) -> bool:
        """Whether its numbers and the null's all lie inside, so that it says nothing."""
        return self.null == AGREES and all(m.agrees for m in self.measured)

    @property
    def rule(self) -> str:
        """The intervals, in words."""
        return "; ".join(f"{m.name}: {m.interval()}" for m in self.claim.measures if m.judged)


def judge(claim: Claim, data: xr.Dataset | xr.DataTree, step: int) -> Verdict:
    """Apply the rule to one claim alone at a record of a run, or to one over a study at the end of its tree."""
    return decide([measure(claim, data, step)])[0]


def measure(claim: Claim, data: xr.Dataset | xr.DataTree, step: int) -> Verdict:
    """The numbers of a claim and of its null; no verdict yet unless they are not in this run."""
    at = step if claim.steps is None else min(step, claim.steps)
    try:
        if isinstance(data, xr.Dataset):
            steps = data.step.values
            data = data.sel(step=(steps == 0) | ((steps >= at / 10) & (steps <= at)))
        measured = _numbers(claim, data, _RESAMPLES)
    except (NotInRunError, NotRecordedError) as missing:
        return Verdict(claim, ABSENT, str(missing), at)
    null = ()
    if claim.null:
        changed = claim.null.of(data)
        null = _numbers(claim, changed, _RESAMPLES_OF_NULLS, trends=False)
    return Verdict(claim, "", "", at, measured, null_measured=null)


def decide(page: list[Verdict]) -> list[Verdict]:
    """The verdicts on all the claims of a page, from their numbers."""
    numbers = holm(m for v in page for m in v.measured)
    nulls = holm(m for v in page for m in v.null_measured)
    decided = []
    for one in page:
        if one.verdict == ABSENT:
            decided.append(one)
            continue
        measured, null_measured = (
            tuple(replace(m, differs=m.judged and m.p_value <= level) for m in found)
            for found, level in ((one.measured, numbers), (one.null_measured, nulls))
        )
        null = _verdict(null_measured, 0) if one.claim.null else ""
        verdict = _verdict(measured, _decades(one.claim, one.step))
        if verdict == AGREES == null:
            verdict = UNDECIDED
        reason = _reason(one.claim, verdict, measured, one.step)
        decided.append(
            replace(one, verdict=verdict, reason=reason, measured=measured, null=null, null_measured=null_measured)
        )
    return decided


def holm(numbers: Iterable[Measured]) -> float:
    """The largest p-value among numbers that is rejected, if all of them together may be wrong at the rule's level.

    Holm, Scand. J. Stat. 6 (1979) 65. Below 0 if none is.
    """
    p = np.sort([m.p_value for m in numbers if m.judged])
    rejected = np.logical_and.accumulate(p <= _LEVEL / np.arange(len(p), 0, -1))
    return float(p[rejected][-1]) if rejected.any() else -1.0


def _verdict(measured: tuple[Measured, ...], decades: float) -> str:
    """By the rule, of numbers whose Holm level is known, so many decades of steps before the statement's length."""
    outside = [m for m in measured if m.judged and not m.inside]
    if all(m.agrees for m in measured):
        return AGREES
    if decades and outside and all(m.approaches for m in outside):
        return LONGER
    return DIFFERS if any(m.differs for m in measured) else UNDECIDED


def _decades(claim: Claim, step: int) -> float:
    """Of steps to the length a statement was made at."""
    return math.log10(claim.steps / step) if claim.steps and 0 < step < claim.steps else 0.0


def _numbers(claim: Claim, data: xr.Dataset | xr.DataTree, resamples: int, trends: bool = True) -> tuple[Measured, ...]:
    """All numbers of a claim; what several are made of is averaged once."""
    averages: dict[Take, tuple[Averages, int]] = {}
    for measure in claim.measures:
        if measure.samples not in averages:
            samples = measure.samples(data)
            seeds = independent(samples)
            if seeds < 2:
                raise NotInRunError("A single seed has no error.")
            averages[measure.samples] = samples.weighted(bootstrap(samples, resamples)).mean("seed"), seeds
    return tuple(_measure(measure, *averages[measure.samples], trends) for measure in claim.measures)


def _measure(measure: Measure, averages: Averages, seeds: int, trends: bool) -> Measured:
    with np.errstate(invalid="ignore", divide="ignore"):
        m = measure.statistic(averages).transpose("resample", "step")
    gap: xr.DataArray = xr.apply_ufunc(np.maximum, measure.low - m, m - measure.high)
    slope = trend = (np.nan, np.nan)
    trained = m.step.values > 0
    if trends and trained.sum() > 1:
        log_steps = log10(m.step[trained])
        slope, trend = (_estimate(slope_of(series[:, trained], log_steps, "step"), seeds) for series in (m, gap))
    value, error = _estimate(m[:, -1], seeds)
    if measure.share:
        error = max(error, 1 / seeds)
    present = float(m[1:, -1].notnull().mean()) if m.sizes["resample"] > 1 else float(np.isfinite(value))
    return Measured(measure.name, value, error, measure.low, measure.high, *slope, *trend, seeds, present)


def _estimate(replicates: xr.DataArray, seeds: int) -> tuple[float, float]:
    """Value and bootstrap error, which without the factor would be low for few seeds."""
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Degrees of freedom", RuntimeWarning)
        return float(replicates[0]), float(replicates[1:].std(ddof=1)) * math.sqrt(seeds / (seeds - 1))


def _reason(claim: Claim, verdict: str, measured: tuple[Measured, ...], step: int) -> str:
    """Why, in words."""
    parts = []
    decades = _decades(claim, step)
    if claim.steps and verdict in (LONGER, DIFFERS) and decades:
        moves = "moves towards" if verdict == LONGER else "does not move all of it towards"
        parts.append(f"training is {claim.steps / step:,.0f} times shorter than the paper's {claim.steps:,} steps, and the "
                     f"last decade of steps {moves} the statement")  # fmt: skip
    for m in (m for m in measured if m.judged):
        if not math.isfinite(m.value):
            parts.append(f"'{m.name}' has no value here")
            continue
        if not m.inside:
            closes = f", and this closes by {-m.trend:.2g} per decade" if decades and m.approaches else ""
            parts.append(f"'{m.name}' lies {m.gap:.2g} outside its interval{closes}")
        if not (m.agrees or m.differs):
            where = "inside" if m.inside else "outside"
            parts.append(f"'{m.name}' is {where} by {abs(m.gap) / m.error:.2g} errors, and more seeds could turn it"
                         if m.error > 0 else f"'{m.name}' is not there in part of the resampled seeds")  # fmt: skip
        # Agreement at a shorter training length is agreement there, and the reader should know if it may not last.
        if m.leaves(decades):
            onward = f"changes by {m.slope:+.2g} per decade, with {decades:.2g} decades to the paper's length"
            parts.append(f"'{m.name}' agrees at this length but {onward}")
    if claim.afterwards:
        parts.append("an interval here was set after the fact")
    return "; ".join([*parts, claim.remark] if claim.remark else parts)


def slope_of(y: xr.DataArray, x: xr.DataArray, dim: str) -> xr.DataArray:
    """Least-squares slope along a dimension, over the points where y is known."""
    x = x.where(y.notnull())
    off = x - x.mean(dim)
    return (off * (y - y.mean(dim))).sum(dim) / (off**2).sum(dim)
