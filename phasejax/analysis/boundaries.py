"""Where phases meet: the convergence criterion, its contours in the phase plane, and their errors (Sec 4.2).

Students of one seed share teacher, data and initial draw, so cells are correlated and every error is over seeds.
"""

import warnings

import contourpy
import numpy as np
import xarray as xr
from scipy.special import betaincinv

from phasejax.analysis.run import RunError, activation, layer
from phasejax.analysis.spectrum import layer_sigma_w, level_spacing
from phasejax.analysis.statistics import bootstrap, crossings

PAPER_JAMMING_LINE = np.sqrt(2.0)
"""1/sigma_W at which the paper puts the change from double to single well (sigma_W^2 = 1/2 in Eq 2.22)."""

UNBOUNDED = ("relu", "gelu", "identity")
"""Built-in activations whose features have nothing to jam against."""

SIGMAS = (0.68, 0.95, 0.997)
"""Fractions of converged students whose contours the paper draws: one, two and three sigma."""


def converged(dataset: xr.Dataset, reading: str = "drift", spacing: str = "initial") -> xr.DataArray:
    """Which students satisfy the convergence criterion, (step, temperature, sigma_w, seed) of bool.

    Args:
        dataset: a run.
        reading: one of drift, x_basis, text, released; see `phasejax.observables.level_dynamics`.
        spacing: `initial` for Eq 4.15, where the Marchenko-Pastur bound 4 sqrt(r) sigma_W^2 / (n_2 - 1) stands for S(0);
            `current` for the same-time criterion with the student's own S(t).

    Returns:
        restoring >= T V_S / S, in this multiplied form because V_S may be negative. Students that are not finite have not
        converged. A reference has the answer for S(0) in place of the terms.

    Raises:
        RunError: it has not for S(t).
    """
    if "converged" in dataset:
        if spacing == "current":
            raise RunError("A reference has the criterion with S(0) alone.")
        return dataset.converged.sel(reading=reading, drop=True)
    own = layer(dataset)
    terms = {name: dataset[name + own.suffix].sel(reading=reading, drop=True) for name in ("restoring", "V_S")}
    if spacing == "current":
        denominator = level_spacing(dataset)
    else:
        denominator = 4 * np.sqrt(own.nodes / own.inputs) * layer_sigma_w(dataset) ** 2 / (own.nodes - 1)
    found = terms["restoring"] * denominator >= dataset.temperature * terms["V_S"]
    return found.transpose(*terms["V_S"].dims).rename("converged")


def negative_V_S(dataset: xr.Dataset) -> xr.DataArray:
    """Which students are pulled together, not pushed apart, (step, temperature, sigma_w, seed, reading) of bool."""
    return dataset.negative_V_S if "negative_V_S" in dataset else dataset["V_S" + layer(dataset).suffix] < 0


def fraction(dataset: xr.Dataset, reading: str = "drift", spacing: str = "initial", confidence: float = 0.68) -> xr.Dataset:
    """Fraction of converged students in each cell with its Clopper-Pearson interval, and the share with V_S < 0.

    Returns:
        `fraction`, `low`, `high`, `negative_V_S`, each (step, temperature, sigma_w).
    """
    yes = converged(dataset, reading, spacing)
    n, k = yes.sizes["seed"], yes.sum("seed")
    tail = (1 - confidence) / 2
    low = xr.where(k > 0, betaincinv(k, n - k + 1, tail), 0.0)
    high = xr.where(k < n, betaincinv(k + 1, n - k, 1 - tail), 1.0)
    negative = negative_V_S(dataset).sel(reading=reading, drop=True).mean("seed")
    return xr.Dataset({"fraction": k / n, "low": (k.dims, low.data), "high": (k.dims, high.data), "negative_V_S": negative})


def resolved(seeds: int) -> tuple[float, ...]:
    """Those of the fractions `SIGMAS` that so many seeds tell from all: by two errors of one seed each."""
    return tuple(level for level in SIGMAS if 1 - level > 2 / seeds)


def contours(values: xr.DataArray, level: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lines of one level in the plane, by linear interpolation in the logarithms of both axes.

    Args:
        values: (temperature, sigma_w), at least 2 x 2.
        level: the level.

    Returns:
        A list of (1/sigma_W, T) pairs of arrays, one pair a line; empty where the level is nowhere crossed.
    """
    values = values.transpose("temperature", "sigma_w")
    if min(values.shape) < 2:
        return []
    x, y = np.log(values.inverse_sigma_w.values), np.log(values.temperature.values)
    across, up = np.argsort(x), np.argsort(y)
    lines = contourpy.contour_generator(x[across], y[up], values.values[np.ix_(up, across)]).lines(level)
    return [(np.exp(line[:, 0]), np.exp(line[:, 1])) for line in lines]  # pyright: ignore


def transition(
    dataset: xr.Dataset,
    level: float = SIGMAS[0],
    reading: str = "drift",
    step: int | None = None,
    resamples: int = 1000,
    confidence: float = 0.68,
) -> xr.Dataset:
    """Temperature T_c(sigma_W) above which fewer than this fraction of students converge, with its bootstrap interval.

    Args:
        dataset: a run.
        level: the fraction.
        reading: the criterion's reading.
        step: the record; the last if None.
        resamples: bootstrap samples, drawn over seeds with a fixed random seed.
        confidence: of the interval.

    Returns:
        Over sigma_w: `crossings`, all temperatures of crossing, along a dimension `crossing` with NaN in between; `T_c`, the
        highest of them, NaN without one; `T_c_low` and `T_c_high`, its bootstrap interval; `T_below` and `T_above`, the
        grid's temperatures around T_c, which bracket it where a bootstrap of 100 out of 100 has no width.
    """
    yes = converged(dataset, reading)
    yes = yes.isel(step=-1) if step is None else yes.sel(step=step)
    shares = yes.astype(float).weighted(bootstrap(dataset, resamples)).mean("seed")
    every = crossings(shares, level, "temperature")
    last = every.max("crossing")  # NaN where nothing is crossed
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    replicates = last.isel(resample=slice(1, None))
    enough = replicates.notnull().mean("resample") > 0.5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = (replicates.quantile(tail, "resample").drop_vars("quantile").where(enough) for tail in tails)
    centre, grid = last.isel(resample=0), yes.temperature
    below, above = grid.where(grid <= centre).max("temperature"), grid.where(grid > centre).min("temperature")
    found = {"T_c": centre, "T_c_low": low, "T_c_high": high, "T_below": below, "T_above": above}
    return xr.Dataset({**found, "crossings": every.isel(resample=0)})


def measured_jamming_line(dataset: xr.Dataset) -> tuple[float, float]:
    """Neighbouring 1/sigma_W of the grid between which the initial features lose their side peaks as 1/sigma_W grows.

    There are side peaks where the density at 0 lies below its maximum in the outer quarters, both of the symmetrised density
    with neighbouring bins averaged. How far below or above is no guide to where in between the line is: the density at the
    ends falls by orders of magnitude within a factor of two. (NaN, NaN) if the line is not on the grid, or the activation
    has no bounds to peak at.
    """
    none = (float("nan"), float("nan"))
    if activation(dataset) in UNBOUNDED:
        return none
    initial = dataset.feature_density.isel(step_ends=0)
    density = initial.mean([dim for dim in initial.dims if dim not in ("sigma_w", "feature")])
    density = density.sortby("inverse_sigma_w")
    both = density.values + density.values[:, ::-1]
    smooth = (both[:, :-2] + both[:, 1:-1] + both[:, 2:]) / 3
    centre, quarter = smooth.shape[1] // 2, smooth.shape[1] // 4
    peaked = smooth[:, centre] < smooth[:, :quarter].max(1)
    (last,) = np.nonzero(peaked[:-1] & ~peaked[1:])
    x = density.inverse_sigma_w.values
    return (float(x[last[-1]]), float(x[last[-1] + 1])) if last.size else none
