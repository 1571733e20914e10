"""What a pilot says: the temperature boundary of each column, the best cell, the jamming boundary, or that it is not known.

    y = min(log10 loss, log10 of a constant output's loss), which is also the y of a student that is not finite
    contrast c = hot - min y, hot the mean of y at the two hottest temperatures
    T_c = the first upward crossing of min y + 0.4 c above the T of min y, interpolated in log2 T, where c > 0.65

of means over seeds. After the whole training the boundary lies at half of the contrast, which is larger then: cold students
still learn while hot ones are done, and where half of it will be there is less than half of it now. 0.4 and 0.65 decades put
T_c best on the networks of development (docs/advice.md). Where the optimizer defines no temperature the same is read along
the learning rate.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from phasejax.analysis.run import grid_axis, require
from phasejax.analysis.statistics import crossings, log2, log10

NEEDED = ("test_loss", "constant_loss", "diverged_step")
"""What a pilot records."""
LEVEL, JAMMING_LEVEL = 0.4, 0.5
"""Shares of the contrast above the least y at which the boundaries are read, in temperature and in sigma_w."""
CONTRAST = 0.65
"""Decades between the best and the hot loss below which no boundary is reported."""
TIED = 0.05
"""Decades within which a cell at the next lower temperature is as good as the best, and taken in its place: above the best
there may be a cliff, and cliffs move down."""
LEARNED = 0.1
"""Decades below a constant output's loss from which on something was learned."""
PLATEAU, FLAT = 0.25, 0.1
"""The hot plateau is reached where y rises from the second hottest temperature to the hottest by at most this share of the
contrast, or by so many decades."""
SPREAD = 0.8
"""Octaves by which T_c of a pilot and of the whole training differ between networks, beside what seeds explain: with so many
intervals cover nine in ten on the first twelve networks that the rules were not made on, where 0.6 had covered eight."""
CONFIDENCE = 0.9
"""Of intervals."""
FLOOR = 1e-30
"""What is smaller counts as this in a logarithm."""

BEST_FALLS, BOUNDARY_FALLS = 0.4, 0.2
"""Powers of the steps with which the best learning rate and the boundary fall where updates do not vanish with gradients."""

Kind = Literal["boundary", "divergence", "none", "no plateau", "nothing learned"]
"""What a column has: a boundary, one above which training diverges, none in this range, one that is not known because the
hot plateau was not reached, or nothing that was learned yet."""


class Cell(NamedTuple):
    """A cell of the grid."""

    rate: float
    """Its temperature, or its learning rate where that is the grid's axis."""
    sigma_w: float
    y: float
    """Mean over seeds."""


class Reading(NamedTuple):
    """What a pilot says."""

    rate: str
    """Name of the axis along which the learning rate grows."""
    y: xr.DataArray
    """(rate, sigma_w), both ascending: mean over seeds."""
    columns: xr.Dataset
    """Over sigma_w: `contrast` in decades, `T_c` (NaN where none is reported) between `low` and `high`, its `error` by the
    jackknife in octaves, and `kind`."""
    best: Cell
    """That of the lowest y, or one as good at the next lower temperature; carried on to the whole training."""
    found: float
    """The temperature, or learning rate, that it has in the pilot."""
    jamming: xr.Dataset
    """At the best cell's temperature: `contrast`, `sigma_c` between `low` and `high`."""
    gain: float
    """Decades by which the best cell is better than a constant output."""

    @property
    def learned(self) -> bool:
        """Whether anything was learned."""
        return self.gain > LEARNED


def scores(run: xr.Dataset, record: int = -1) -> xr.DataArray:
    """y of every student at a record, (rate, sigma_w, seed), axes ascending; sigma_w is an axis even if there is one.

    Raises:
        RunError: the run lacks what it needs.
    """
    require(run, *NEEDED)
    found = run.isel(step=record)
    cap = _floored(found.constant_loss)
    loss = _floored(found.test_loss)
    y = loss.where((loss < cap) & (found.diverged_step < 0), cap)
    return _plane(run, y).rename("y")


def boundary(y: xr.DataArray, along: str, level: float = 0.5) -> xr.Dataset:
    """Where y rises from its least value towards that at the end of an axis, for the first time from there on.

    Args:
        y: with the axis `along`, ascending and of three values or more, and any others.
        along: the axis, whose two last values are the plateau.
        level: share of the contrast above the least y at which it rises.

    Returns:
        Without that axis: `contrast`, `at` (NaN without a crossing), and `slope`, the last value less the one before.
    """
    last = y.isel({along: slice(-2, None)})
    hot, least = last.mean(along), y.min(along)
    every = crossings(y, least + level * (hot - least), along, rising=True)
    place = y[along].isel({along: y.argmin(along)}).drop_vars(along)
    at = every.where(every >= place).min("crossing")
    return xr.Dataset({"contrast": hot - least, "at": at, "slope": last.diff(along).isel({along: 0}, drop=True)})


def with_interval(y: xr.DataArray, along: str, level: float) -> xr.Dataset:
    """`boundary` of the mean over seeds, with its interval.

    Args:
        y: as `boundary` takes it, and (..., seed).
        along: the axis.
        level: as `boundary` takes it.

    Returns:
        As well: `error` in octaves, by the jackknife over seeds, infinite where only some of the seeds have a crossing or
        there is one seed, and `low` and `high`, at sqrt((t error)^2 + SPREAD^2) octaves from the crossing.
    """
    found, seeds = boundary(y.mean("seed"), along, level), y.sizes["seed"]
    if seeds > 1:
        without = [boundary(y.isel(seed=np.arange(seeds) != k).mean("seed"), along, level)["at"] for k in range(seeds)]
        left = log2(xr.concat(without, "without"))
        error = ((seeds - 1) * left.var("without", skipna=False)).fillna(np.inf) ** 0.5
        width = np.hypot(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2) * error, SPREAD)
    else:
        error = width = xr.full_like(found["at"], np.inf)
    return found.assign(error=error, low=found["at"] * 2**-width, high=found["at"] * 2**width)


def read(run: xr.Dataset, decades: float | None = None) -> Reading:
    """What a pilot says.

    Args:
        run: of temperature (or learning_rate), three values or more, and sigma_w, at its last record; with `test_loss`,
            `constant_loss` and `diverged_step`.
        decades: of steps by which the whole training is longer, where the optimizer's updates do not vanish with gradients
            (`phasejax.advice.pilot.normalises`); else None. Boundary and best learning rate are then put lower, and the
            noise grows with the learning rate without a plateau.

    Raises:
        RunError: it lacks one of them.
    """
    y, rate = scores(run), grid_axis(run)
    mean = y.mean("seed")
    cell = _best(mean, rate)
    gain = float(_floored(run.constant_loss).mean("seed")) - cell.y
    found = with_interval(y, rate, LEVEL)
    columns = found.rename({"at": "T_c"}).assign(
        kind=_kinds(run, found, gain + cell.y - mean.min(rate), decades is not None)
    )
    reported = columns.kind.isin(["boundary", "divergence"])
    lower = 10 ** (-BOUNDARY_FALLS * (decades or 0))
    columns[["T_c", "low", "high"]] = columns[["T_c", "low", "high"]].where(reported) * lower
    jamming = xr.Dataset({name: xr.DataArray(math.nan) for name in ("contrast", "sigma_c", "low", "high")})
    if mean.sizes["sigma_w"] > 2:
        found = with_interval(y.sel({rate: cell.rate}), "sigma_w", JAMMING_LEVEL).rename({"at": "sigma_c"})
        seen = (found.contrast > CONTRAST) & (gain > LEARNED)
        jamming = found.assign({name: found[name].where(seen) for name in ("sigma_c", "low", "high")})
    best = cell._replace(rate=cell.rate * 10 ** (-BEST_FALLS * (decades or 0)))
    return Reading(rate, mean, columns.drop_vars("slope"), best, cell.rate, jamming, gain)


def _floored(loss: xr.DataArray) -> xr.DataArray:
    return log10(loss.astype(float).clip(min=FLOOR))


def _best(mean: xr.DataArray, rate: str) -> Cell:
    rows = mean.min("sigma_w").values
    row = int(rows.argmin())
    row -= row > 0 and rows[row - 1] <= rows[row] + TIED
    found = mean.isel({rate: row}).isel(sigma_w=int(mean.isel({rate: row}).argmin("sigma_w")))
    return Cell(float(found[rate]), float(found.sigma_w), float(found))


def plateau(columns: xr.Dataset) -> xr.DataArray:
    """Whether the hot plateau is reached, (sigma_w,) of bool."""
    return (columns.slope <= PLATEAU * columns.contrast) | (columns.slope <= FLAT)


def budget_needed(run: xr.Dataset) -> float:
    """By what factor a pilot that has learned nothing should be longer, 2 to 100: when it will have gained a decade.

    From how fast the best cell's gain grew as a power of the steps over the last factor of four; NaN where it did not.
    """
    steps, last = run.step.values, float(run.step[-1])
    earlier = int(np.abs(np.log(np.maximum(steps, 0.5) / (last / 4))).argmin())
    cap = float(_floored(run.constant_loss).mean("seed"))
    then, now = (cap - float(scores(run, record).mean("seed").min()) for record in (earlier, -1))
    if not (now > 0.02 and now > then > 0) or steps[earlier] <= 0 or steps[earlier] == last:
        return math.nan
    power = math.log(now / then) / math.log(last / steps[earlier])
    return float(np.clip((1 / now) ** (1 / power), 2, 100))


def _plane(run: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    rate = grid_axis(run)
    values = values if "sigma_w" in values.dims else values.expand_dims("sigma_w")
    return values.transpose(rate, "sigma_w", "seed").sortby([rate, "sigma_w"]).reset_coords(drop=True)


def _kinds(run: xr.Dataset, columns: xr.Dataset, gains: xr.DataArray, rising: bool) -> xr.DataArray:
    """What each column has: `gains` are decades by which its best cell is better than a constant output."""
    rate = grid_axis(run)
    lost = _plane(run, ~np.isfinite(run.test_loss.isel(step=-1)) | (run.diverged_step.isel(step=-1) >= 0)).mean("seed")
    words = []
    for k in range(columns.sizes["sigma_w"]):
        here = columns.isel(sigma_w=k)
        if gains[k] <= LEARNED:
            words.append("nothing learned")
        elif not (here.contrast > CONTRAST and np.isfinite(here["at"])):
            words.append("none")
        elif not (rising or plateau(here)):
            words.append("no plateau")
        else:
            above = int(np.searchsorted(lost[rate].values, float(here["at"])))
            words.append("divergence" if lost[above, k] >= 0.5 else "boundary")
    return xr.DataArray(words, dims="sigma_w", coords={"sigma_w": columns.sigma_w})
