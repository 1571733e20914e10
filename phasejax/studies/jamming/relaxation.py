"""Relaxation times of a run and their exponents; a run in, arrays out.

Times are eps t, learning rate times steps: what gradient flow has for time.
"""

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from phasejax.analysis.spectrum import memory
from phasejax.analysis.statistics import crossings, log10, nearest, sound
from phasejax.claims.judging import slope_of

TEMPERATURE, DISORDER = 2**-3, 16.0
"""T and sigma_W of the slice and the cell that are looked at alone."""
SATURATED = 16.0
"""Exponents are over the sigma_W from here up: below it students are partly lazy."""


class Clock(NamedTuple):
    """What has relaxed when a variable of `series`, averaged over seeds, has fallen to a level."""

    variable: str
    level: float
    words: str

    def time(self, means: xr.Dataset | xr.DataArray, record: str = "step") -> xr.DataArray:
        """log10 of eps t*, interpolated in log t; NaN where it is not reached.

        Args:
            means: of `series`, or of the variable, with records along `record`, whose coordinate is the step.
            record: name of that axis.
        """
        falls = means[self.variable] if isinstance(means, xr.Dataset) else means
        after = falls.isel({record: np.flatnonzero(falls[record].values > 0)})
        return log10(crossings(after, self.level, record).min("crossing") * falls.learning_rate)


CLOCKS = {
    "half": Clock("loss", math.log10(0.5), "the loss is half of its start"),
    "tenth": Clock("loss", -1.0, "the loss is a tenth of its start"),
    "memory": Clock("C", 0.95, "C(t, 0) = 0.95"),
    "norm": Clock("norm", math.log10(0.9), "tr X is nine tenths of its start"),
}


def series(run: xr.Dataset) -> xr.Dataset:
    """What falls: memory `C`, and log10 of the test `loss` and of the `norm` tr X over their starts; (step, ..., seed)."""

    def fallen(values: xr.DataArray) -> xr.DataArray:
        return log10(values / values.sel(step=0, drop=True))

    norm = run.eigenvalues.sum("level", skipna=False)
    return xr.Dataset({"C": sound(run, memory(run)), "loss": fallen(sound(run, run.test_loss)),
                       "norm": fallen(sound(run, norm))})  # fmt: skip


def exponent(log_times: xr.DataArray, axis: str) -> xr.DataArray:
    """d log t* / d log axis by least squares, over the cells where t* is known; NaN where fewer than three are."""
    slope = slope_of(log_times, log10(log_times[axis]), axis)
    return slope.where(log_times.notnull().sum(axis) > 2)


def saturated(log_times: xr.DataArray) -> xr.DataArray:
    """Those of saturated nodes."""
    return log_times.isel(sigma_w=np.flatnonzero(log_times.sigma_w >= SATURATED))


def bend(log_times: xr.DataArray, axis: str) -> xr.DataArray:
    """The exponent over the three largest of the axis at which t* is known less that over the three smallest.

    About 0 for a power law; it grows without bound before a place at which t* diverges. NaN where fewer than five are known.
    """
    log_times = log_times.sortby(axis)
    rank = log_times.notnull().cumsum(axis).where(log_times.notnull())
    known = rank.max(axis)
    ends = exponent(log_times.where(rank > known - 3), axis) - exponent(log_times.where(rank <= 3), axis)
    return ends.where(known > 4)


def correlation(run: xr.Dataset) -> xr.DataArray:
    """C(t, t_w), the cosine of a student's kept features at two records: (waited, step, ..., seed); NaN for t < t_w."""
    phi = sound(run, run.kept_features)
    waited = phi.rename(step="waited")
    product: xr.DataArray = xr.dot(waited, phi, dim=("kept", "hidden"))
    norm = np.sqrt(xr.dot(phi, phi, dim=("kept", "hidden")))
    return (product / (norm * norm.rename(step="waited"))).where(phi.step >= waited.waited)


YOUNG = 50.0
"""eps t_w behind the turning of the nodes, in the cell that is looked at."""
AGED = 0.95
"""C(t_w + tau, t_w) at which tau is read off: within reach of many t_w."""


def ageing_time(means: xr.DataArray) -> xr.DataArray:
    """log10 of the tau, in steps, at which C(t_w + tau, t_w) has fallen to `AGED`: (waited, ...); NaN where it does not.

    Args:
        means: C(t, t_w) averaged over seeds, (waited, step, ...).
    """
    found: list[xr.DataArray] = []
    for waited in means.waited.values[means.waited.values > 0]:
        later = means.sel(waited=waited).isel(step=np.flatnonzero(means.step.values > waited))
        if later.sizes["step"] < 2:
            continue
        since = later.assign_coords(step=later.step - waited)
        found.append(log10(crossings(since, AGED, "step").min("crossing")))
    return xr.concat(found, "waited", coords="minimal", compat="override")


def ageing_exponent(means: xr.DataArray) -> xr.DataArray:
    """mu of tau ~ t_w^mu over waiting times from eps t_w = 50 to a tenth of the run.

    1 is simple ageing, C a function of t/t_w; 0 is stationary.

    Args:
        means: C(t, t_w) averaged over seeds, (waited, step, ...), with `learning_rate`.
    """
    ages, last = ageing_time(means), float(means.step[-1])
    chosen = (ages.waited * float(means.learning_rate) >= YOUNG) & (ages.waited <= last / 10)
    return exponent(ages.isel(waited=np.flatnonzero(chosen)), "waited")


def at_temperature(values: xr.Dataset) -> xr.Dataset:
    """The slice at the temperature that is looked at alone; the only one where there is one."""
    return values.isel(temperature=nearest(values.temperature, TEMPERATURE))


def cell(values: xr.Dataset) -> xr.Dataset:
    """The cell that is looked at alone."""
    return at_temperature(values).isel(sigma_w=nearest(values.sigma_w, DISORDER))
