"""What a transition would do as networks grow, each with the intervals that were set before the runs were looked at."""

from collections.abc import Iterable

import xarray as xr

from phasejax.analysis.run import member
from phasejax.analysis.statistics import log2
from phasejax.claims.judging import Averages, Claim, Measure, Take
from phasejax.claims.nulls import all_as
from phasejax.studies.finite_size.numbers import disconnected, losses, parts, rescaled
from phasejax.studies.stability.claims import other_teacher

_SIZES = (8, 16, 32, 64)
_SMALLEST = all_as("nodes=8")


def _of(nodes: int, along_t: bool = False) -> Take:
    """Parts of the variances of a size, against T / T_0 or against T."""

    def take(tree: xr.DataTree) -> xr.Dataset:
        run = member(tree, f"nodes={nodes}")
        return parts(losses(run) if along_t else rescaled(run))

    return take


def _pair(small: int, large: int) -> Take:
    """Of two sizes, whose teachers with one label have nothing in common."""

    def take(tree: xr.DataTree) -> xr.Dataset:
        both = {name: _of(nodes)(tree) for name, nodes in (("small", small), ("large", large))}
        return _together(part.rename({v: f"{v}_{name}" for v in part.data_vars}) for name, part in both.items())

    return take


def _together(parts: Iterable[xr.Dataset]) -> xr.Dataset:
    return xr.merge(parts, compat="override", join="exact")


def _steepest(mean: xr.DataArray) -> xr.DataArray:
    """Largest rise of log10 L in an octave of T / T_0."""
    octave = mean.shift(relative_temperature=-2) - mean
    return octave.max("relative_temperature")


def _sharper(a: Averages) -> xr.DataArray:
    return log2(_steepest(a.of_teacher_large) / _steepest(a.of_teacher_small))


def _noisier(a: Averages) -> xr.DataArray:
    large, small = (a[f"connected_{name}"].max("relative_temperature") for name in ("large", "small"))
    return log2(large / small)


def _peak(a: Averages) -> xr.DataArray:
    return a.connected.max("relative_temperature")


def _between(a: Averages) -> xr.DataArray:
    return disconnected(a).max("relative_temperature")


def _explained(nodes: int) -> Take:
    """Parts against T / T_0 and against T, of one size."""

    def take(tree: xr.DataTree) -> xr.Dataset:
        scaled = _of(nodes)(tree).rename({name: f"{name}_scaled" for name in ("connected", "of_teacher", "square")})
        return _together([scaled, _of(nodes, along_t=True)(tree)])

    return take


def _left(a: Averages) -> xr.DataArray:
    """Disconnected variance at its largest: against T / T_0 over against T."""
    scaled = a.square_scaled - a.of_teacher_scaled**2
    return scaled.max("relative_temperature") / disconnected(a[["square", "of_teacher"]]).max("temperature")


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "sharpens", "The rise of log L in T / T_0 steepens as the network grows, as that of a transition", "n_2 = 8 to 64",
        "by more than a quarter of an octave", None,
        (Measure("octaves by which the steepest rise is steeper at n_2 = 64 than at 8", _pair(8, 64), _sharper, low=0.25),),
        null=_SMALLEST, over="study",
    ),
    Claim(
        "fluctuates", "... and students of one teacher differ more at its peak", "n_2 = 8 to 64",
        "a connected variance of log10 L that grows, by more than a quarter of an octave", None,
        (
            Measure("octaves by which the connected variance's peak is larger at n_2 = 64 than at 8", _pair(8, 64), _noisier,
                    low=0.25),
            *(Measure(f"its peak at n_2 = {n}", _of(n), _peak) for n in _SIZES),
            *(Measure(f"the disconnected variance's peak at n_2 = {n}", _of(n), _between) for n in _SIZES),
        ),
        null=_SMALLEST, over="study",
    ),
    Claim(
        "quenched", "What teachers differ by at equal T is their T_0", "n_2 = 8 to 64",
        "less than half of the disconnected variance is left at equal T / T_0", None,
        tuple(Measure(f"part of its peak that is left, n_2 = {n}", _explained(n), _left, high=0.5) for n in _SIZES),
        null=other_teacher, over="study",
    ),
)  # fmt: skip
