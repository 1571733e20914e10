"""The paper's quantitative statements, each judged on a run's Dataset by one rule.

A claim is a list of scalar series m(step), each with the interval the statement puts it in. A statement that one number
is larger than another is a series too: their difference, with the interval above 0. Let

    gap = max(low - m, m - high)            negative inside the interval
    e   = bootstrap error over seeds, the same draws for every cell and record, for seeds share data across cells

The rule, for every claim: it *agrees* where gap + 2e <= 0 for each of its series at the record judged. If not, it *needs
longer training* where the run is shorter than the t_f the statement was made at and every series that does not agree has a
gap that shrinks, over the last decade of steps, by more than twice the slope's own error. Otherwise it *differs*. What the
paper writes with "~" is given half a decade on either side.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from phasejax.boundaries import PAPER_JAMMING_LINE, SIGMAS, converged
from phasejax.experiment import Experiment, refuse
from phasejax.spectrum import level_spacing, marchenko_pastur_edges, rate, trace_ratio

AGREES, DIFFERS, LONGER, ABSENT = "agrees", "differs", "needs longer training", "not in this run"
PAPER_STEPS = 10**8
"""Training length behind the paper's figures: 10^5 epochs of 1000 batches."""

RULE = (
    "agrees: every number lies inside its interval, clear of its ends by two standard errors (bootstrap over seeds); "
    "needs longer training: the run is shorter than the statement's t_f, some number does not agree, and each of those "
    "moves towards its interval over the last decade of steps by more than twice the error of the trend; "
    "differs: anything else"
)
_RESAMPLES, _CLEAR = 300, 2.0
_HALF_DECADE = 0.5

Averages = xr.Dataset
"""Means over resampled seeds, (resample, step, ...); resample 0 is the ensemble itself."""


class NotInRunError(Exception):
    """What a claim needs is not in the file: one sentence."""


@dataclass(frozen=True)
class Measure:
    """A series m(step) and the interval that a statement puts it in."""

    name: str
    samples: Callable[[xr.Dataset], xr.Dataset]
    """What is averaged over seeds: variables (step, seed, ...)."""
    statistic: Callable[[Averages], xr.DataArray]
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
        if np.isinf(self.low) and np.isinf(self.high):
            return "reported, not judged"
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
    agrees: bool
    trend: float
    """Change of the gap per decade of steps over the last decade, negative towards the interval; NaN where there is none."""
    trend_error: float
    at_paper_steps: float
    """Where the last decade's slope of m carries it by t_f, on a logarithmic time axis."""

    @property
    def approaches(self) -> bool:
        """The gap shrinks significantly."""
        return self.trend < -_CLEAR * self.trend_error


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
    """
    steps = dataset.step.values
    last = int(steps[-1]) if step is None else step
    if last not in steps:
        raise refuse("step", last, f"the nearest record is at step {steps[np.argmin(np.abs(steps - last))]}")
    return [judge(claim, dataset, last) for claim in CLAIMS]


def judge(claim: Claim, dataset: xr.Dataset, step: int) -> Verdict:
    """Apply the rule to one claim at a record."""
    at = min(step, claim.steps)
    steps = dataset.step.values
    try:
        _same_system(dataset)
        decade = dataset.sel(step=(steps == 0) | ((steps >= at / 10) & (steps <= at)))
        measured = tuple(_measure(m, decade, claim.steps) for m in claim.measures)
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


def _measure(measure: Measure, decade: xr.Dataset, t_f: int) -> Measured:
    m = measure.series(decade)
    gap = np.maximum(measure.low - m, m - measure.high)
    later = m.step > 0
    log_steps = np.log10(m.step.where(later, drop=True).astype(float))

    def estimate(x: xr.DataArray) -> tuple[float, float]:
        return float(x[0]), float(x[1:].std(ddof=1))

    value, error = estimate(m.isel(step=-1))
    trend, trend_error, ahead = np.nan, np.nan, np.nan
    if log_steps.size > 1:
        trend, trend_error = estimate(_slope(gap.where(later, drop=True), log_steps, "step"))
        ahead = value + estimate(_slope(m.where(later, drop=True), log_steps, "step"))[0] * (
            math.log10(t_f) - float(log_steps[-1])
        )
    agrees = bool(gap[0, -1] + _CLEAR * error <= 0)
    return Measured(measure.name, value, error, measure.low, measure.high, agrees, trend, trend_error, ahead)


def _reason(claim: Claim, verdict: str, measured: tuple[Measured, ...], step: int) -> str:
    """Why, in words."""
    times = f"training is {claim.steps / step:,.0f} times shorter than the paper's {claim.steps:,} steps" if step else ""
    shorter = bool(times) and step < claim.steps
    parts = []
    if verdict == LONGER:
        parts.append(f"{times}, and the last decade of steps moves towards the statement")
    if verdict == DIFFERS and shorter:
        parts.append(f"{times}, but the last decade of steps does not move towards the statement throughout")
    for m in measured:
        if np.isnan(m.value):
            parts.append(f"'{m.name}' has no value here")
        elif not m.agrees:
            near = abs(max(m.low - m.value, m.value - m.high)) <= _CLEAR * m.error
            where = "is within two standard errors of its interval's end, so more seeds could decide" if near else "is outside"
            parts.append(f"'{m.name}' {where}")
        # Agreement at a shorter training length is agreement there, and the reader should know if it will not last.
        lasting = m.low <= m.at_paper_steps <= m.high
        if shorter and m.agrees and not lasting and m.trend > _CLEAR * m.trend_error:
            parts.append(f"'{m.name}' agrees at this length but moves away: {_onward(m, claim)}")
        if shorter and not m.agrees and m.approaches:
            parts.append(f"{_onward(m, claim)}, {'inside' if lasting else 'outside'} the interval")
    return "; ".join([*parts, claim.remark] if claim.remark else parts)


def _onward(m: Measured, claim: Claim) -> str:
    return f"the slope of the last decade would carry it to {m.at_paper_steps:.3g} at {claim.steps:,} steps"


def _resampled(seeds: int) -> xr.DataArray:
    """Weights (resample, seed) of the bootstrap over seeds; the first row is the ensemble as it is."""
    if seeds < 2:
        raise NotInRunError("A single seed has no error.")
    draws = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES)
    return xr.DataArray(np.vstack([np.ones(seeds), draws]), dims=("resample", "seed"))


def _same_system(dataset: xr.Dataset) -> None:
    """The statements are about one network, trained by plain SGD on 4000 samples."""
    run, paper = Experiment.from_toml(dataset.attrs["experiment"]), Experiment()
    if "temperature" not in dataset.dims:
        raise NotInRunError("The run has no temperature.")
    same = {
        "network": run.network == paper.network,
        "number of samples": run.task.samples == paper.task.samples,
        "momentum": run.sgd.momentum == paper.sgd.momentum,
        "batch size": run.sgd.batch_size == paper.sgd.batch_size,
    }
    if others := [name for name, ok in same.items() if not ok]:
        raise NotInRunError(f"The run has another {' and '.join(others)} than the paper.")


# Parts of the plane. A cell asked for must be on the grid; an axis taken whole must reach the paper's ends.

_AXES = {"temperature": (2.0**-5, 2.0**6), "inverse_sigma_w": (2.0**-8, 2.0**3)}


def _on(names: str, temperature: float | None = None, inverse_sigma: float | None = None) -> Callable[[xr.Dataset], xr.Dataset]:
    """Take variables (or level spacing, rate, ...) on a cell, a line or the plane."""

    def take(dataset: xr.Dataset) -> xr.Dataset:
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
        try:
            return xr.Dataset({name: _DERIVED.get(name, lambda d, n=name: d[n])(part) for name in names.split()})
        except KeyError as missing:
            raise NotInRunError(f"The file has no variable {missing}.") from None

    return take


def _initial(samples: Callable[[xr.Dataset], xr.Dataset]) -> Callable[[xr.Dataset], xr.Dataset]:
    """The initial state, which is the same at every temperature."""
    return lambda dataset: samples(dataset.sel(step=[0]))


def _spread(dataset: xr.Dataset) -> xr.DataArray:
    return level_spacing(dataset) * (dataset.sizes["level"] - 1)


def _initial_gradient(dataset: xr.Dataset) -> xr.DataArray:
    return dataset.full_gradient_norm.isel(step_ends=0, drop=True).expand_dims(step=dataset.step.values[:1])


def _edge(dataset: xr.Dataset) -> xr.DataArray:
    _, high = marchenko_pastur_edges(1.0, dataset.sizes["node"] / dataset.sizes["input"])
    return high * dataset.sigma_w**2 * xr.ones_like(dataset.eigenvalues.isel(level=-1, drop=True))


def _teacher_distance(dataset: xr.Dataset) -> xr.DataArray:
    """Wasserstein distance of the student's spectrum from its teacher's over the teacher's mean eigenvalue."""
    target = dataset.target_eigenvalues
    return np.abs(dataset.eigenvalues - target).sum("level", skipna=False) / target.sum("level")


_DERIVED: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "loss": lambda d: 2 * d.test_loss,  # Fig 2 is drawn without the factor 1/2 of Eq 2.6
    "gradient": lambda d: d.gradient_norm,
    "initial_gradient": _initial_gradient,
    "largest": lambda d: d.eigenvalues.isel(level=-1, drop=True),
    "edge": _edge,
    "spread": _spread,
    "rate": rate,
    "trace": trace_ratio,
    "distance": _teacher_distance,
    "drift": lambda d: converged(d, "drift"),
    "released": lambda d: converged(d, "released"),
}


# Phases, split by the paper's own lines 1/sigma_W = sqrt 2 and T ~ 1 with the cells next to T ~ 1 left out.


def _ordered(x: xr.Dataset) -> xr.DataArray:
    return (x.temperature <= 2**-3) & (x.inverse_sigma_w > PAPER_JAMMING_LINE)


def _jammed(x: xr.Dataset) -> xr.DataArray:
    return (x.temperature <= 2**-3) & (x.inverse_sigma_w < PAPER_JAMMING_LINE)


def _paramagnetic(x: xr.Dataset) -> xr.DataArray:
    return (x.temperature >= 4) & (x.inverse_sigma_w > PAPER_JAMMING_LINE)


_PLANE = ("temperature", "sigma_w")


def _over(phase: Callable[[xr.Dataset], xr.DataArray], name: str) -> Callable[[Averages], xr.DataArray]:
    return lambda x: x[name].where(phase(x)).mean(_PLANE)


def _rate_step(first: Callable[[xr.Dataset], xr.DataArray], second: Callable[[xr.Dataset], xr.DataArray]) -> Any:
    """Rate in the second phase minus that in the first, in units of the paramagnetic phase's, for all fall as 1/t."""
    low, high, unit = (_over(phase, "rate") for phase in (first, second, _paramagnetic))
    return lambda x: (high(x) - low(x)) / np.abs(unit(x))


def _largest_elsewhere(x: Averages, name: str) -> xr.DataArray:
    """In the jammed and the paramagnetic phase."""
    return x[name].where(_jammed(x) | _paramagnetic(x)).max(_PLANE)


def _peak_in_ordered(x: Averages) -> xr.DataArray:
    return x.alignment.where(_ordered(x)).max(_PLANE) - _largest_elsewhere(x, "alignment")


def _log10(name: str) -> Callable[[Averages], xr.DataArray]:
    return lambda x: np.log10(x[name])


def _ratio(name: str, by: float) -> Callable[[Averages], xr.DataArray]:
    return lambda x: x[name] / by


def _slope(y: xr.DataArray, x: xr.DataArray, dim: str) -> xr.DataArray:
    """Least-squares slope along a dimension, over the points where y is known."""
    x = x.where(y.notnull())
    off = x - x.mean(dim)
    return (off * (y - y.mean(dim))).sum(dim) / (off**2).sum(dim)


def _last_crossing(values: xr.DataArray, level: xr.DataArray | float) -> xr.DataArray:
    """log10 of the highest temperature at which values cross a level, interpolated in log T; NaN where they do not."""
    above = (values - level).sortby("temperature").transpose(..., "temperature")
    log_t, y = np.log10(above.temperature.values), above.values
    y0, y1 = y[..., :-1], y[..., 1:]
    crossed = (y0 >= 0) != (y1 >= 0)
    at = log_t[:-1] + y0 / np.where(y0 == y1, np.nan, y0 - y1) * np.diff(log_t)
    last = crossed.shape[-1] - 1 - np.argmax(crossed[..., ::-1], axis=-1)
    found = np.take_along_axis(at, last[..., None], axis=-1)[..., 0]
    return above.isel(temperature=0, drop=True).copy(data=np.where(crossed.any(-1), found, np.nan))


def _rise(name: str, share: float = 0.5) -> Callable[[Averages], xr.DataArray]:
    """log10 of the temperature at which log m has made this share of its rise along the temperature axis."""

    def crossing(x: Averages) -> xr.DataArray:
        y = np.log10(x[name])
        low, high = y.min("temperature"), y.max("temperature")
        return _last_crossing(y, low + share * (high - low))

    return crossing


def _rise_width(name: str) -> Callable[[Averages], xr.DataArray]:
    return lambda x: _rise(name, 0.75)(x) - _rise(name, 0.25)(x)


def _extremes(name: str, inverse_sigma: float = 0.0) -> Callable[[Averages], xr.DataArray]:
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
    return _slope(line, np.log10(line.inverse_sigma_w), "sigma_w")


def _boundary_to_memory(x: Averages) -> xr.DataArray:
    """Distance |log10 T| of the 68 % line from where G has fallen to half its value at the lowest temperature, by sigma_W."""
    coldest = x.G_t0.sortby("temperature").isel(temperature=0, drop=True)
    return np.abs(_last_crossing(x.drift, SIGMAS[0]) - _last_crossing(x.G_t0, coldest / 2))


def _where_kept(distance: xr.DataArray) -> xr.DataArray:
    """Over the sigma_W where G is kept in the cold, which the paper puts at 1/sigma_W < sqrt 2: elsewhere none is to lose."""
    return distance.where(distance.inverse_sigma_w < PAPER_JAMMING_LINE).mean("sigma_w")


def _boundary_to_loss(x: Averages) -> xr.DataArray:
    return _last_crossing(x.drift, SIGMAS[0]) - _rise("loss")(x)


def _growth(temperature: float) -> tuple[Measure, ...]:
    """The numbers of the footnote to Sec 4.1, in one cell."""
    rate_, spread = np.log10(2e-4), 6.0
    at, cell = f"at T = {temperature:g}", (temperature, 8.0)
    return (
        Measure(f"log10 of rate per epoch {at}", _on("rate", *cell), _log10("rate"), rate_ - _HALF_DECADE, rate_ + _HALF_DECADE),
        Measure(f"log10 of (n2-1) S {at}", _on("spread", *cell), _log10("spread"), spread - _HALF_DECADE, spread + _HALF_DECADE),
    )


def _jump(name: str) -> tuple[Measure, ...]:
    return (
        Measure(f"log10 T where the {name} is halfway", _on(name, None, 8), _rise(name), -_HALF_DECADE, _HALF_DECADE),
        Measure(f"decades of T for the middle half of its rise ({name})", _on(name, None, 8), _rise_width(name), high=1.0),
    )


_cold_edges = {8.0: 0.046, 2.0**-8: 1.9e5}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "initial_edge", "Upper edge x_+ of the initial spectrum at both ends of the sigma_W axis", "Sec 4, below Eq 4.2",
        "0.046 at 1/sigma_W = 8; 1.9e5 at 2^-8", 0,
        tuple(m for x, edge in _cold_edges.items() for m in (
            Measure(f"Eq 4.2 / paper at 1/sigma_W = {x:g}", _initial(_on("edge", 2**-5, x)), _ratio("edge", edge), 0.98, 1.02),
            Measure(f"mean largest eigenvalue / paper at {x:g}", _initial(_on("largest", 2**-5, x)), _ratio("largest", edge),
                    0.8, 1.2),
        )),
        "x_+ is the edge of an infinite matrix; for 16 x 32 the mean of the largest eigenvalue lies about a tenth below it",
    ),
    Claim(
        "initial_gradient", "Gradient at the start: small for strong disorder, a plateau for weak", "Sec 3.2, Fig 4 right",
        "small at 1/sigma_W ~ 1e-2; level from 1/2 up", 0,
        (
            Measure("gradient near 1e-2 / plateau", _initial(_on("initial_gradient", 2**-5)), _small_start, high=10**-_HALF_DECADE),
            Measure("largest / smallest from 1/sigma_W = 1/2 up", _initial(_on("initial_gradient", 2**-5)),
                    _extremes("initial_gradient", 0.5), high=1.5),
        ),
    ),
    Claim(
        "initial_spread", "Width of the initial spectrum at 1/sigma_W = 8", "Sec 4.1, footnote", "(n2-1) S(0) ~ 0.04", 0,
        (Measure("(n2-1) S(0)", _initial(_on("spread", 2**-5, 8)), lambda x: x.spread, 0.035, 0.045),),
    ),
    Claim(
        "loss_range", "Range of the mean test loss over the plane", "Sec 3.2, Fig 2", "1e-1 to 1e-7", PAPER_STEPS,
        (
            Measure("log10 of largest loss", _on("loss"), lambda x: np.log10(x.loss.max(_PLANE)), -1.5, -0.5),
            Measure("log10 of smallest loss", _on("loss"), lambda x: np.log10(x.loss.min(_PLANE)), -7.5, -6.5),
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
        (Measure("largest in the ordered phase - largest in the others", _on("alignment"), _peak_in_ordered, low=0.0),),
    ),
    Claim(
        "rate_order", "Rate of the level spacing: smallest in the jammed, largest in the paramagnetic phase", "Sec 4.1, Fig 7",
        "jammed < ordered < paramagnetic", PAPER_STEPS,
        (
            Measure("(ordered - jammed) / paramagnetic", _on("rate"), _rate_step(_jammed, _ordered), low=0.0),
            Measure("(paramagnetic - ordered) / paramagnetic", _on("rate"), _rate_step(_ordered, _paramagnetic), low=0.0),
        ),
    ),
    Claim("growth_hottest", "Rate and final width of the spectrum at T = 64, 1/sigma_W = 8", "Sec 4.1, footnote",
          "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(64)),
    Claim("growth_fig6", "The same in the cell of Fig 6 centre, which the footnote cites: T = 4, 1/sigma_W = 8",
          "Sec 4.1, footnote", "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(4)),
    Claim(
        "spectrum_flow", "Eigenvalues of the ordered phase flow towards the teacher's (T = 2^-5, 1/sigma_W = 8)",
        "Sec 4, Fig 6 left", "the distribution flows towards the target", PAPER_STEPS,
        (Measure("distance from the teacher's spectrum / that at the start", _on("distance", 2**-5, 8),
                 lambda x: x.distance / x.distance.sel(step=0), high=1.0),),
    ),
    Claim(
        "spectrum_arrival", "... and arrive there by the end", "Sec 3 and 4, Fig 6 left",
        "an equilibrium at the end of training", PAPER_STEPS,
        (Measure("log10 of tr X / tr X of the teacher", _on("trace", 2**-5, 8), _log10("trace"), -_HALF_DECADE, _HALF_DECADE),),
    ),
    Claim(
        "boundary_drift", "68 % convergence line (reading drift): falls with 1/sigma_W and follows the loss of memory",
        "Sec 4.2, Figs 8 and 9", "tracks the transition of G especially well; separates the phases at 1/sigma_W = 8", PAPER_STEPS,
        (
            Measure("d log T_c / d log(1/sigma_W)", _on("drift"), _boundary_slope, high=0.0),
            Measure("mean decades from T_c to T at which G is halved, 1/sigma_W < sqrt 2", _on("drift G_t0"),
                    lambda x: _where_kept(_boundary_to_memory(x)), high=_HALF_DECADE),
            Measure("the same over all sigma_W", _on("drift G_t0"), lambda x: _boundary_to_memory(x).mean("sigma_w")),
            Measure("log10 of T_c / T of the loss's rise at 1/sigma_W = 8", _on("drift loss", None, 8), _boundary_to_loss,
                    -_HALF_DECADE, _HALF_DECADE),
        ),
    ),
    Claim(
        "boundary_released", "Full convergence (reading released) only in the ordered corner", "Sec 4.2, Fig 8 centre",
        "2 and 3 sigma lines enclose the ordered phase", PAPER_STEPS,
        (
            Measure("fraction converged, ordered", _on("released"), _over(_ordered, "released"), low=SIGMAS[1]),
            Measure("largest fraction in a jammed or paramagnetic cell", _on("released"),
                    lambda x: _largest_elsewhere(x, "released"), high=SIGMAS[2]),
        ),
    ),
)  # fmt: skip


def diverged(dataset: xr.Dataset, step: int) -> str:
    """How many students were lost by this step: they are left out of means and have not converged."""
    lost = int(((dataset.diverged_step >= 0) & (dataset.diverged_step < step)).sum()) if "diverged_step" in dataset else 0
    students = math.prod(dataset.sizes[d] for d in ("temperature", "learning_rate", "sigma_w", "seed") if d in dataset.sizes)
    return f"{lost:,} of {students:,} students diverged"


def number(m: Measured) -> str:
    """A value with its error, to the error's two digits."""
    if np.isnan(m.value):
        return "no value"
    digits = 2 - math.floor(math.log10(m.error)) - 1 if m.error > 1e-9 else 4
    return f"{m.value:.{max(digits, 0)}f} +- {m.error:.{max(digits, 0)}f}" if m.error > 1e-9 else f"{m.value:.4g}"


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
    head = ["The paper's statements, and this run", f"{step:,} steps, {dataset.sizes['seed']} seeds, {diverged(dataset, step)}."]
    columns = ("verdict", "statement", "where", "the paper", "this run", "training length")
    rows = [
        (v.verdict, v.claim.statement, v.claim.where, v.claim.paper,
         "; ".join(f"{m.name}: {number(m)}" for m in v.measured) or v.reason, length(v))
        for v in verdicts
    ]  # fmt: skip
    rows = [tuple(cell.replace("|", r"\|") for cell in row) for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    details = [
        f"**{v.claim.key}**: {v.verdict}. Agrees where {v.rule}." + (f" {v.reason[:1].upper()}{v.reason[1:].rstrip('.')}." if v.reason else "")
        for v in verdicts
    ]
    text = "\n".join([f"# {head[0]}", "", head[1], "", *lines, "", "## The rule", "", f"{RULE}.", "", "\n\n".join(details), ""])
    found = {"run": dict(dataset.attrs), "step": step, "seeds": dataset.sizes["seed"], "rule": RULE, "claims": [
        {**{k: v for k, v in asdict(verdict.claim).items() if k != "measures"}, "verdict": verdict.verdict,
         "reason": verdict.reason, "rule": verdict.rule, "step": verdict.step, "measured": [asdict(m) for m in verdict.measured]}
        for verdict in verdicts
    ]}  # fmt: skip
    (folder / "claims.md").write_text(text, "utf-8")
    (folder / "claims.json").write_text(json.dumps(_finite(found), indent=1, default=str, allow_nan=False) + "\n", "utf-8")
    return [folder / "claims.md", folder / "claims.json"]


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null, for no value and no limit."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
