"""What a run's Dataset says of itself: its settings, its last trained layer, and the record asked for."""

import tomllib
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from phasejax.experiment import refuse

LEVEL_DYNAMICS = ("K_S", "V_S", "D_S", "restoring")
"""What a file has only of trained layers with more than one node: a single level has no spacing."""


class RunError(Exception):
    """A Dataset that is no run of phasejax, or lacks something every such run has: one sentence."""


class Layer(NamedTuple):
    """The trained layer whose spectrum is looked at."""

    suffix: str
    """What its variables end in: an underscore and its number, or nothing where it is the only one."""
    nodes: int
    """Rows of W, n_l."""
    inputs: int
    """Columns of W, n_(l-1)."""
    scale: float
    """Its own sigma_W over the grid's."""


def settings(dataset: xr.Dataset) -> dict[str, Any]:
    """The tables of the experiment's TOML.

    Not an `Experiment`, which would refuse an activation that was registered in the process of the run only.

    Raises:
        RunError: there are none.
    """
    try:
        tables = tomllib.loads(dataset.attrs["experiment"])
        whole = {"widths", "activation", "trainable"} <= set(tables["network"]) and {"sgd", "task"} <= set(tables)
    except (KeyError, TypeError, tomllib.TOMLDecodeError):
        whole, tables = False, {}
    if not whole:
        raise RunError("The file is not a run of phasejax: it does not say which experiment it is of.")
    return tables


def layer(dataset: xr.Dataset) -> Layer:
    """The last trained layer with more than one node, for a single node has no level spacing; else the last."""
    network = settings(dataset)["network"]
    trained, widths = network["trainable"], network["widths"]
    scales = network.get("sigma_w_scale") or [1.0] * len(trained)
    last = max(trained, key=lambda number: (widths[number] > 1, number))
    suffix = f"_{last}" if len(trained) > 1 else ""
    return Layer(suffix, widths[last], widths[last - 1], scales[trained.index(last)])


def activation(dataset: xr.Dataset) -> str:
    """Name of the activation; the paper's phases and its jamming line are those of tanh."""
    return settings(dataset)["network"]["activation"]


def grid_axis(dataset: xr.Dataset | xr.DataArray) -> str:
    """Name of the axis along which the learning rate grows: learning_rate where no temperature is defined."""
    return "temperature" if "temperature" in dataset.dims else "learning_rate"


def require(dataset: xr.Dataset, *names: str) -> None:
    """Raise if a run lacks variables or coordinates; a layer's own are named without its number.

    Raises:
        RunError: one is missing, or there is no student.
    """
    own = layer(dataset).suffix
    for axis in ("step", grid_axis(dataset), "sigma_w", "seed"):
        if axis not in dataset.dims:
            raise RunError(f"The dimension {axis} is missing: a selection keeps it if it is made with a list or a slice.")
        if not dataset.sizes[axis]:
            raise RunError(f"The selection is empty: it has no {axis.replace('_', ' ')}.")
    for name in names:
        if name not in dataset and name + own not in dataset:
            raise RunError(f"The file lacks the variable {name + own * (name in LEVEL_DYNAMICS)}, "
                           "which its experiment records: the run is not whole.")  # fmt: skip


def until(dataset: xr.Dataset, step: int | None) -> xr.Dataset:
    """The run as it was after `step` updates, or all of it, with both axes of the plane ascending.

    Raises:
        RunError: it is no run, or there is no student in it.
        ExperimentError: no record was taken at that step.
    """
    require(dataset, "diverged_step")
    for along in (grid_axis(dataset), "inverse_sigma_w"):
        if (np.diff(dataset[along]) < 0).any():
            dataset = dataset.sortby(along)
    if step is None:
        return dataset
    steps = dataset.step.values
    if step not in steps:
        closest = steps[np.abs(steps - step).argmin()]
        raise refuse("at_step", step, f"there is no record of that step; the nearest is {closest}")
    axes = [axis for axis in ("step", "step_decades", "step_ends") if axis in dataset.dims]
    return dataset.isel({axis: np.flatnonzero(dataset[axis].values <= step) for axis in axes})
