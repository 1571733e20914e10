"""The ensemble: numbers of a cell, those given as lists being axes, times seeds."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phasejax.checks import MAX_STEPS, number, refuse, scalar, sequence, whole

Number = float | tuple[float, ...]

PAPER: dict[str, Number] = {
    "temperature": tuple(2.0**k for k in range(-5, 7)),
    "sigma_w": tuple(2.0**k for k in range(-3, 9)),
}
"""The paper's plane, which a grid has where it says nothing else."""

_MOST_VALUES, _MOST_CELLS = 20_000, 10**6
"""On an axis, and in all: numbers of the cells are Python's own before they are arrays."""

RESERVED = frozenset(
    {"step", "epoch", "step_decades", "step_ends", "seed", "teacher", "batch_size"}
    | {"inverse_sigma_w", "learning_rate_factor", "level", "node", "input", "reading", "feature"}
)
"""Names that a number of a cell cannot have: a file has them for something else."""


@dataclass(frozen=True, init=False)
class Grid:
    """Every cell times every seed is one student: `Grid(temperature=[0.1, 1], momentum=0.9, sigma_w=1, seeds=20)`.

    A number of a cell given as a list is an axis, in the order given; one given as a number is the same in every cell. There
    is sigma_w, the scale of the initial weights (W_ij ~ N(0, sigma_W^2 / n_(l-1)), Eq 2.11), and whatever the optimizer
    reads: learning_rate or in its place temperature T = learning rate / (batch size (1 - momentum)), momentum,
    weight_decay, b2, ... What is left out of temperature and sigma_w is the paper's axis.

    A seed is a label, and one label is the same teacher, data, batch order and standard-normal draw in every cell.

    Raises:
        ExperimentError: a value that no number, or no list of different numbers, can be.
    """

    numbers: tuple[tuple[str, Number], ...]
    """Names and values, in the order of the axes."""
    seeds: int
    """Number of seeds."""
    first_seed: int
    """Label of the first seed; the labels are consecutive."""
    replicas: int
    """So many consecutive labels share teacher and data (those of label // replicas), and differ in draw and order."""

    def __init__(
        self,
        numbers: Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        seeds: int = 100,
        first_seed: int = 0,
        replicas: int = 1,
        **more: Any,
    ) -> None:
        given = dict(numbers)
        if "learning_rate" in more and "temperature" not in more:
            given.pop("temperature", None)
        if "temperature" in more and "learning_rate" not in more:
            given.pop("learning_rate", None)
        given |= more
        if {"learning_rate", "temperature"} <= set(given):
            raise refuse(
                "grid.temperature", given["temperature"], "grid.learning_rate is given, and one follows from the other"
            )
        if not {"learning_rate", "temperature"} & set(given):
            given = {"temperature": PAPER["temperature"], **given}
        given.setdefault("sigma_w", PAPER["sigma_w"])
        seeds = whole("grid.seeds", seeds, 1)
        values = {
            "numbers": tuple((name, _number(name, value)) for name, value in given.items()),
            "seeds": seeds,
            "first_seed": whole("grid.first_seed", first_seed, 0, MAX_STEPS - seeds),
            "replicas": whole("grid.replicas", replicas, 1),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if math.prod(self.shape) > _MOST_CELLS:
            raise refuse("grid", f"{' x '.join(map(str, self.shape))} cells", f"there are at most {_MOST_CELLS:,}")

    def __getattr__(self, name: str) -> Number:
        for known, value in self.__dict__.get("numbers", ()):
            if known == name:
                return value
        raise AttributeError(f"this grid has no {name}")

    def __repr__(self) -> str:
        settings = [*self.numbers, ("seeds", self.seeds), ("first_seed", self.first_seed), ("replicas", self.replicas)]
        return f"Grid({', '.join(f'{name}={value!r}' for name, value in settings)})"

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The numbers that are lists: the axes of the grid, in their order."""
        return {name: value for name, value in self.numbers if isinstance(value, tuple)}

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(len, self.axes.values()))

    @property
    def labels(self) -> range:
        """Labels of the seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def cells(self) -> Iterator[dict[str, float]]:
        """The numbers of each cell, the last axis running fastest."""
        constant = {name: value for name, value in self.numbers if not isinstance(value, tuple)}
        for values in itertools.product(*self.axes.values()):
            yield {**constant, **dict(zip(self.axes, values, strict=True))}


def _number(name: str, given: object) -> Number:
    field = f"grid.{name}"
    if not name.isidentifier() or name in RESERVED:
        raise refuse(field, given, "a number of a cell needs a name of its own, a Python identifier")
    positive = name in ("temperature", "learning_rate", "sigma_w")
    above = 0.0 if positive else float("-inf")
    kind = "positive finite number" if positive else "finite number"
    value = scalar(given)
    if not isinstance(value, str) and not hasattr(value, "__iter__"):
        return _within(field, number(field, value, f"it must be a {kind}, or a list of different ones", above))
    entries = sequence(field, value)
    if len(entries) > _MOST_VALUES:
        raise refuse(field, f"{len(entries):,} values", f"an axis has at most {_MOST_VALUES:,}")
    axis = tuple(number(field, one, f"every entry must be a {kind}", above) for one in entries)
    if not axis:
        raise refuse(field, list(axis), f"the grid is empty; give at least one {kind}")
    seen: set[float] = set()
    for one in axis:
        if one in seen:
            raise refuse(field, one, "it stands there more than once; every entry must be different")
        seen.add(_within(field, one))
    return axis


def _within(field: str, value: float) -> float:
    if field == "grid.momentum" and not 0 <= value < 1:
        raise refuse(field, value, "it must be a number from 0 up to, but not including, 1")
    if field == "grid.weight_decay" and value < 0:
        raise refuse(field, value, "it must be a number from 0 up")
    return value
