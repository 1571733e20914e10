"""One variable of a file: a function, what must be known to store and read it, and when it applies."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from jax import Array

from phasejax.checks import ExperimentError, refuse, unknown
from phasejax.experiment import Experiment
from phasejax.grid import RESERVED
from phasejax.network import Network

When = Literal["records", "decades", "ends", "once"]

NEEDS: Mapping[str, str] = {
    "teacher": "the task has no teacher",
    "hidden": "the network has no hidden layer",
    "layers": "the network is not a phasejax.Network",
    "labels": "the targets are no labels of classes",
    "level_dynamics": "the network is not a phasejax.Network",
    "temperature": "the optimizer defines no temperature",
    "curvature": "",  # any network has one
}
"""What an observable may need, and what is said where that is not there."""


@dataclass(frozen=True)
class Observable:
    """One variable of the file: `Observable("rank", lambda student, task: ...)`.

    `function` takes a `Student` and its `Task` and returns an array; it is vmapped over the ensemble. With
    `when="once"` it takes the task alone, and is evaluated once a seed.
    """

    name: str
    """The variable's name."""
    function: Callable[..., Array]
    """(student, task) -> array with an axis for each of `dims`, or task -> array for `when="once"`."""
    long_name: str = ""
    """What it is, in words."""
    dims: tuple[str, ...] = ()
    """Names of the array's axes; equal names must have equal sizes throughout a file."""
    units: str = "1"
    """Units; everything in the paper is dimensionless."""
    equation: str = ""
    """The equation of the paper it implements, if any."""
    coordinates: tuple[tuple[str, tuple[str, ...] | tuple[float, ...]], ...] = ()
    """Names or values along the axes that have them, (axis, values) each; other axes count from 1."""
    when: When = "records"
    """At every record, at whole decades of steps and the ends, at the two ends only, or once."""
    needs: tuple[str, ...] = ()
    """What there must be: teacher, hidden (a hidden layer), layers (a `Network`), labels (of classes), temperature; and
    what several share and is made for those who ask: level_dynamics, curvature."""
    by_name: bool = False
    """Recorded only where it is asked for by its name, for what it costs."""
    group: str = field(default="", compare=False)
    """Another name it goes by, that of its kind where there is one a layer."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "needs", tuple(self.needs))

    @property
    def reference(self) -> str:
        """What stands for it in a settings file: the module of its function, and its name there."""
        from phasejax.names import name_of

        try:
            module = name_of(self.function).partition(":")[0]
        except ExperimentError:
            module = "unknown"
        return f"{module}:{self.name}"

    def of(self, *seen: Any) -> Array:
        """Its value for a student and its task, or a task.

        Raises:
            ExperimentError: its function fails; the error names it and what went wrong.
        """
        try:
            return self.function(*seen)
        except ExperimentError:
            raise
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise ExperimentError(f"The observable {self.name} fails: {type(error).__name__}: {words[:300]}") from error

    def check(self, found: Any, leading: int) -> None:
        """Compare with the shape and dtype it gives, behind so many axes of the ensemble.

        Raises:
            ExperimentError: they do not fit.
        """
        shape = getattr(found, "shape", None)
        if shape is None or len(shape) != leading + len(self.dims):
            given = "no array" if shape is None else f"an array of {len(shape) - leading} axes"
            raise refuse("observe", self.name, f"its function gives {given}, and its dims are {list(self.dims)}")
        if found.dtype.name not in ("float32", "float64", "int32", "int64"):
            raise refuse("observe", self.name, f"its values are {found.dtype.name}; float32, float64 or int32 is needed")


class Chosen(NamedTuple):
    """What is recorded of a run."""

    observables: tuple[Observable, ...]
    left_out: tuple[str, ...]
    """What was asked for and does not apply, a sentence each."""


def choose(experiment: Experiment, standard: Sequence[Observable]) -> Chosen:
    """The observables of an experiment, of its own and of the package's.

    Raises:
        ExperimentError: a name is not known, taken or impossible, or nothing is left.
    """
    asked: list[Observable] = []
    known = {one.name: one for one in standard}
    groups = {one.group for one in standard}
    for one in experiment.observe:
        if one == "standard":
            # What is standard for classes is not so for numbers, and need not be excused there.
            asked += [found for found in standard if not found.by_name
                      and (found.needs != ("labels",) or not _why_not(found, experiment))]  # fmt: skip
        elif not isinstance(one, str):
            asked.append(_checked(one, experiment, standard))
        elif one in known or one in groups:
            asked += [found for found in standard if one in (found.name, found.group)]
        else:
            raise unknown(one, ["standard", *known], "observe: ")
    asked = list(dict.fromkeys(asked))
    reasons = {one: reason for one in asked if (reason := _why_not(one, experiment))}
    chosen = tuple(one for one in asked if one not in reasons)
    left_out = tuple(f"{one.name} is not recorded: {reason}" for one, reason in reasons.items())
    if not chosen:
        raise refuse("observe", [one.name for one in asked], f"nothing is left to record; {'; '.join(left_out)}")
    taken = [one.name for one in chosen]
    for name in taken:
        if taken.count(name) > 1:
            raise refuse("observe", name, "two observables have this name")
    return Chosen(chosen, left_out)


def _why_not(one: Observable, experiment: Experiment) -> str:
    network, task = experiment.network, experiment.task
    ours = isinstance(network, Network)
    there = {
        "teacher": getattr(task, "has_teacher", False),
        "hidden": not ours or len(network.widths) > 2,
        "layers": ours,
        "labels": task.loss == "cross_entropy",
        "level_dynamics": ours,
        "temperature": experiment.sgd.optimizer == "sgd",
        "curvature": True,
    }
    return next((NEEDS[need] for need in one.needs if not there[need]), "")


def _checked(one: Observable, experiment: Experiment, standard: Sequence[Observable]) -> Observable:
    """A user's own observable, if its names can stand in a file."""
    name, taken = one.name, {known.name for known in standard}
    axes = {dim for known in standard for dim in known.dims}
    grid = set(dict(experiment.grid.numbers)) | {"learning_rate", "temperature"}
    if name in taken | RESERVED | axes | grid or not name.isidentifier():
        raise refuse("observe", name, "an observable needs a name of its own, a Python identifier")
    if one.when not in get_args(When):
        raise refuse("observe", name, f"its `when` is {one.when!r}; choose from {', '.join(get_args(When))}")
    if bad := [need for need in one.needs if need not in NEEDS]:
        raise refuse("observe", name, f"its `needs` has {bad[0]!r}; choose from {', '.join(NEEDS)}")
    bad = [dim for dim in one.dims if dim in (RESERVED - axes) | grid or dim in taken or not dim.isidentifier()]
    if bad or len(set(one.dims)) < len(one.dims):
        raise refuse("observe", name, f"its dims {list(one.dims)} must be different identifiers, not taken")
    if len(inspect.signature(one.function).parameters) == 0:
        raise refuse("observe", name, "its function takes nothing; it must take a student and its task")
    return one
