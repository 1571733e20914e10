"""The paper's quantitative statements, each judged on a run's Dataset by one rule.

A claim is a list of scalar series m(step), each with the interval the statement puts it in. A statement that one number
is larger than another is a series too: their difference, with the interval above 0. Let

    gap = max(low - m, m - high)            negative inside the interval
    e   = bootstrap error over seeds, the same draws for every cell and record, for seeds share data across cells

The rule, for every claim: it *agrees* where gap < 0 for each of its series at the record judged. If not, it *needs longer
training* where the run is shorter than the t_f the statement was made at and every series that does not agree has a gap that
shrinks, over the last decade of steps, by more than twice the slope's own error. Otherwise it *differs*. A number within 2e
of the end of its interval is said to be so, whichever side it is on. What the paper writes with "~" is given half a decade
on either side.
"""

import json
import math
import operator
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from phasejax.boundaries import PAPER_JAMMING_LINE, SIGMAS, converged
from phasejax.experiment import Experiment
from phasejax.records import layer, require, settings, until
from phasejax.spectrum import level_spacing, marchenko_pastur_edges, rate, trace_ratio

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
_HALF_DECADE = 0.5

Statistic: TypeAlias = Callable[[xr.Dataset], xr.DataArray]
Phase: TypeAlias = Callable[[xr.Dataset], xr.DataArray]
Take: TypeAlias = Callable[[xr.Dataset], xr.Dataset]
Averages: TypeAlias = xr.Dataset
"""Means over resampled seeds, (resample, step, ...); resample 0 is the ensemble itself."""


class NotInRunError(Exception):
    """What a claim needs is not in the file: one sentence."""


@dataclass(frozen=True)
class Measure:
    """A series m(step) and the interval that a statement puts it in."""

    name: str
    samples: Take
    """What is averaged over seeds: variables (step, seed, ...)."""
    statistic: Statistic
    """m from the averages, (resample, step)."""
    low: float = -np.inf
    high: float = np.inf

    def series(self, dataset: xr.Dataset) -> xr.DataArray:
        """(resample, step): m itself at resample 0, then its bootstrap replicates."""
        samples = self.samples(dataset).astype(float)
        samples = samples.where(np.isfinite(samples))
        averages = samples.weighted(_resampled(dataset.sizes["seed"])).mean("seed")
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.statistic(averages).transpose("resample", "step")

    def interval(self) -> str:
        """The interval in words."""
        if np.isinf(self.low):
            return f"below {self.high:.3g}"
        return f"above {self.low:.3g}" if np.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Claim:
    """A quantitative statement of the paper."""

    key: str
    statement: str
    where: str
    paper: str
    """What the paper says, in numbers."""
    steps: int
    """t_f it was made at; 0 for the initial state."""
    measures: tuple[Measure, ...]
    remark: str = ""


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

    @property
    def rule(self) -> str:
        """The intervals, in words."""
        return "; ".join(f"{m.name}: {m.interval()}" for m in self.claim.measures)


def check(dataset: xr.Dataset, step: int | None = None) -> list[Verdict]:
    """Judge every claim.

    Args:
        dataset: a run, or the records so far of one.
        step: record to judge at; the last if None.

    Raises:
        ExperimentError: the step was not recorded.
        RunError: the file lacks a variable that its experiment records.
    """
    dataset = until(dataset, step)
    return [judge(claim, dataset, int(dataset.step[-1])) for claim in CLAIMS]


def judge(claim: Claim, dataset: xr.Dataset, step: int) -> Verdict:
    """Apply the rule to one claim at a record."""
    at = min(step, claim.steps)
    steps = dataset.step.values
    try:
        _same_system(dataset)
        decade = dataset.sel(step=(steps == 0) | ((steps >= at / 10) & (steps <= at)))
        measured = tuple(_measure(m, decade) for m in claim.measures)
    except NotInRunError as missing:
        return Verdict(claim, ABSENT, str(missing), at)
    failing = [m for m in measured if not m.agrees]
    if not failing:
        verdict = AGREES
    elif at < claim.steps and all(m.approaches for m in failing):
        verdict = LONGER
    else:
        verdict = DIFFERS
    return Verdict(claim, verdict, _reason(claim, verdict, measured, at), at, measured)


def _measure(measure: Measure, decade: xr.Dataset) -> Measured:
    m = measure.series(decade)
    gap: xr.DataArray = xr.apply_ufunc(np.maximum, measure.low - m, m - measure.high)
    slope = trend = (np.nan, np.nan)
    trained = m.step.values > 0
    if trained.sum() > 1:
        log_steps = _log(m.step[trained])
        slope, trend = (_estimate(_slope(series[:, trained], log_steps, "step")) for series in (m, gap))
    return Measured(measure.name, *_estimate(m[:, -1]), measure.low, measure.high, *slope, *trend)


def _estimate(replicates: xr.DataArray) -> tuple[float, float]:
    """Value and bootstrap error."""
    with np.errstate(invalid="ignore"):
        return float(replicates[0]), float(replicates[1:].std(ddof=1))


def _reason(claim: Claim, verdict: str, measured: tuple[Measured, ...], step: int) -> str:
    """Why, in words."""
    parts = []
    decades = math.log10(claim.steps / step) if 0 < step < claim.steps else 0.0
    if verdict in (LONGER, DIFFERS) and decades:
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


def _resampled(seeds: int) -> xr.DataArray:
    """Weights (resample, seed) of the bootstrap over seeds; the first row is the ensemble as it is."""
    if seeds < 2:
        raise NotInRunError("A single seed has no error.")
    draws = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES)
    return xr.DataArray(np.vstack([np.ones(seeds), draws]), dims=("resample", "seed"))


def _same_system(dataset: xr.Dataset) -> None:
    """The statements are about one network, trained by plain SGD on 4000 samples."""
    run, paper = settings(dataset), tomllib.loads(Experiment().to_toml())
    if run["sgd"]["optimiser"] != "sgd":
        raise NotInRunError("The run has no temperature.")
    fields = {
        "network": ("network", tuple(paper["network"])),
        "number of samples": ("task", ("samples",)),
        "momentum": ("sgd", ("momentum",)),
        "batch size": ("sgd", ("batch_size",)),
    }
    # A run from before a field was there has its default.
    differ = {name: any({**paper[table], **run[table]}[field] != paper[table][field] for field in names)
              for name, (table, names) in fields.items()}  # fmt: skip
    if others := [name for name, other in differ.items() if other]:
        raise NotInRunError(f"The run has another {' and '.join(others)} than the paper.")


# Parts of the plane. A cell asked for must be on the grid; an axis taken whole must reach the paper's ends.

_AXES = {"temperature": (2.0**-5, 2.0**6), "inverse_sigma_w": (2.0**-8, 2.0**3)}


def _on(names: str, temperature: float | None = None, inverse_sigma: float | None = None) -> Take:
    """Take variables (or level spacing, rate, ...) on a cell, a line or the plane."""

    derived: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {}
    needs: list[str] = []
    for name in names.split():
        variables, derived[name] = _DERIVED.get(name, (name, operator.itemgetter(name)))
        needs += variables.split()

    def take(dataset: xr.Dataset) -> xr.Dataset:
        require(dataset, *needs)
        found = {}
        for axis, wanted in (("temperature", temperature), ("inverse_sigma_w", inverse_sigma)):
            values, dim = dataset[axis].values, axis.replace("inverse_", "")
            need = _AXES[axis] if wanted is None else (wanted,)
            lacking = [w for w in need if not np.isclose(values, w, rtol=1e-6).any()]
            if lacking:
                label = "T" if axis == "temperature" else "1/sigma_W"
                raise NotInRunError(f"The grid has no {label} = {' and '.join(f'{w:g}' for w in lacking)}.")
            if wanted is not None:
                found[dim] = int(np.argmin(np.abs(np.log(values / wanted))))
        part = dataset.isel(found)
        return xr.Dataset({name: derive(part) for name, derive in derived.items()})

    return take


def _initial(samples: Take) -> Take:
    """The initial state, which is the same at every temperature."""
    return lambda dataset: samples(dataset.sel(step=[0]))


def _spread(dataset: xr.Dataset) -> xr.DataArray:
    return level_spacing(dataset) * (dataset.sizes["level"] - 1)


def _initial_gradient(dataset: xr.Dataset) -> xr.DataArray:
    return dataset.full_gradient_norm.isel(step_ends=0, drop=True).expand_dims(step=dataset.step.values[:1])


def _edge(dataset: xr.Dataset) -> xr.DataArray:
    _, high = marchenko_pastur_edges(1.0, layer(dataset).nodes / layer(dataset).inputs)
    return high * dataset.sigma_w**2 * xr.ones_like(dataset.eigenvalues.isel(level=-1, drop=True))


def _teacher_distance(dataset: xr.Dataset) -> xr.DataArray:
    """Wasserstein distance of the student's spectrum from its teacher's over the teacher's mean eigenvalue."""
    target = dataset.target_eigenvalues
    return np.abs(dataset.eigenvalues - target).sum("level", skipna=False) / target.sum("level")


# What is derived from a file's variables, which are named first.
_DERIVED: dict[str, tuple[str, Callable[[xr.Dataset], xr.DataArray]]] = {
    "loss": ("test_loss", lambda d: 2 * d.test_loss),  # Fig 2 is drawn without the factor 1/2 of Eq 2.6
    "gradient": ("gradient_norm", lambda d: d.gradient_norm),
    "initial_gradient": ("full_gradient_norm", _initial_gradient),
    "largest": ("eigenvalues", lambda d: d.eigenvalues.isel(level=-1, drop=True)),
    "edge": ("eigenvalues", _edge),
    "spread": ("eigenvalues", _spread),
    "rate": ("eigenvalues", rate),
    "trace": ("eigenvalues target_eigenvalues", trace_ratio),
    "distance": ("eigenvalues target_eigenvalues", _teacher_distance),
    "drift": ("restoring V_S", lambda d: converged(d, "drift")),
    "released": ("restoring V_S", lambda d: converged(d, "released")),
}


# Phases, split by the paper's own lines: 1/sigma_W = sqrt 2, and T ~ 1 with what is next to it left out: Sec 3.2 puts the
# ordered phase at T ~ 1e-1, and Fig 6 takes T = 4 for the paramagnetic one.


def _ordered(x: xr.Dataset) -> xr.DataArray:
    return (x.temperature <= 2**-3) & (x.inverse_sigma_w > PAPER_JAMMING_LINE)


def _jammed(x: xr.Dataset) -> xr.DataArray:
    return (x.temperature <= 2**-3) & (x.inverse_sigma_w < PAPER_JAMMING_LINE)


def _paramagnetic(x: xr.Dataset) -> xr.DataArray:
    return (x.temperature >= 4) & (x.inverse_sigma_w > PAPER_JAMMING_LINE)


_PLANE = ("temperature", "sigma_w")


def _over(phase: Phase, name: str) -> Statistic:
    return lambda x: x[name].where(phase(x)).mean(_PLANE)


def _rate_step(first: Phase, second: Phase) -> Any:
    """Rate in the second phase minus that in the first, in units of the paramagnetic phase's, for all fall as 1/t."""
    low, high, unit = (_over(phase, "rate") for phase in (first, second, _paramagnetic))
    return lambda x: (high(x) - low(x)) / np.abs(unit(x))


def _above(name: str, first: Phase, second: Phase) -> Statistic:
    """Mean over the first phase minus that over the second."""
    return lambda x: _over(first, name)(x) - _over(second, name)(x)


def _log(x: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(np.log10, x)


def _log10(name: str) -> Statistic:
    return lambda x: _log(x[name])


def _ratio(name: str, by: float) -> Statistic:
    return lambda x: x[name] / by


def _slope(y: xr.DataArray, x: xr.DataArray, dim: str) -> xr.DataArray:
    """Least-squares slope along a dimension, over the points where y is known."""
    x = x.where(y.notnull())
    off = x - x.mean(dim)
    return (off * (y - y.mean(dim))).sum(dim) / (off**2).sum(dim)


def _last_crossing(values: xr.DataArray, level: xr.DataArray | float, rising: bool = False) -> xr.DataArray:
    """log10 of the highest temperature at which values cross a level, interpolated in log T; NaN where they do not.

    With `rising`, only crossings from below count.
    """
    above = (values - level).sortby("temperature").transpose(..., "temperature")
    log_t, y = np.log10(above.temperature.values), above.values
    y0, y1 = y[..., :-1], y[..., 1:]
    crossed = (y0 < 0) & (y1 >= 0) if rising else (y0 >= 0) != (y1 >= 0)
    at = log_t[:-1] + y0 / np.where(y0 == y1, np.nan, y0 - y1) * np.diff(log_t)
    last = crossed.shape[-1] - 1 - np.argmax(crossed[..., ::-1], axis=-1)
    found = np.take_along_axis(at, last[..., None], axis=-1)[..., 0]
    return above.isel(temperature=0, drop=True).copy(data=np.where(crossed.any(-1), found, np.nan))


def _rise(name: str, share: float = 0.5) -> Statistic:
    """log10 of the temperature at which log m has made this share of its rise along the temperature axis."""

    def crossing(x: Averages) -> xr.DataArray:
        y = _log(x[name])
        low, high = y.min("temperature"), y.max("temperature")
        return _last_crossing(y, low + share * (high - low), rising=True)

    return crossing


def _rise_width(name: str) -> Statistic:
    return lambda x: _rise(name, 0.75)(x) - _rise(name, 0.25)(x)


def _extremes(name: str, inverse_sigma: float = 0.0) -> Statistic:
    """Largest over smallest value along the sigma_W axis, from this 1/sigma_W up."""

    def ratio(x: Averages) -> xr.DataArray:
        y = x[name].where(x.inverse_sigma_w >= inverse_sigma)
        return y.max("sigma_w") / y.min("sigma_w")

    return ratio


def _small_start(x: Averages) -> xr.DataArray:
    y = x.initial_gradient
    near = int(np.argmin(np.abs(np.log10(y.inverse_sigma_w.values / 1e-2))))
    return y.isel(sigma_w=near, drop=True) / y.where(y.inverse_sigma_w >= 0.5).mean("sigma_w")


def _boundary_slope(x: Averages) -> xr.DataArray:
    line = _last_crossing(x.drift, SIGMAS[0])
    return _slope(line, _log(line.inverse_sigma_w), "sigma_w")


def _boundary_to_memory(x: Averages) -> xr.DataArray:
    """Mean of |log10| of T_c over the temperature where G is half its value at the lowest one, where there are both."""
    coldest = x.G_t0.sortby("temperature").isel(temperature=0, drop=True)
    distance = _last_crossing(x.drift, SIGMAS[0]) - _last_crossing(x.G_t0, coldest / 2)
    return xr.apply_ufunc(np.abs, distance).mean("sigma_w")


def _boundary_to_loss(x: Averages) -> xr.DataArray:
    return _last_crossing(x.drift, SIGMAS[0]) - _rise("loss")(x)


def _growth(temperature: float) -> tuple[Measure, ...]:
    """The numbers of the footnote to Sec 4.1, in one cell."""
    at, cell = f"at T = {temperature:g}", (temperature, 8.0)

    def about(name: str, of: str, paper: float) -> Measure:
        centre = math.log10(paper)
        return Measure(f"log10 of {name} {at}", _on(of, *cell), _log10(of), centre - _HALF_DECADE, centre + _HALF_DECADE)

    return about("rate per epoch", "rate", 2e-4), about("(n2-1) S", "spread", 1e6)


def _jump(name: str) -> tuple[Measure, ...]:
    return (
        Measure(f"log10 T where the {name} is halfway", _on(name, None, 8), _rise(name), -_HALF_DECADE, _HALF_DECADE),
        Measure(f"decades of T for the middle half of its rise ({name})", _on(name, None, 8), _rise_width(name), high=1.0),
    )


def _edges(inverse_sigma: float, paper: float) -> tuple[Measure, ...]:
    at, cell = f"at sigma_W = {1 / inverse_sigma:g}", (2**-5, inverse_sigma)
    return (
        Measure(f"Eq 4.2 / paper {at}", _initial(_on("edge", *cell)), _ratio("edge", paper), 0.98, 1.02),
        Measure(
            f"mean largest eigenvalue / paper {at}", _initial(_on("largest", *cell)), _ratio("largest", paper), 0.8, 1.2
        ),
    )


_start = _initial(_on("initial_gradient", 2**-5))

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "initial_edge", "Upper edge x_+ of the initial spectrum, both ends of the sigma_W axis", "Sec 4, below Eq 4.2",
        "0.046 at 1/sigma_W = 8; 1.9e5 at 2^-8", 0, _edges(8, 0.046) + _edges(2**-8, 1.9e5),
        "Eq 4.2 is for infinite matrices; for 16 x 32 the mean of the largest eigenvalue lies about a tenth below it",
    ),
    Claim(
        "initial_gradient", "Gradient at the start: small for strong disorder, a plateau for weak", "Sec 3.2, Fig 4 right",
        "small at 1/sigma_W ~ 1e-2; level from 1/2 up", 0,
        (
            Measure("gradient near 1e-2 / plateau", _start, _small_start, high=10**-_HALF_DECADE),
            Measure("largest / smallest from 1/sigma_W = 1/2 up", _start, _extremes("initial_gradient", 0.5), high=1.5),
        ),
    ),
    Claim(
        "initial_spread", "Width of the initial spectrum at 1/sigma_W = 8", "Sec 4.1, footnote", "(n2-1) S(0) ~ 0.04", 0,
        (Measure("(n2-1) S(0)", _initial(_on("spread", 2**-5, 8)), lambda x: x.spread, 0.035, 0.045),),
    ),
    Claim(
        "loss_range", "Range of the mean test loss over the plane", "Sec 3.2, Fig 2", "1e-1 to 1e-7", PAPER_STEPS,
        (
            Measure("log10 of largest loss", _on("loss"), lambda x: _log(x.loss.max(_PLANE)), -1.5, -0.5),
            Measure("log10 of smallest loss", _on("loss"), lambda x: _log(x.loss.min(_PLANE)), -7.5, -6.5),
        ),
        "losses without the factor 1/2, as in the published map",
    ),
    Claim("loss_jump", "Rapid rise of the loss along T at 1/sigma_W = 8", "Sec 3.2, Fig 4 left", "at T ~ 1", PAPER_STEPS,
          _jump("loss")),
    Claim("gradient_jump", "Rapid rise of the gradient along T at 1/sigma_W = 8", "Sec 3.2, Fig 4 centre", "at T ~ 1",
          PAPER_STEPS, _jump("gradient")),
    Claim(
        "hot_independence", "No dependence on sigma_W at the highest temperature", "Sec 3.2, Fig 3", "lines meet at T = 64",
        PAPER_STEPS,
        tuple(Measure(f"{name}: largest / smallest at T = 64", _on(name, 64), _extremes(name), high=1.5)
              for name in ("loss", "gradient")),
    ),
    Claim(
        "memory", "Memory G(t_f, 0) is kept only in the jammed phase", "Sec 3.2, Fig 5 left",
        "kept in the jammed phase, lost in the others", PAPER_STEPS,
        (
            Measure("G, jammed", _on("G_t0"), _over(_jammed, "G_t0"), low=0.5),
            Measure("G, ordered", _on("G_t0"), _over(_ordered, "G_t0"), high=0.1),
            Measure("G, paramagnetic", _on("G_t0"), _over(_paramagnetic, "G_t0"), high=0.1),
        ),
        "G is not normalised, and at small sigma_W it is small from the start; for what is remembered see C",
    ),
    Claim(
        "alignment", "Alignment of features and field is strongest in the ordered phase", "Sec 3.2, Fig 5 right",
        "strongest in the well-trained region", PAPER_STEPS,
        (
            Measure("ordered - jammed", _on("alignment"), _above("alignment", _ordered, _jammed), low=0.0),
            Measure("ordered - paramagnetic", _on("alignment"), _above("alignment", _ordered, _paramagnetic), low=0.0),
        ),
    ),
    Claim(
        "rate_order", "Rate of the level spacing: smallest jammed, largest paramagnetic", "Sec 4.1, Fig 7",
        "jammed < ordered < paramagnetic", PAPER_STEPS,
        (
            Measure("(ordered - jammed) / paramagnetic", _on("rate"), _rate_step(_jammed, _ordered), low=0.0),
            Measure("(paramagnetic - ordered) / paramagnetic", _on("rate"), _rate_step(_ordered, _paramagnetic), low=0.0),
        ),
    ),
    Claim("growth_hottest", "Rate and final width of the spectrum at T = 64, 1/sigma_W = 8", "Sec 4.1, footnote",
          "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(64)),
    Claim("growth_fig6", "The same in the cell of Fig 6 that the footnote cites, T = 4, 1/sigma_W = 8",
          "Sec 4.1, footnote", "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(4)),
    Claim(
        "spectrum_flow", "Spectrum of the ordered phase flows towards the teacher's (T = 2^-5, 1/sigma_W = 8)",
        "Sec 4, Fig 6 left", "the distribution flows towards the target", PAPER_STEPS,
        (Measure("distance from the teacher's spectrum / that at the start", _on("distance", 2**-5, 8),
                 lambda x: x.distance / x.distance.sel(step=0), high=1.0),),
    ),
    Claim(
        "spectrum_arrival", "... and arrives there by the end", "Sec 3 and 4, Fig 6 left",
        "an equilibrium at the end of training", PAPER_STEPS,
        (Measure("log10 of tr X / tr X of the teacher", _on("trace", 2**-5, 8), _log10("trace"), -_HALF_DECADE,
                 _HALF_DECADE),),
    ),
    Claim(
        "boundary_drift", "68 % line (reading drift): falls with 1/sigma_W and follows the loss of memory",
        "Sec 4.2, Figs 8 and 9", "tracks the transition of G; separates the phases at 1/sigma_W = 8", PAPER_STEPS,
        (
            Measure("d log T_c / d log(1/sigma_W)", _on("drift"), _boundary_slope, high=0.0),
            Measure("decades from T_c to T at which G is halved, mean over sigma_W", _on("drift G_t0"), _boundary_to_memory,
                    high=_HALF_DECADE),
            Measure("log10 of T_c / T of the loss's rise at 1/sigma_W = 8", _on("drift loss", None, 8), _boundary_to_loss,
                    -_HALF_DECADE, _HALF_DECADE),
        ),
    ),
    Claim(
        "boundary_released", "Full convergence (reading released) only in the ordered corner", "Sec 4.2, Fig 8 centre",
        "2 and 3 sigma lines enclose the ordered phase", PAPER_STEPS,
        (
            Measure("fraction converged, ordered", _on("released"), _over(_ordered, "released"), low=SIGMAS[1]),
            Measure("fraction converged, jammed", _on("released"), _over(_jammed, "released"), high=SIGMAS[1]),
            Measure("fraction converged, paramagnetic", _on("released"), _over(_paramagnetic, "released"), high=SIGMAS[1]),
        ),
    ),
)  # fmt: skip


def diverged(dataset: xr.Dataset, step: int) -> str:
    """How many students were lost by this step: they are left out of means and have not converged."""
    lost = dataset.diverged_step.sel(step=step) >= 0
    return f"{int(lost.sum()):,} of {lost.size:,} students diverged"


def number(m: Measured) -> str:
    """A value with its error, to the error's two digits."""
    if not math.isfinite(m.value):
        return "no value"
    if not m.error > 1e-9 * abs(m.value):  # the same for every student
        return f"{m.value:.4g}"
    digits = max(1 - math.floor(math.log10(m.error)), 0)
    return f"{m.value:.{digits}f} +- {m.error:.{digits}f}"


def length(verdict: Verdict) -> str:
    """The training length a verdict was reached at."""
    return f"{verdict.step:,} of {verdict.claim.steps:,} steps" if verdict.claim.steps else "initial state"


def write(verdicts: list[Verdict], dataset: xr.Dataset, folder: Path) -> list[Path]:
    """Write `claims.md`, for reading, and `claims.json`, with errors, trends and rules.

    Returns:
        The two files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = max(v.step for v in verdicts)
    rows = [("statement", "verdict", "where", "the paper", "training length", "this run")]
    rows += [(v.claim.statement, v.verdict, v.claim.where, v.claim.paper, length(v), numbers(v)) for v in verdicts]
    rows = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
    # The last column is the long one: left ragged, the others stay readable as text.
    widths = [*(max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]), 8]
    table = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    table.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    details = [f"**{v.claim.key}**: {v.verdict}. Agrees where {v.rule}. {sentence(v.reason)}".rstrip() for v in verdicts]
    head = f"{step:,} steps, {dataset.sizes['seed']} seeds, {diverged(dataset, step)}."
    parts = ["# The paper's statements and this run", head, "\n".join(table), "## The rule", sentence(RULE), *details]
    text = "\n\n".join(parts) + "\n"
    found = {
        "run": dict(dataset.attrs),
        "step": step,
        "seeds": dataset.sizes["seed"],
        "rule": RULE,
        "claims": [_plain(v) for v in verdicts],
    }
    (folder / "claims.md").write_text(text, "utf-8")
    (folder / "claims.json").write_text(json.dumps(_finite(found), indent=1, default=str, allow_nan=False) + "\n", "utf-8")
    return [folder / "claims.md", folder / "claims.json"]


def numbers(verdict: Verdict) -> str:
    """What the run gives, in one line; why nothing where it lacks the cells."""
    return "; ".join(f"{m.name}: {number(m)}" for m in verdict.measured) or verdict.reason


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a dictionary, without its functions."""
    claim = {name: value for name, value in vars(verdict.claim).items() if name not in ("measures", "steps")}
    own = {"verdict": verdict.verdict, "reason": verdict.reason, "rule": verdict.rule}
    lengths = {"step": verdict.step, "paper_steps": verdict.claim.steps}
    return (
        claim
        | own
        | lengths
        | {
            "measured": [
                asdict(m) | {"agrees": m.agrees, "settled": m.settled, "approaches": m.approaches} for m in verdict.measured
            ]
        }
    )


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null, for no value and no limit."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
