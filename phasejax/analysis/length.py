"""What of the phase diagram moves with training: its lines and its best cell, at every record of a run."""

import numpy as np
import xarray as xr

from phasejax.analysis import boundaries
from phasejax.analysis.statistics import bootstrap, crossings, log10, nearest, sound

SLICE_INVERSE_SIGMA, SLICE_TEMPERATURE = 8.0, 2.0**-3
"""Where T_c and the jamming lines are looked for, or in the nearest row and column there are."""
CONFIDENCE = 0.68


def against_training(
    dataset: xr.Dataset, reading: str = "drift", criterion: bool = True, resamples: int = 300
) -> xr.Dataset:
    """The lines of the diagram and its best cell at each record.

    Args:
        dataset: a run, or a reference, over temperature and sigma_w.
        reading: of the convergence criterion.
        criterion: whether the run has one.
        resamples: of the bootstrap over seeds.

    Returns:
        Over (bound, step), with `bound` one of centre, low and high, the ends of the interval of 68 % of a bootstrap over
        seeds, NaN where there is none:
        `T_c`, the highest T at which the share of converged students crosses 68 %, at 1/sigma_W = 8 (Eq 4.15);
        three lines at T = 2^-3, each the first 1/sigma_W, going up from the jammed end, at which something is crossed:
        `memory_line`, where the mean G(t,0) is one half; `halfway_line`, where the logarithm of the mean test loss is
        halfway between its lowest and its highest; `learnt_line`, where the mean test loss is a tenth of that at the start;
        `lowest_loss`, the lowest mean test loss of any cell, `lowest_T` and `lowest_inverse_sigma_w`, which cell it is.
        The lowest of many noisy means is low: by as much, about, as the centre of its replicates lies below it again.
    """
    weights = bootstrap(dataset, resamples)
    trained = dataset.isel(step=np.flatnonzero(dataset.step > 0))
    column = trained.isel(sigma_w=nearest(trained.inverse_sigma_w, SLICE_INVERSE_SIGMA))
    row = dataset.isel(temperature=nearest(dataset.temperature, SLICE_TEMPERATURE)).swap_dims(sigma_w="inverse_sigma_w")
    found = {}
    if criterion:
        shares = boundaries.converged(column, reading).astype(float).weighted(weights).mean("seed")
        found["T_c"] = crossings(shares, boundaries.SIGMAS[0], "temperature").max("crossing")
    remembered = sound(row, row.G_t0).weighted(weights).mean("seed")
    losses = log10(sound(row, row.test_loss).weighted(weights).mean("seed"))
    ends = losses.min("inverse_sigma_w"), losses.max("inverse_sigma_w")
    lines = {"memory": remembered - 0.5, "halfway": losses - sum(ends) / 2, "learnt": losses - losses.sel(step=0) + 1}
    for name, above in lines.items():
        found[f"{name}_line"] = crossings(above.sel(step=trained.step), 0.0, "inverse_sigma_w").min("crossing")
    losses = sound(trained, trained.test_loss).weighted(weights).mean("seed")
    flat = losses.stack(cell=("temperature", "sigma_w"))
    best = flat.fillna(np.inf).argmin("cell")
    found["lowest_loss"] = flat.min("cell")
    found["lowest_T"], found["lowest_inverse_sigma_w"] = (
        xr.DataArray(flat[name].values[best], coords=best.coords, dims=best.dims)
        for name in ("temperature", "inverse_sigma_w")
    )
    return xr.Dataset({name: _bounds(values.drop_vars(["temperature", "sigma_w"], errors="ignore"))
                       for name, values in found.items()})  # fmt: skip


def _bounds(replicates: xr.DataArray) -> xr.DataArray:
    """Value and interval of replicates (resample, ...), whose first is the ensemble itself."""
    centre, others = replicates.isel(resample=0), replicates.isel(resample=slice(1, None))
    enough = (others.notnull().mean("resample") > 0.5) & centre.notnull()
    filled = others.where(enough, 0.0)  # no quantile of nothing
    low, high = (filled.quantile((1 + sign * CONFIDENCE) / 2, "resample").drop_vars("quantile").where(enough)
                 for sign in (-1, 1))  # fmt: skip
    return xr.concat(
        [centre, low, high], xr.Variable("bound", ["centre", "low", "high"]), coords="minimal", compat="override"
    )
