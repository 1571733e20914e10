"""How a file looks: its version, its axes and coordinates, and the names they take."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phasejax import names
from phasejax.experiment import Experiment
from phasejax.files.durable import StoreError

if TYPE_CHECKING:
    from phasejax.observables import Observable

FORMAT_VERSION = 2
"""Of what is written. 1, which files do not name, had the axes temperature and sigma_w always, and no training state."""

# The step axis of what is recorded on each occasion.
STEP_AXES = {"records": "step", "decades": "step_decades", "ends": "step_ends"}

Coordinate = tuple[str, tuple[str, ...], np.ndarray, str]
"""Name, dims, values and long name."""


def refuse_newer(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raise if a file's attributes, or a state's header, are of a version after this one.

    Raises:
        StoreError: they are.
    """
    version = attributes.get("format_version", 1)
    if not isinstance(version, int | np.integer) or not 1 <= version <= FORMAT_VERSION:
        writer = str(attributes.get("phasejax_version", "unknown"))
        raise StoreError(f"{path} has format version {str(version)!r}, and this phasejax knows up to {FORMAT_VERSION}: "
                         f"use phasejax {writer!r}, which wrote it.")  # fmt: skip


_MEANINGS = {
    "temperature": "temperature T, learning rate / batch size",
    "learning_rate": "learning rate epsilon",
    "sigma_w": "initialisation scale sigma_W",
    "momentum": "heavy-ball momentum mu",
    "weight_decay": "weight decay",
}


def coordinates(experiment: Experiment, steps: Mapping[str, Any]) -> list[Coordinate]:
    """Every coordinate but the observables' own axes: each number of the cells over the axes along which it changes."""
    grid, sgd, schedule = experiment.grid, experiment.sgd, experiment.schedule
    labels = np.array(grid.labels)
    made: list[Coordinate] = []
    for name, values in experiment.cells().items():
        along = experiment.depends_on(name)
        # All cells with the same place along these axes have the same value; take the first.
        table = np.array(values).reshape(grid.shape)
        table = table[tuple(slice(None) if axis in along else 0 for axis in grid.axes)]
        meaning = _MEANINGS.get(name, name.replace("_", " ") + f", of the optimizer {names.name_of(sgd.optimizer)}")
        if name == "temperature" and "momentum" in dict(grid.numbers):
            meaning += " / (1 - momentum)"
        made.append((name, along, table, meaning))
        if name == "sigma_w":
            made.append(("inverse_sigma_w", along, 1 / table, "inverse initialisation scale 1/sigma_W"))
    made += [
        ("seed", ("seed",), labels, "label of teacher, data and initial draw"),
        ("batch_size", (), np.array(sgd.batch_size), "batch size B"),
    ]
    if grid.replicas > 1:
        made.append(("teacher", ("seed",), labels // grid.replicas, "label of teacher and data, which replicas share"))
    ticks = {name: np.array(of, np.int64) for name, of in steps.items()}
    epochs = ticks["step"] * sgd.batch_size / experiment.task.samples
    made += [
        ("step", ("step",), ticks["step"], "SGD updates done"),
        ("epoch", ("step",), epochs, "epochs done"),
        ("step_decades", ("step_decades",), ticks["step_decades"], "SGD updates done, at whole decades and the ends"),
        ("step_ends", ("step_ends",), ticks["step_ends"], "SGD updates done, at the ends"),
    ]
    if not schedule.constant:
        factors = np.array([schedule.factor(step) for step in steps["step"]])
        made.append(
            ("learning_rate_factor", ("step",), factors, "factor of the learning rate, and the temperature, from here on")
        )
    return made


def own_axes(fields: Sequence["Observable"], sizes: Mapping[str, int]) -> list[Coordinate]:
    """Coordinates of the observables' own axes: what they give, else numbers from 1."""
    given = {dim: values for field in fields for dim, values in field.coordinates}
    axes: list[Coordinate] = []
    for dim, size in sizes.items():
        kind = dim.partition("_")[0]
        if dim not in given:
            axes.append((dim, (dim,), np.arange(1, size + 1), f"{kind}, counted from 1"))
        else:
            values = given[dim]
            axes.append((dim, (dim,), np.array(values, object if isinstance(values[0], str) else float), kind))
    return axes
