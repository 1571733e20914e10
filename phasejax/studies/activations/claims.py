"""What is said of it.

Every interval was set before the first run at the desk's length, which had no T above 2 and told of relu and gelu where
`jamming_unbounded` judges them now, by the interval of the identity.
"""

import functools

import numpy as np
import xarray as xr

from phasejax.analysis.run import member, require
from phasejax.claims.judging import Averages, Claim, Measure, Statistic, Take
from phasejax.claims.nulls import Null, all_as
from phasejax.studies.activations.lines import (
    STUCK,
    along_disorder,
    critical_temperature,
    edge,
    jamming_line,
    remaining,
)
from phasejax.studies.stability.claims import other_teacher

OTHERS = ("erf", "relu", "gelu", "identity", "all_layers")


def _run(tree: xr.DataTree, name: str) -> xr.Dataset:
    run = member(tree, name)
    require(run, "test_loss", "teacher_sharpness", "teacher_noise_sharpness", "sigma_w", "temperature")
    return run


@functools.cache
def boundary(name: str) -> Take:
    """log2 of T_c and T_0 of every teacher that has both, and what correlations need."""

    def samples(tree: xr.DataTree) -> xr.Dataset:
        run = _run(tree, name)
        y = critical_temperature(remaining(run))
        x = edge(run).where(y.notnull())
        found = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y, "octaves": y - x}
        return xr.Dataset(found).expand_dims(step=[int(run.step[-1])])

    return samples


@functools.cache
def disorder(*names: str) -> Take:
    """What is left along sigma_W of each of several members."""

    def samples(tree: xr.DataTree) -> xr.Dataset:
        found = {}
        for name in names:
            run = _run(tree, name)
            found[name] = along_disorder(run, remaining(run))
        return xr.Dataset(found).expand_dims(step=[int(run.step[-1])])

    return samples


def mean(name: str) -> Statistic:
    """A mean."""
    return lambda x: x[name]


def correlation(x: Averages) -> xr.DataArray:
    """Of log T_c and log T_0 between teachers."""
    return (x.xy - x.x * x.y) / np.sqrt((x.xx - x.x**2) * (x.yy - x.y**2))


def line(name: str) -> Statistic:
    """log2 of the jamming line's sigma_W."""
    return lambda x: jamming_line(x[name])


def left(name: str) -> Statistic:
    """log10 of the share of the teacher's variance that is left at the largest sigma_W."""
    return lambda x: x[name].isel(sigma_w=int(x.sigma_w.values.argmax()), drop=True)


def _saturated(run: xr.Dataset) -> xr.Dataset:
    left = run.test_loss
    stuck = left.sel(step=0).isel(sigma_w=int(run.sigma_w.values.argmin()))
    return run.assign(test_loss=left.where(run.sigma_w < 4, stuck).transpose(*left.dims))


saturated = Null("positive control: nothing is learnt from sigma_W = 4 on", _saturated)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "linear", "Without hidden nodes' curvature learning ends where its teacher loses stability", expected="T_c = T_0",
        measures=(Measure("octaves from T_0 to T_c, identity", boundary("identity"), mean("octaves"), -0.5, 0.5),),
        null=all_as("tanh"), over="study",
    ),
    Claim(
        "beyond", "Saturating nodes carry learning beyond it, by octaves", expected="T_c > 2 T_0",
        measures=tuple(Measure(f"octaves from T_0 to T_c, {name}", boundary(name), mean("octaves"), low=1.0)
                       for name in ("tanh", "erf")),
        null=all_as("identity"), over="study",
    ),
    Claim(
        "unbounded", "... and nodes without bounds do not", expected="T_c within an octave of T_0",
        measures=tuple(Measure(f"octaves from T_0 to T_c, {name}", boundary(name), mean("octaves"), -1.0, 1.0)
                       for name in ("relu", "gelu")),
        null=all_as("tanh"), over="study",
    ),
    Claim(
        "teachers", "T_0 tells teachers apart, whatever their nodes",
        expected="correlation of log T_c and log T_0 above 1/2",
        measures=tuple(Measure(f"correlation, {name}", boundary(name), correlation, low=0.5)
                       for name in ("tanh", *OTHERS)),
        null=other_teacher, over="study",
    ),
    Claim(
        "jamming", "Nodes that saturate have a jamming line, and a linear network has none",
        expected="tanh and erf have one on the grid, the identity learns at the largest sigma_W",
        measures=(
            *(Measure(f"log2 of sigma_W, {name}", disorder(name), line(name), 0.0, 6.0) for name in ("tanh", "erf")),
            Measure("log10 of the share left at the largest sigma_W, identity", disorder("identity"), left("identity"),
                    high=STUCK),
        ),
        null=saturated, over="study",
    ),
    Claim(
        "jamming_unbounded", "... and nodes without bounds have none either", expected="they learn at the largest sigma_W",
        measures=(
            *(Measure(f"log10 of the share left at the largest sigma_W, {name}", disorder(name), left(name), high=STUCK)
              for name in ("relu", "gelu")),
            *(Measure(f"log2 of sigma_W, {name}", disorder(name), line(name)) for name in ("relu", "gelu", "all_layers")),
        ),
        null=saturated, over="study",
    ),
)  # fmt: skip
