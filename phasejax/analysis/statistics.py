"""From the students of a run to numbers with errors: which students count, statistics over seeds, bootstrap, and crossings.

There is one of each, for figures and claims alike. Students of one seed share teacher, data and initial draw, so cells are
correlated, and every error is over seeds; replicas share teacher and data, and are drawn together.
"""

from collections.abc import Sequence
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


def log10(x: xr.DataArray) -> xr.DataArray:
    """Of every element."""
    return xr.apply_ufunc(np.log10, x)


def log2(x: xr.DataArray) -> xr.DataArray:
    """Of every element, in octaves."""
    return xr.apply_ufunc(np.log2, x)


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
    across = values.transpose(..., "seed")
    low, centre, high = (across.isel(seed=0, drop=True).copy(data=of) for of in quantiles(across.values, (0.16, 0.5, 0.84)))
    return centre, low, high


def quantiles(values: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
    """Quantiles along the last axis of what is not NaN, an array a share: numpy's nanquantile, much faster."""
    ordered = np.sort(values, -1)
    last = np.isfinite(ordered).sum(-1, keepdims=True) - 1
    found = []
    for share in shares:
        place = share * np.maximum(last, 0)
        below = np.floor(place).astype(int)
        low, high = (np.take_along_axis(ordered, k, -1) for k in (below, np.minimum(below + 1, np.maximum(last, 0))))
        part = place - below
        found.append(np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))[..., 0])
    return found


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


def draw(dataset: xr.Dataset | xr.DataArray) -> np.ndarray:
    """Which draw each seed is of, 0, 1, ...: (seed,). Seeds with one teacher are one draw."""
    teachers = dataset["teacher"].values if "teacher" in dataset.coords else np.arange(dataset.sizes["seed"])
    return np.unique(teachers, return_inverse=True)[1]


def independent(dataset: xr.Dataset | xr.DataArray) -> int:
    """How many seeds were drawn independently."""
    return int(draw(dataset).max(initial=-1)) + 1


def bootstrap(dataset: xr.Dataset | xr.DataArray, resamples: int) -> xr.DataArray:
    """Weights (resample, seed) of a bootstrap over seeds, the same for every cell and record.

    Resample 0 is the ensemble as it is. Seeds with one teacher count as one draw.
    """
    groups, of_seed = independent(dataset), draw(dataset)
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), resamples)[:, of_seed]
    weights = np.vstack([np.ones(len(of_seed)), draws])
    return xr.DataArray(weights, dims=("resample", "seed"))


def crossings(values: xr.DataArray, level: xr.DataArray | float, along: str, rising: bool = False) -> xr.DataArray:
    """Where values cross a level along an axis, interpolated in its logarithm.

    Args:
        values: with the axis `along`, and any others.
        level: the level.
        along: name of the axis.
        rising: count crossings from below only.

    Returns:
        `values` with a dimension `crossing` in place of the axis, one for each of its intervals, ascending: the place of the
        crossing, or NaN where there is none.
    """
    above = (values - level).sortby(along).transpose(..., along)
    log_x, y = np.log(above[along].values), above.values
    y0, y1 = y[..., :-1], y[..., 1:]
    crossed = (y0 < 0) & (y1 >= 0) if rising else (y0 >= 0) != (y1 >= 0)
    at = log_x[:-1] + y0 / np.where(crossed, y0 - y1, np.nan) * np.diff(log_x)
    dims = (*above.dims[:-1], "crossing")
    coords = {name: of for name, of in above.coords.items() if along not in of.dims}
    return xr.DataArray(np.exp(at), coords, dims)
