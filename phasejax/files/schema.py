"""How a file looks: its version, its axes and coordinates, and the names they take."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phasejax.experiment import Experiment
from phasejax.files.durable import StoreError

if TYPE_CHECKING:
    from phasejax.observables import Observable

FORMAT_VERSION = 2
"""Of what is written. 1, which files do not name, had no training state at the end and no names in those on the way."""
# The step axis of what is recorded on each occasion.
STEP_AXES = {"records": "step", "decades": "step_decades", "ends": "step_ends"}

RESERVED = frozenset(
    {"step", "epoch", "step_decades", "step_ends", "temperature", "learning_rate", "batch_size"}
    | {"sigma_w", "inverse_sigma_w", "seed"}
)
"""Names of the file's own coordinates."""
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


def temperature_axis(experiment: Experiment) -> str:
    """Name of the axis along which the learning rate grows: learning_rate where no temperature is defined."""
    return "learning_rate" if experiment.temperatures is None else "temperature"


def coordinates(experiment: Experiment, steps: Mapping[str, list[int]]) -> list[Coordinate]:
    """Every coordinate but the observables' own axes."""
    grid, axis = experiment.grid, temperature_axis(experiment)
    ticks = {name: np.array(of, np.int64) for name, of in steps.items()}
    made: list[Coordinate] = [
        ("learning_rate", (axis,), np.array(experiment.learning_rates), "learning rate epsilon"),
        ("sigma_w", ("sigma_w",), np.array(grid.sigma_w), "initialisation scale sigma_W"),
        ("inverse_sigma_w", ("sigma_w",), 1 / np.array(grid.sigma_w), "inverse initialisation scale 1/sigma_W"),
        ("seed", ("seed",), np.array(experiment.seed_labels), "label of teacher, data and initial draw"),
        ("batch_size", (), np.array(experiment.sgd.batch_size), "batch size B"),
        ("step", ("step",), ticks["step"], "SGD updates done"),
        ("epoch", ("step",), ticks["step"] * experiment.sgd.batch_size / experiment.task.samples, "epochs done"),
        ("step_decades", ("step_decades",), ticks["step_decades"], "SGD updates done, at whole decades and the ends"),
        ("step_ends", ("step_ends",), ticks["step_ends"], "SGD updates done, at the ends"),
    ]
    if experiment.temperatures is not None:
        temperatures = np.array(experiment.temperatures)
        meaning = "temperature T, learning rate / batch size" + (" / (1 - momentum)" if experiment.sgd.momentum else "")
        made.append(("temperature", (axis,), temperatures, meaning))
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
