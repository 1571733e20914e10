"""log10 of the test loss against T / T_0, and its variance: of students of one teacher, and between teachers."""

import numpy as np
import xarray as xr

from phasejax.analysis.run import members, settings
from phasejax.analysis.stability import relative, stability_edge
from phasejax.analysis.statistics import log10, sound

RATIOS = tuple(np.exp2(np.arange(0, 9) / 2))
"""T / T_0 in halves of an octave, 1 to 16, which all teachers have of nearly all sizes."""


def by_size(tree: xr.DataTree) -> dict[int, xr.Dataset]:
    """The runs by n_2, the number of nodes of the trained layer, ascending."""
    return dict(sorted((settings(run)["network"]["widths"][2], run) for run in members(tree).values()))


def losses(run: xr.Dataset) -> xr.DataArray:
    """log10 of the test loss at each record, (step, temperature, seed)."""
    return log10(sound(run, run.test_loss))


def rescaled(run: xr.Dataset, ratios: tuple[float, ...] = RATIOS) -> xr.DataArray:
    """The same against T / T_0, each teacher's own: (step, relative_temperature, seed)."""
    return relative(losses(run), stability_edge(run), ratios)


def parts(values: xr.DataArray) -> xr.Dataset:
    """What the two variances are made of by means over seeds: (..., seed) each.

    `connected`, the square of the deviation from the mean of the teacher's students, unbiased; `of_teacher`, that mean, and
    `square`, its square without what the students' own variance adds to it. So

        connected = <connected>                  of students of one teacher: draw and order of the batches
        disconnected = <square> - <of_teacher>^2 between teachers: quenched
    """
    teacher = values.teacher
    groups = values.groupby("teacher")
    count = groups.count("seed").sel(teacher=teacher)
    of_teacher = groups.mean("seed").sel(teacher=teacher).where(count > 1)
    connected = (values - of_teacher) ** 2 * count / (count - 1)
    own = (connected.groupby("teacher").mean("seed").sel(teacher=teacher)) / count
    found = xr.Dataset({"connected": connected, "of_teacher": of_teacher, "square": of_teacher**2 - own})
    return found.where(values.notnull())


def disconnected(means: xr.Dataset) -> xr.DataArray:
    """The variance between teachers, from means over seeds of `parts`."""
    return means.square - means.of_teacher**2
