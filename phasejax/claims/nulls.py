"""Runs in which nothing that is claimed can be there: a claim that agrees in one says nothing.

Where it is an absence that is claimed, the run is one in which what should be absent is there: a positive control.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from phasejax.analysis.run import each, members


@dataclass(frozen=True)
class Null:
    """A run, every run of a study, or its tree, changed so that what is claimed cannot be there."""

    words: str
    """What was done to it."""
    change: Callable[[Any], Any]
    over: Literal["run", "study"] = "run"
    """What is changed: runs, one by one, or a study's tree."""

    def of(self, data: Any) -> Any:
        """The changed run or tree."""
        if isinstance(data, xr.DataTree) and self.over == "run":
            return each(data, self.change)
        return self.change(data)


def _start(run: xr.Dataset) -> xr.Dataset:
    return run.isel(step=[0] * run.sizes["step"]).assign_coords(step=run.step)


def permuted(axis: str) -> Null:
    """The cells in another order along an axis, the same for every seed and record."""

    def change(run: xr.Dataset) -> xr.Dataset:
        order = np.random.default_rng(1).permutation(run.sizes[axis])
        return along(run, axis, order)

    return Null(f"cells permuted along {axis}", change)


def mirrored(axis: str) -> Null:
    """The cells in reverse order along an axis."""
    return Null(f"cells mirrored along {axis}", lambda run: along(run, axis, np.arange(run.sizes[axis])[::-1]))


def along(run: xr.Dataset, axis: str, order: np.ndarray) -> xr.Dataset:
    """What was measured, in another order along an axis whose coordinates stay."""
    coords = {name: of for name, of in run.coords.items() if axis in of.dims}
    return run.isel({axis: order}).assign_coords(coords)


def all_as(name: str) -> Null:
    """Every member of a study has the run of one of them."""
    return Null(
        f"every member has the run of {name}",
        lambda tree: xr.DataTree.from_dict(dict.fromkeys(members(tree), members(tree)[name])),
        over="study",
    )


at_start = Null("every record is the one at step 0", _start)
