"""What is said of batch sizes, each with the intervals that were set before the runs were looked at."""

from itertools import pairwise

import xarray as xr

from phasejax.analysis.statistics import log2
from phasejax.claims.judging import Averages, Claim, Measure, Statistic, Take
from phasejax.claims.nulls import Null
from phasejax.studies.batch_size.numbers import edges
from phasejax.studies.paper.numbers import by_rate

_SIZES = (1, 4, 16, 64, 256)

temperature_alone = Null(
    "T_0 = 2/q whatever the batch, as if the temperature alone mattered",
    lambda run: run.assign(teacher_sharpness=0 * run.teacher_sharpness),
)


def over_edge(name: str) -> Take:
    """Octaves from T_0 to a temperature, where it is there at every batch size."""

    def take(tree: xr.DataTree) -> xr.Dataset:
        found = edges(tree)
        found = found.where(found[name].notnull().all("batch"))
        above = found[name] - found["T_0"]
        return xr.Dataset({"above": above.expand_dims(step=[0]), "at": found[name].expand_dims(step=[0])})

    return take


def _above(batch: int) -> Statistic:
    return lambda a: a.above.sel(batch=batch, drop=True)


def _spread(a: Averages) -> xr.DataArray:
    return a.above.max("batch", skipna=False) - a.above.min("batch", skipna=False)


def _slope(low: int, high: int) -> Statistic:
    """Octaves of temperature an octave of B."""

    def slope(a: Averages) -> xr.DataArray:
        b = log2(a.batch)
        return (a["at"].sel(batch=high, drop=True) - a["at"].sel(batch=low, drop=True)) / float(
            b.sel(batch=high) - b.sel(batch=low)
        )

    return slope


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "lost_at_every_size", "Solutions are lost at T_0 whatever the batch size", "s = 2 at the teacher",
        "T = T_0, within a quarter of an octave", None,
        tuple(Measure(f"octaves from T_0 to the loss of the solution, B = {b}", over_edge("lost"), _above(b), -0.25, 0.25)
              for b in _SIZES),
        null=temperature_alone, over="study",
    ),
    Claim(
        "one_ratio", "T_c / T_0 is the same at every batch size", "at equal epsilon t", "within a quarter of an octave",
        None,
        (
            Measure("octaves of T_c / T_0 between batch sizes, from a draw", over_edge("T_c drawn"), _spread, high=0.25),
            *(Measure(f"octaves from T_0 to T_c, B = {b}", over_edge("T_c drawn"), _above(b)) for b in _SIZES),
        ),
        "T_c is where the loss is a hundredth of that of no output", null=temperature_alone, over="study",
    ),
    Claim(
        "temperature_first", "Small batches: T = epsilon / B is the parameter of T_c", "Sec 2.4 of the paper",
        "T_c is the same at B = 1 and 4", None,
        (
            Measure("d log T_c / d log B from B = 1 to 4, from a draw", over_edge("T_c drawn"), _slope(1, 4), -0.25, 0.25),
            *(Measure(f"d log T_c / d log B from B = {low} to {high}", over_edge("T_c drawn"), _slope(low, high))
              for low, high in pairwise(_SIZES[1:4])),
            *(Measure(f"d log T_0 / d log B from B = {low} to {high}", over_edge("T_0"), _slope(low, high))
              for low, high in pairwise(_SIZES)),
        ),
        null=by_rate, over="study",
    ),
    Claim(
        "rate_last", "Large batches: epsilon is, and T_c falls as 1 / B", "epsilon lambda = 2",
        "T_c B is the same from 64 to 256", None,
        (Measure("d log T_c / d log B from B = 64 to 256, from a draw", over_edge("T_c drawn"), _slope(64, 256),
                 -1.25, -0.75),),
        null=by_rate, over="study",
    ),
)  # fmt: skip
