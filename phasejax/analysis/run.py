"""What a run's Dataset says of itself: its settings, its last trained layer, and the record asked for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from phasejax.checks import ExperimentError, refuse
from phasejax.experiment import Experiment

STEPS = ("step", "step_decades", "step_ends")
"""Axes of records."""
MADE_OF = {
    "level_spacing": ("eigenvalues",),
    "converged": ("restoring", "V_S"),
    "negative_K_S": ("K_S",),
    "negative_V_S": ("V_S",),
}
"""What a reference has in place of what a run has to make it of."""
LEVEL_DYNAMICS = ("K_S", "V_S", "D_S", "restoring")
"""What a file has only of trained layers with more than one node: a single level has no spacing."""
BY_NAME = ("constant_loss", "sharpness", "noise_sharpness", "stability", "teacher_sharpness", "teacher_noise_sharpness")
"""What is recorded only where it is asked for by name."""


class RunError(Exception):
    """A Dataset that is no run of phasejax, or lacks something every such run has: one sentence."""


class NotRecordedError(RunError):
    """What is asked for is not there because the experiment does not record it, or the study has not: one sentence."""


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
    """The tables of the experiment's TOML, in the present format.

    Raises:
        RunError: there are none.
    """
    return _tables(str(dataset.attrs.get("experiment", "")), "format_version" in dataset.attrs)


@functools.lru_cache(maxsize=64)
def _tables(text: str, versioned: bool) -> dict[str, Any]:
    try:
        if text:
            return Experiment.from_toml(text, "the file", 2 if versioned else 1).to_tables()
    except ExperimentError:
        pass
    raise RunError("The file is not a run of phasejax: it does not say which experiment it is of.")


def layer(dataset: xr.Dataset) -> Layer:
    """The last trained layer with more than one node, for a single node has no level spacing; else the last.

    Of a network that is none of phasejax's, the last trained matrix that the file has the spectrum of.
    """
    network = settings(dataset)["network"]
    if "kind" in network:
        found = [str(name).removeprefix("eigenvalues") for name in dataset.data_vars if str(name).startswith("eigenvalues")]
        suffix = max(found, key=lambda own: (dataset.sizes[f"level{own}"] > 1, own), default="")
        nodes = dataset.sizes.get(f"level{suffix}", 1)
        return Layer(suffix, nodes, dataset.sizes.get(f"input{suffix}", nodes), 1.0)
    trained, widths = network["trainable"], network["widths"]
    scales = network.get("sigma_w_scale") or [1.0] * len(trained)
    last = max(trained, key=lambda number: (widths[number] > 1, number))
    suffix = f"_{last}" if len(trained) > 1 else ""
    return Layer(suffix, widths[last], widths[last - 1], scales[trained.index(last)])


def activation(dataset: xr.Dataset) -> str:
    """Name of the activation, "several" if layers differ, "another" in a network of one's own.

    The paper's phases and its jamming line are those of tanh.
    """
    network = settings(dataset)["network"]
    found = "another" if "kind" in network else network.get("activation", "another")
    if isinstance(found, list):
        return found[0] if len(set(found)) == 1 else "several"
    return found


def grid_axis(dataset: xr.Dataset | xr.DataArray) -> str:
    """Name of the axis along which the learning rate grows: learning_rate where no temperature is defined."""
    return "temperature" if "temperature" in dataset.dims else "learning_rate"


def grid_axes(dataset: xr.Dataset) -> list[str]:
    """Names of the axes of the grid."""
    if "axes" in dataset.attrs:
        return dataset.attrs["axes"].split()
    return [name for name in (grid_axis(dataset), "sigma_w") if name in dataset.dims]


def require(dataset: xr.Dataset, *names: str) -> None:
    """Raise if a run has no student, or lacks variables or coordinates.

    Args:
        dataset: a run.
        *names: what is needed; a layer's own are named without its number, and what a reference has made of others will do
            as these. With sigma_w the run must be of the paper's plane, with both its axes.

    Raises:
        NotRecordedError: one is missing, and the experiment does not record it.
        RunError: one is missing all the same, there is no student, or the run is of no such plane.
    """
    own, axes = layer(dataset).suffix, [axis for axis in grid_axes(dataset) if axis in dataset.dims]
    if "sigma_w" in names:
        _require_plane(dataset)
        axes = [grid_axis(dataset), "sigma_w"]
    for axis in ("step", *axes, "seed"):
        if axis not in dataset.dims:
            raise RunError(f"The dimension {axis} is missing: a selection keeps it if it is made with a list or a slice.")
        if not dataset.sizes[axis]:
            raise RunError(f"The selection is empty: it has no {axis.replace('_', ' ')}.")
    for name in (part for whole in names for part in ([whole] if whole in dataset else MADE_OF.get(whole, (whole,)))):
        if name not in dataset and name + own not in dataset:
            if reason := why_not_recorded(dataset, name):
                raise NotRecordedError(f"{reason}.")
            raise RunError(f"The file lacks the variable {name + own * (name in LEVEL_DYNAMICS)}, "
                           "which its experiment records: the run is not whole.")  # fmt: skip
        variable = dataset[name if name in dataset else name + own]
        alone = {"seed"} if name.startswith(("target", "teacher", "constant")) else {"step"}
        over = {"seed", *axes} if {*STEPS} & {*variable.dims} else alone
        if name in dataset.data_vars and (variable.dtype.kind not in "bfiu" or not over <= {*variable.dims}):
            raise RunError(f"The variable {variable.name} of the file is not as a run has it: the run is not whole.")


def _require_plane(dataset: xr.Dataset) -> None:
    """Raise unless what a run's grid spans, or what is selected of it, is a plane of temperature and sigma_w."""
    axes, plane = grid_axes(dataset), ("temperature", "learning_rate", "sigma_w")
    only = "The figures and claims are of the plane of temperature (or learning_rate) and sigma_w"
    if others := [axis for axis in axes if axis not in plane and axis in dataset.dims]:
        raise RunError(f"{only}: select one {' and one '.join(others)} first, for instance "
                       f"run.isel({', '.join(f'{axis}=0' for axis in others)}).")  # fmt: skip
    for needed in (plane[:2], plane[2:]):
        if not {*needed} & {*axes, *map(str, dataset.dims)}:
            whose = f"the axes of this run are {' and '.join(axes)}" if axes else "this run has no axes"
            raise RunError(f"{only}, and {whose}: a number of the grid is an axis if it is given as a list.")


def why_not_recorded(dataset: xr.Dataset, name: str) -> str:
    """Why an experiment does not record an observable, named without its layer, in words; empty if it does record it."""
    own = layer(dataset).suffix
    for sentence in str(dataset.attrs.get("not_recorded", "")).split("; "):
        if sentence.partition(" is not recorded: ")[0] in (name, name + own):
            return sentence
    if "kind" in settings(dataset)["network"] and name in LEVEL_DYNAMICS:
        return f"{name} is not recorded: the network is not a phasejax.Network"
    if "kind" in settings(dataset)["network"] and name in ("eigenvalues", "target_eigenvalues", "teacher_overlap"):
        return f"{name} is not recorded: the network trains no matrix"
    asked = settings(dataset).get("observe", ["standard"])
    coordinate = name in ("temperature", "learning_rate", "sigma_w", "inverse_sigma_w", "step", "epoch", "seed")
    if coordinate or {name, name + own} & set(asked) or ("standard" in asked and name not in BY_NAME):
        return ""
    return f"{name} is not recorded: it is not among what the run was asked to observe"


def members(data: xr.Dataset | xr.DataTree) -> dict[str, xr.Dataset]:
    """The runs of a study by name; a run alone has the name ""."""
    if isinstance(data, xr.Dataset):
        return {"": data}
    return {name: node.to_dataset() for name, node in data.children.items()}


def member(tree: xr.DataTree, name: str) -> xr.Dataset:
    """The run of a member of a study.

    Raises:
        NotRecordedError: it has no records yet, or there is no such member.
    """
    runs = members(tree)
    if name not in runs:
        raise NotRecordedError(f"The study has no records of a member {name}.")
    return runs[name]


def each(tree: xr.DataTree, change: Callable[[xr.Dataset], xr.Dataset]) -> xr.DataTree:
    """A study's tree with every member's run changed."""
    changed = xr.DataTree.from_dict({name: change(run) for name, run in members(tree).items()})
    changed.attrs.update(tree.attrs)
    return changed


def until(dataset: xr.Dataset, step: int | None) -> xr.Dataset:
    """The run as it was after `step` updates, or all of it, with every axis ascending, sigma_w's in 1/sigma_w.

    Raises:
        RunError: it is no run, or there is no student in it.
        ExperimentError: no record was taken at that step.
    """
    require(dataset, "diverged_step")
    if "temperature" in dataset.coords and dataset.temperature.dims == ("learning_rate",):
        # The grid gave the learning rate, and the temperature follows from it.
        dataset = dataset.swap_dims(learning_rate="temperature")
    for axis in map(str, dataset.dims):
        along = "inverse_sigma_w" if axis == "sigma_w" else axis
        if axis in (grid_axis(dataset), *grid_axes(dataset)) and (np.diff(dataset[along]) < 0).any():
            dataset = dataset.sortby(along)
    if step is None:
        return dataset
    steps = dataset.step.values
    if step not in steps:
        closest = steps[np.abs(steps - step).argmin()]
        raise refuse("at_step", step, f"there is no record of that step; the nearest is {closest}")
    axes = [axis for axis in STEPS if axis in dataset.dims]
    return dataset.isel({axis: np.flatnonzero(dataset[axis].values <= step) for axis in axes})
