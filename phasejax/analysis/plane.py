"""The plane that a run spans, whatever its axes are."""

import xarray as xr

from phasejax.analysis.run import RunError, grid_axes
from phasejax.grid import RESERVED

_UPRIGHT, _ACROSS = ("temperature", "learning_rate"), ("sigma_w",)
"""Axes that stand upright and lie across, as in the paper; others do so in the order of the grid."""


def axes_of(run: xr.Dataset | xr.DataArray) -> list[str]:
    """The axes that a run, or an array of numbers of its students, spans, those first that stand upright."""
    named = grid_axes(run) if isinstance(run, xr.Dataset) else [str(dim) for dim in run.dims]
    names = {"temperature": "learning_rate", "learning_rate": "temperature"}  # one may have taken the other's place
    axes = [name if name in run.dims else names.get(name, name) for name in named]
    axes = [name for name in axes if name in run.dims and name not in RESERVED and name != "resample"]
    return sorted(axes, key=lambda name: (name in _ACROSS) - (name in _UPRIGHT))


def plane_of(run: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """The two axes that a run, or an array of numbers of its students, spans: (vertical, horizontal).

    Raises:
        RunError: it has fewer, or more; the sentence says what to select.
    """
    axes = axes_of(run)
    if len(axes) > 2:
        others = axes[2:] if "sigma_w" not in axes else [name for name in axes[1:] if name != "sigma_w"]
        raise RunError(f"The run spans {', '.join(axes)}, and a plane has two axes: select one {' and one '.join(others)} "
                       f"first, for instance run.isel({', '.join(f'{name}=0' for name in others)}).")  # fmt: skip
    if len(axes) < 2:
        whose = f"its only axis is {axes[0]}" if axes else "it has no axes"
        raise RunError(f"The run spans no plane, for {whose}: a number of the grid is an axis if it is given as a list.")
    return axes[0], axes[1]
