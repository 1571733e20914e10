"""The numbers that the paper's statements are about: what is taken of a run, and statistics of its means over seeds."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from phasejax.analysis.boundaries import SIGMAS, converged
from phasejax.analysis.phases import other_than_the_paper
from phasejax.analysis.run import layer, members, require, settings
from phasejax.analysis.spectrum import level_spacing, marchenko_pastur_edges, memory, rate, trace_ratio
from phasejax.analysis.statistics import crossings, draw, independent, log10, nearest, sound
from phasejax.claims.judging import Averages, NotInRunError, Phase, Statistic, Take, slope_of
from phasejax.claims.nulls import Null, along

PLANE = ("temperature", "sigma_w")

# Parts of the plane. A cell asked for must be on the grid; an axis taken whole must reach the paper's ends.

_AXES = {"temperature": (2.0**-5, 2.0**6), "inverse_sigma_w": (2.0**-8, 2.0**3)}


@functools.cache
def on(names: str, temperature: float | None = None, inverse_sigma: float | None = None) -> Take:
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


def initial(samples: Take) -> Take:
    """The initial state, which is the same at every temperature."""
    return lambda dataset: samples(dataset.sel(step=[0]))


def _spread(dataset: xr.Dataset) -> xr.DataArray:
    return level_spacing(dataset) * (layer(dataset).nodes - 1)


def _initial_gradient(dataset: xr.Dataset) -> xr.DataArray:
    return dataset.full_gradient_norm.isel(step_ends=0, drop=True).expand_dims(step=dataset.step.values[:1])


def _edge(dataset: xr.Dataset) -> xr.DataArray:
    _, high = marchenko_pastur_edges(1.0, layer(dataset).nodes / layer(dataset).inputs)
    return high * dataset.sigma_w**2 * xr.ones_like(dataset.eigenvalues.isel(level=-1, drop=True))


def _beyond_bound(dataset: xr.Dataset) -> xr.DataArray:
    """Whether S exceeds the bound of Eq 4.14, 4 sqrt(r) sigma_W^2 / (n_2 - 1)."""
    bound = 4 * np.sqrt(layer(dataset).nodes / layer(dataset).inputs) * dataset.sigma_w**2
    return _spread(dataset) > bound


def _teacher_distance(dataset: xr.Dataset) -> xr.DataArray:
    """Wasserstein distance of the student's spectrum from its teacher's over the teacher's mean eigenvalue."""
    target = dataset.target_eigenvalues
    return np.abs(dataset.eigenvalues - target).sum("level", skipna=False) / target.sum("level")


def _doubled(dataset: xr.Dataset) -> xr.DataArray:
    """How many levels are at least twice what they started as."""
    levels = dataset.eigenvalues
    return (levels > 2 * levels.sel(step=0, drop=True)).sum("level").where(levels.notnull().all("level"))


def _negative(name: str, reading: str) -> Callable[[xr.Dataset], xr.DataArray]:
    def negative(dataset: xr.Dataset) -> xr.DataArray:
        kept = f"negative_{name}"
        found = dataset[kept] if kept in dataset else dataset[name] < 0
        return found.sel(reading=reading, drop=True)

    return negative


def _halves(dataset: xr.Dataset) -> xr.DataArray:
    """The loss of every other draw and that of the others, NaN for the rest: (half, ...)."""
    half = xr.DataArray(draw(dataset) % 2, dims="seed")
    return (2 * dataset.test_loss).where(half == xr.DataArray([0, 1], dims="half"))


# What is derived from a file's variables, which are named first.
_DERIVED: dict[str, tuple[str, Callable[[xr.Dataset], xr.DataArray]]] = {
    "loss": ("test_loss", lambda d: 2 * d.test_loss),  # Fig 2 is drawn without the factor 1/2 of Eq 2.6
    "halves": ("test_loss", _halves),
    "gradient": ("gradient_norm", lambda d: d.gradient_norm),
    "initial_gradient": ("full_gradient_norm", _initial_gradient),
    "C": ("G_t0 G_00 G_tt", memory),
    "largest": ("eigenvalues", lambda d: d.eigenvalues.isel(level=-1, drop=True)),
    "edge": ("eigenvalues", _edge),
    "spread": ("level_spacing", _spread),
    "beyond_bound": ("level_spacing", _beyond_bound),
    "rate": ("level_spacing", rate),
    "trace": ("eigenvalues target_eigenvalues", trace_ratio),
    "distance": ("eigenvalues target_eigenvalues", _teacher_distance),
    "doubled": ("eigenvalues", _doubled),
    "drift": ("converged", lambda d: converged(d, "drift")),
    "released": ("converged", lambda d: converged(d, "released")),
    **{f"{name}_{reading}": (f"negative_{name}", _negative(name, reading))
       for name in ("K_S", "V_S") for reading in ("x_basis", "text", "released")},
}  # fmt: skip


def centred(name: str, temperature: float, least: float = 0.0) -> Take:
    """Logarithms along the sigma_W axis, from this 1/sigma_W up, each seed's about its own mean; for `beyond_error`."""
    take = on(name, temperature)

    def samples(dataset: xr.Dataset) -> xr.Dataset:
        y = log10(take(dataset)[name])
        y = y.isel(sigma_w=np.flatnonzero(y.inverse_sigma_w >= least))
        y = y - y.mean("sigma_w")
        return xr.Dataset({"y": y, "square": y**2, "draws": xr.full_like(y, independent(dataset))})

    return samples


def beyond_error(x: Averages) -> xr.DataArray:
    """Variance along the sigma_W axis less what the errors of the means make of it: about 0 however few seeds there are."""
    noise = (x.square - x.y**2) / (x.draws - 1)
    return (x.y**2 - noise).sum("sigma_w") / (x.sizes["sigma_w"] - 1)


def over(phase: Phase, name: str) -> Statistic:
    """Mean over a phase."""
    return lambda x: x[name].where(phase(x)).mean(PLANE)


def log_over(phase: Phase, name: str) -> Statistic:
    """Mean over a phase of log10 of a mean over seeds."""
    return lambda x: log10(x[name]).where(phase(x)).mean(PLANE)


def above(statistic: Callable[[Phase, str], Statistic], name: str, first: Phase, second: Phase) -> Statistic:
    """A statistic of the first phase minus that of the second."""
    return lambda x: statistic(first, name)(x) - statistic(second, name)(x)


def since_start(statistic: Statistic) -> Statistic:
    """Minus what it was at step 0."""

    def change(x: Averages) -> xr.DataArray:
        m = statistic(x)
        return m - m.sel(step=0, drop=True)

    return change


def growth(phase: Phase, name: str) -> Statistic:
    """Decades per decade of steps since the first record of the last decade, mean over a phase."""

    def slope(x: Averages) -> xr.DataArray:
        m = log_over(phase, name)(x)
        m = m.isel(step=np.flatnonzero(m.step > 0))
        if m.sizes["step"] < 2:
            raise NotInRunError("The run has no two records in its last decade of steps.")
        first = m.isel(step=0, drop=True)
        steps = log10(m.step / m.step[0])
        return ((m - first) / steps.where(steps > 0)).reindex(step=x.step)

    return slope


def unexplained(phase: Phase) -> Statistic:
    """Loss in a phase over the loss at the start at the smallest sigma_W, where outputs are near 0: 1 - R^2."""

    def share(x: Averages) -> xr.DataArray:
        nothing = (
            x.loss.sel(step=0, drop=True).isel(sigma_w=int(x.inverse_sigma_w.values.argmax()), drop=True).mean("temperature")
        )
        return over(phase, "loss")(x) / nothing

    return share


def logarithm(name: str) -> Statistic:
    """log10 of a mean."""
    return lambda x: log10(x[name])


def ratio(name: str, by: float) -> Statistic:
    """A mean over a constant."""
    return lambda x: x[name] / by


def between(name: str, temperature: float, other: float) -> Statistic:
    """log10 of a mean at one temperature minus that at another."""

    def difference(x: Averages) -> xr.DataArray:
        y = log10(x[name])
        one, two = (y.sel(temperature=t, method="nearest", drop=True) for t in (temperature, other))
        return one - two

    return difference


def extreme(lowest: bool) -> Statistic:
    """log10 of the lowest or highest mean loss of all cells, its cell chosen on half of the seeds, read off the others."""

    def statistic(x: Averages) -> xr.DataArray:
        y = log10(x.halves).stack(cell=PLANE).drop_vars(["cell", *PLANE])
        cell = y.fillna(np.inf).argmin("cell") if lowest else y.fillna(-np.inf).argmax("cell")
        return y.isel(half=[1, 0]).isel(cell=cell).mean("half", skipna=False)

    return statistic


def chosen(x: Averages) -> xr.DataArray:
    """Decades by which the lowest of all mean losses lies below what other seeds say of a cell chosen like this."""
    return extreme(True)(x) - log10(x.loss.min(PLANE))


def last_crossing(values: xr.DataArray, level: xr.DataArray | float, rising: bool = False) -> xr.DataArray:
    """log10 of the highest temperature at which values cross a level; NaN where they do not."""
    return log10(crossings(values, level, "temperature", rising).max("crossing"))


def rise(name: str, share: float = 0.5) -> Statistic:
    """log10 of the temperature at which log m has made this share of its rise along the temperature axis."""

    def crossing(x: Averages) -> xr.DataArray:
        y = log10(x[name])
        low, high = y.min("temperature"), y.max("temperature")
        return last_crossing(y, low + share * (high - low), rising=True)

    return crossing


def rise_width(name: str) -> Statistic:
    """Decades of temperature that the middle half of the rise takes."""
    return lambda x: rise(name, 0.75)(x) - rise(name, 0.25)(x)


def best_below_rise(x: Averages) -> xr.DataArray:
    """Decades from the temperature of the lowest mean loss up to that of the loss's rise."""
    best = x.loss.fillna(np.inf).argmin("temperature")
    return rise("loss")(x) - log10(x.temperature.isel(temperature=best, drop=True)).drop_vars("temperature", errors="ignore")


def disorder_line(of: Callable[[Averages], xr.DataArray]) -> Statistic:
    """log10 of the first 1/sigma_W, going up, at which something crosses 0, along the line of one temperature."""

    def line(x: Averages) -> xr.DataArray:
        values = of(x).swap_dims(sigma_w="inverse_sigma_w").drop_vars("sigma_w")
        return log10(crossings(values, 0.0, "inverse_sigma_w").min("crossing"))

    return line


def halfway(x: Averages) -> xr.DataArray:
    """log10 of the loss above the middle between its ends along the sigma_W axis."""
    y = log10(x.loss)
    return y - (y.min("sigma_w") + y.max("sigma_w")) / 2


def small_start(x: Averages) -> xr.DataArray:
    """Initial gradient near 1/sigma_W = 1e-2 over its plateau."""
    y = x.initial_gradient
    near = int(np.argmin(np.abs(np.log10(y.inverse_sigma_w.values / 1e-2))))
    return y.isel(sigma_w=near, drop=True) / y.where(y.inverse_sigma_w >= 0.5).mean("sigma_w")


def boundary_slope(x: Averages) -> xr.DataArray:
    """d log T_c / d log(1/sigma_W)."""
    line = last_crossing(x.drift, SIGMAS[0])
    return slope_of(line, log10(line.inverse_sigma_w), "sigma_w")


def misfit(line: str) -> Statistic:
    """Decades from a line to the temperature at which G is half its value at the lowest one, mean over sigma_W.

    The line is `T_c`, `T = 1`, or `constant`, the best of all constants, each where there are both T_c and the other.
    """

    def distance(x: Averages) -> xr.DataArray:
        coldest = x.G_t0.sortby("temperature").isel(temperature=0, drop=True)
        boundary, forgets = last_crossing(x.drift, SIGMAS[0]), last_crossing(x.G_t0, coldest / 2)
        forgets = forgets.where(boundary.notnull())
        at = {"T_c": boundary, "T = 1": 0.0, "constant": forgets.median("sigma_w")}[line]
        return np.abs(forgets - at).mean("sigma_w")

    return distance


def boundary_to_loss(x: Averages) -> xr.DataArray:
    """log10 of T_c over the temperature of the loss's rise."""
    return last_crossing(x.drift, SIGMAS[0]) - rise("loss")(x)


def batch_sizes(tree: Any) -> xr.Dataset:
    """Test loss at 1/sigma_W = 8 of a study's runs from a draw, by batch size: (step, batch, temperature, seed)."""
    drawn = [run for run in members(tree).values() if not settings(run)["start"]]  # FromDraw, the default, has no fields
    runs = {settings(run)["sgd"]["batch_size"]: run for run in drawn}
    if len(runs) < 2:
        raise NotInRunError("The study has no runs of different batch sizes.")
    found = []
    for size, run in sorted(runs.items()):
        require(run, "test_loss", "temperature")
        loss = sound(run, run.test_loss).isel(step=[-1])
        if "sigma_w" in loss.dims:
            loss = loss.isel(sigma_w=nearest(run.inverse_sigma_w, 8), drop=True)
        found.append(loss.assign_coords(step=[0], batch=size))
    return xr.Dataset({"loss": xr.concat(found, "batch", join="outer", coords="minimal", compat="override")})


def batch_dependence(batches: int | None = None) -> Statistic:
    """Decades between the lowest and the highest temperature of the loss's rise of all batch sizes, or of the smallest."""

    def dependence(x: Averages) -> xr.DataArray:
        # Each has temperatures of its own, and none at those of another.
        own = [x.sel(batch=size).dropna("temperature", how="all") for size in x.batch.values[:batches]]
        at = xr.concat([rise("loss")(of) for of in own], "batch", coords="minimal", compat="override")
        return at.max("batch", skipna=False) - at.min("batch", skipna=False)

    return dependence


# Runs in which it is otherwise.


def opposite(name: str) -> Null:
    """A variable with its sign changed."""

    def change(run: xr.Dataset) -> xr.Dataset:
        kept = f"negative_{name}"
        changed = {kept: ~run[kept].astype(bool)} if kept in run else {name: -run[name]}
        return run.assign(changed)

    return Null(f"the sign of {name} changed", change)


def _wider(run: xr.Dataset) -> xr.Dataset:
    return run.assign({name: 4 * run[name] for name in ("eigenvalues", "level_spacing") if name in run})


wider = Null("weights twice as large", _wider)


def _hot_converged(run: xr.Dataset) -> xr.Dataset:
    if "converged" not in run:
        readings = [converged(run, str(reading)) for reading in run.reading.values]
        run = run.assign(converged=xr.concat(readings, run.reading).transpose(..., "reading"))
    return along(run, "temperature", np.arange(run.sizes["temperature"])[::-1])


hot_converged = Null("which students converged, mirrored along temperature", _hot_converged)


def _constant(run: xr.Dataset) -> xr.Dataset:
    cold = run.temperature < 4
    like = run.diverged_step.expand_dims(reading=run.reading)
    return run.assign(converged=(cold & (like < np.inf)).transpose(*run.diverged_step.dims, "reading"))


constant_line = Null("a constant line: all students converged below T = 4, none above", _constant)


def _by_rate(run: xr.Dataset) -> xr.Dataset:
    return run.assign_coords(temperature=run.temperature * settings(run)["sgd"]["batch_size"])


by_rate = Null("positive control: learning rates in the place of temperatures", _by_rate)
