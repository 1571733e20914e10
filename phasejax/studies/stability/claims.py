"""What is said of the stability of solutions, each with the intervals that were set before the runs were looked at.

A quarter of an octave is how well s = 2 knows the edge (the second-moment map of a teacher, in the tests); a slope of one
within a quarter is what no parameter fitted means.
"""

import numpy as np
import xarray as xr

from phasejax.analysis.run import member
from phasejax.analysis.stability import relative, stability_edge
from phasejax.analysis.statistics import draw, log10, sound
from phasejax.claims.judging import Averages, Claim, Measure, Take
from phasejax.claims.nulls import Null, at_start
from phasejax.studies.stability.numbers import edges, ways

_ABOVE = (2.0, 4.0)


def _other_teacher(run: xr.Dataset) -> xr.Dataset:
    whose = draw(run)
    first = np.unique(whose, return_index=True)[1]
    names = ("teacher_sharpness", "teacher_noise_sharpness")
    return run.assign({name: run[name].copy(data=run[name].values[np.roll(first, 1)[whose]]) for name in names})


other_teacher = Null("every teacher has the T_0 of another one", _other_teacher)


def pairs(name: str, of: str = "T_0") -> Take:
    """Sums that the line of one temperature against another is made of, both in octaves."""

    def take(tree: xr.DataTree) -> xr.Dataset:
        found = edges(tree)
        y = found[name]
        x = found[of].where(y.notnull())
        return xr.Dataset({"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y})

    return take


def slope(a: Averages) -> xr.DataArray:
    """Of y against x, least squares."""
    return (a.xy - a.x * a.y) / (a.xx - a.x**2)


def explained(a: Averages) -> xr.DataArray:
    """Share of the variance of y between seeds that x explains."""
    return (a.xy - a.x * a.y) ** 2 / ((a.xx - a.x**2) * (a.yy - a.y**2))


def offset(a: Averages) -> xr.DataArray:
    """Mean of y - x."""
    return a.y - a.x


def _line(name: str, words: str, of: str = "T_0", low: float = -0.25, high: float = 0.25) -> tuple[Measure, ...]:
    take = pairs(name, of)
    return (
        Measure(f"octaves from T_0 to {words}", take, offset, low, high),
        Measure(f"slope of its logarithm against that of T_0 ({words})", take, slope, 0.75, 1.25),
        Measure(f"share of its variance between teachers that T_0 explains ({words})", take, explained),
    )


def _differences(way: str, within: float) -> tuple[Measure, ...]:
    """Decades by which the loss of students that come another way is higher than that of those from the teacher."""

    def difference(k: int) -> Take:
        def take(tree: xr.DataTree) -> xr.Dataset:
            found = ways(tree, _ABOVE).isel(relative_temperature=k, drop=True)
            return xr.Dataset({"difference": found[way] - found.heated})

        return take

    return tuple(
        Measure(
            f"decades of loss, {way} - heated, at T = {ratio:g} T_0", difference(k), lambda a: a.difference, -within, within
        )
        for k, ratio in enumerate(_ABOVE)
    )


def _felt(name: str, ratio: float, of: str = "") -> Take:
    def take(tree: xr.DataTree) -> xr.Dataset:
        run = member(tree, "heated")
        values = sound(run, run[name])
        values = values / run[of] if of else values / 2
        drawn = relative(log10(values.where(values > 0)), stability_edge(run), (ratio,))
        return xr.Dataset({"felt": drawn.isel(relative_temperature=0, drop=True)})

    return take


def _felt_mean(a: Averages) -> xr.DataArray:
    return a.felt


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "lost_at_the_edge", "Every teacher's solution loses stability at its own T_0", "s = 2 at the teacher",
        "T = T_0, within a quarter of an octave", None, _line("lost", "the loss of the solution"), null=other_teacher,
        over="study",
    ),
    Claim(
        "control", "Where nothing is flatter, nothing carries learning on: with the identity for an activation all is lost",
        "H is the same everywhere", "students diverge where their solution is lost, at T_0", None,
        (
            Measure("octaves from the loss of the solution to divergence, identity",
                    pairs("diverged identity", "lost identity"), offset, -0.25, 0.25),
            *_line("lost identity", "the loss of the solution, identity", "T_0 identity", 0.0, 1.0),
        ),
        "s = 2 is of the mean square; typical students are lost above it, the more so the fewer directions the noise has: "
        "in one, Gaussian, by an octave at B = 4 (in the tests); here in three", afterwards=True, null=other_teacher,
        over="study",
    ),
    *(Claim(
        f"transition_{way}", f"Learning goes on to a T_c in proportion to T_0, more than an octave above it ({words})",
        "T_0 at the teacher", "slope 1 of the logarithms", None, _line(f"T_c {way}", f"T_c, {way}", low=1.0, high=np.inf),
        "T_c is where the loss is a hundredth of that of no output", null=other_teacher, over="study",
    ) for way, words in (("drawn", "from a draw"), ("heated", "from the teacher"))),
    Claim(
        "no_hysteresis", "Above T_0 it does not matter whether students are heated from their teacher or cooled from above",
        "heated and cooled", "the same loss", None, _differences("cooled", 0.25), "the same is within a quarter of a decade",
        null=at_start, over="study",
    ),
    Claim(
        "one_branch", "... nor whether they start at their teacher or at a draw", "heated and drawn", "the same loss", None,
        _differences("drawn", 0.5),
        "the same is within half a decade; set when 10,000 steps had been looked at, where it is not so", afterwards=True,
        null=at_start, over="study",
    ),
    Claim(
        "flatter", "What carries learning on above T_0 is flatter: students stay at the edge of stability",
        "s of the student", "s = 2", None,
        (
            Measure("octaves from 2 to s at T = 4 T_0, heated", _felt("stability", 4.0),
                    lambda a: a.felt / np.log10(2), -0.5, 0.5),
            Measure("log10 of the sharpness over the teacher's there",
                    _felt("sharpness", 4.0, "teacher_sharpness"), _felt_mean),
            Measure("log10 of the noise sharpness over the teacher's there",
                    _felt("noise_sharpness", 4.0, "teacher_noise_sharpness"), _felt_mean),
        ),
        "without flattening s would be 8", null=at_start, over="study",
    ),
)  # fmt: skip
