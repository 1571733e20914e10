"""From the students of a run to what is drawn: which students, and which statistic over the seeds."""

import warnings
from typing import Literal

import numpy as np
import xarray as xr

Statistic = Literal["mean", "median"]
"""`mean` with its standard error, or `median` with the range from 16 to 84 %."""


def sound(dataset: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    """`values` (step, ..., seed) of the students that are finite and have not diverged by then; NaN for the others."""
    # Statistics of large float32 numbers overflow before the numbers do.
    found = values.where(np.isfinite(values)).astype(float)
    return found.where(dataset.diverged_step.sel(step=values.step) < 0)


def final(dataset: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    """`values` at the last record, of sound students: (axis, sigma_w, seed)."""
    return sound(dataset, values.isel(step=-1))


def summary(values: xr.DataArray, statistic: Statistic) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Centre, lower and upper end of `values` over the seeds that are not NaN."""
    if statistic == "mean":
        centre = values.mean("seed")
        # One seed has no error that could be told.
        error = values.std("seed", ddof=1) / np.sqrt(values.count("seed")) if values.sizes["seed"] > 1 else 0 * centre
        return centre, centre - error, centre + error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, centre, high = (values.quantile(q, "seed").drop_vars("quantile") for q in (0.16, 0.5, 0.84))
    return centre, low, high


def left_out(*values: xr.DataArray) -> str:
    """How many students, of those in `values` (..., seed), have no finite number in all of them, as words; empty if none."""
    missing = xr.zeros_like(values[0], dtype=bool)
    for array in values:
        missing = missing | array.isnull()
    count = int(missing.sum())
    return f"{count:,} of {missing.size:,} not finite" if count else ""


def nearest(values: xr.DataArray | np.ndarray, wanted: float) -> int:
    """Index of the value nearest to `wanted` on a logarithmic axis."""
    return int(np.argmin(np.abs(np.log(np.asarray(values) / wanted))))
