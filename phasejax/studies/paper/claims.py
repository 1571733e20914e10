"""The paper's quantitative statements (Secs 3 and 4), as claims."""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from phasejax.analysis.boundaries import SIGMAS, converged
from phasejax.analysis.phases import jammed as _jammed
from phasejax.analysis.phases import ordered as _ordered
from phasejax.analysis.phases import other_than_the_paper
from phasejax.analysis.phases import paramagnetic as _paramagnetic
from phasejax.analysis.run import layer, require
from phasejax.analysis.spectrum import level_spacing, marchenko_pastur_edges, rate, trace_ratio
from phasejax.analysis.statistics import crossings, log10, sound
from phasejax.claims.judging import (
    PAPER_STEPS,
    Averages,
    Claim,
    Measure,
    NotInRunError,
    Phase,
    Statistic,
    Take,
    slope_of,
)
from phasejax.claims.nulls import at_start, mirrored, permuted

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
        require(dataset, "sigma_w")
        if other := other_than_the_paper(dataset):
            raise NotInRunError(other)
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
        values = {name: derive(part) for name, derive in derived.items()}
        # A student that diverged has no loss, but it is known whether it converged.
        return xr.Dataset({n: v.astype(float) if v.dtype == bool else sound(part, v) for n, v in values.items()})

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
    "spread": ("level_spacing", _spread),
    "rate": ("level_spacing", rate),
    "trace": ("eigenvalues target_eigenvalues", trace_ratio),
    "distance": ("eigenvalues target_eigenvalues", _teacher_distance),
    "drift": ("converged", lambda d: converged(d, "drift")),
    "released": ("converged", lambda d: converged(d, "released")),
}


_HALF_DECADE = 0.5
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


def _log10(name: str) -> Statistic:
    return lambda x: log10(x[name])


def _ratio(name: str, by: float) -> Statistic:
    return lambda x: x[name] / by


def _last_crossing(values: xr.DataArray, level: xr.DataArray | float, rising: bool = False) -> xr.DataArray:
    """log10 of the highest temperature at which values cross a level; NaN where they do not."""
    return log10(crossings(values, level, "temperature", rising).max("crossing"))


def _rise(name: str, share: float = 0.5) -> Statistic:
    """log10 of the temperature at which log m has made this share of its rise along the temperature axis."""

    def crossing(x: Averages) -> xr.DataArray:
        y = log10(x[name])
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
    return slope_of(line, log10(line.inverse_sigma_w), "sigma_w")


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
        null=permuted("sigma_w"),
    ),
    Claim(
        "initial_gradient", "Gradient at the start: small for strong disorder, a plateau for weak", "Sec 3.2, Fig 4 right",
        "small at 1/sigma_W ~ 1e-2; level from 1/2 up", 0,
        (
            Measure("gradient near 1e-2 / plateau", _start, _small_start, high=10**-_HALF_DECADE),
            Measure("largest / smallest from 1/sigma_W = 1/2 up", _start, _extremes("initial_gradient", 0.5), high=1.5),
        ),
        null=permuted("sigma_w"),
    ),
    Claim(
        "initial_spread", "Width of the initial spectrum at 1/sigma_W = 8", "Sec 4.1, footnote", "(n2-1) S(0) ~ 0.04", 0,
        (Measure("(n2-1) S(0)", _initial(_on("spread", 2**-5, 8)), lambda x: x.spread, 0.035, 0.045),),
        null=permuted("sigma_w"),
    ),
    Claim(
        "loss_range", "Range of the mean test loss over the plane", "Sec 3.2, Fig 2", "1e-1 to 1e-7", PAPER_STEPS,
        (
            Measure("log10 of largest loss", _on("loss"), lambda x: log10(x.loss.max(_PLANE)), -1.5, -0.5),
            Measure("log10 of smallest loss", _on("loss"), lambda x: log10(x.loss.min(_PLANE)), -7.5, -6.5),
        ),
        "losses without the factor 1/2, as in the published map",
        null=at_start,
    ),
    Claim("loss_jump", "Rapid rise of the loss along T at 1/sigma_W = 8", "Sec 3.2, Fig 4 left", "at T ~ 1", PAPER_STEPS,
          _jump("loss"), null=permuted("temperature")),
    Claim("gradient_jump", "Rapid rise of the gradient along T at 1/sigma_W = 8", "Sec 3.2, Fig 4 centre", "at T ~ 1",
          PAPER_STEPS, _jump("gradient"), null=permuted("temperature")),
    Claim(
        "hot_independence", "No dependence on sigma_W at the highest temperature", "Sec 3.2, Fig 3", "lines meet at T = 64",
        PAPER_STEPS,
        tuple(Measure(f"{name}: largest / smallest at T = 64", _on(name, 64), _extremes(name), high=1.5)
              for name in ("loss", "gradient")),
        null=mirrored("temperature"),
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
        null=at_start,
    ),
    Claim(
        "alignment", "Alignment of features and field is strongest in the ordered phase", "Sec 3.2, Fig 5 right",
        "strongest in the well-trained region", PAPER_STEPS,
        (
            Measure("ordered - jammed", _on("alignment"), _above("alignment", _ordered, _jammed), low=0.0),
            Measure("ordered - paramagnetic", _on("alignment"), _above("alignment", _ordered, _paramagnetic), low=0.0),
        ),
        null=at_start,
    ),
    Claim(
        "rate_order", "Rate of the level spacing: smallest jammed, largest paramagnetic", "Sec 4.1, Fig 7",
        "jammed < ordered < paramagnetic", PAPER_STEPS,
        (
            Measure("(ordered - jammed) / paramagnetic", _on("rate"), _rate_step(_jammed, _ordered), low=0.0),
            Measure("(paramagnetic - ordered) / paramagnetic", _on("rate"), _rate_step(_ordered, _paramagnetic), low=0.0),
        ),
        null=permuted("temperature"),
    ),
    Claim("growth_hottest", "Rate and final width of the spectrum at T = 64, 1/sigma_W = 8", "Sec 4.1, footnote",
          "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(64), null=at_start),
    Claim("growth_fig6", "The same in the cell of Fig 6 that the footnote cites, T = 4, 1/sigma_W = 8",
          "Sec 4.1, footnote", "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(4), null=at_start),
    Claim(
        "spectrum_flow", "Spectrum of the ordered phase flows towards the teacher's (T = 2^-5, 1/sigma_W = 8)",
        "Sec 4, Fig 6 left", "the distribution flows towards the target", PAPER_STEPS,
        (Measure("distance from the teacher's spectrum / that at the start", _on("distance", 2**-5, 8),
                 lambda x: x.distance / x.distance.sel(step=0), high=1.0),),
        null=at_start,
    ),
    Claim(
        "spectrum_arrival", "... and arrives there by the end", "Sec 3 and 4, Fig 6 left",
        "an equilibrium at the end of training", PAPER_STEPS,
        (Measure("log10 of tr X / tr X of the teacher", _on("trace", 2**-5, 8), _log10("trace"), -_HALF_DECADE,
                 _HALF_DECADE),),
        null=at_start,
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
        null=permuted("temperature"),
    ),
    Claim(
        "boundary_released", "Full convergence (reading released) only in the ordered corner", "Sec 4.2, Fig 8 centre",
        "2 and 3 sigma lines enclose the ordered phase", PAPER_STEPS,
        (
            Measure("fraction converged, ordered", _on("released"), _over(_ordered, "released"), low=SIGMAS[1]),
            Measure("fraction converged, jammed", _on("released"), _over(_jammed, "released"), high=SIGMAS[1]),
            Measure("fraction converged, paramagnetic", _on("released"), _over(_paramagnetic, "released"), high=SIGMAS[1]),
        ),
        null=permuted("temperature"),
    ),
)  # fmt: skip
