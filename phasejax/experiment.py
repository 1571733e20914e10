"""What to run: frozen parts make an `Experiment`, which reads from TOML and writes to it without loss.

Nothing here imports jax: an experiment can be built, checked and printed before any device is touched. A part is a built-in
class or a user's own frozen dataclass, a table of a settings file whose `kind` names it.
"""

import dataclasses
import difflib
import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from phasejax import names, optimizers
from phasejax.checks import (
    MOST_TOML,
    ExperimentError,
    one_of,
    part,
    read_toml,
    refuse,
    rounded,
    sequence,
    set_fields,
    unknown,
)
from phasejax.grid import Grid
from phasejax.network import Network
from phasejax.optimizers import Sgd
from phasejax.parts import KINDS, Unresolved, check_part, flat, frozen, part_fields, part_of, table_of, upgraded, written
from phasejax.schedule import Ladder, Schedule, Stop
from phasejax.starts import FromDraw, FromTeacher
from phasejax.tasks import TeacherStudent

Precision = Literal["float32", "float64"]
Reading = Literal["drift", "x_basis", "text", "released"]

PRESETS = ("quick", "desk", "paper")


@part("")
class Experiment:
    """A whole run: students of one network on a task, updated as `sgd` says, over a grid, for as long as `schedule` says.

    The defaults are the paper's set-up at the desk length. Derived quantities are properties; everything about a run,
    its ladder of stops included, follows from this object alone.

    Raises:
        ExperimentError: a value, or a combination of values, that cannot be; the message names the field.
    """

    network: Any = field(default_factory=lambda: Network(trainable=(2,)))
    """`Network`, or a frozen dataclass of one's own with `init` and `apply`."""
    task: Any = field(default_factory=TeacherStudent)
    """`TeacherStudent`, `Digits`, `Arrays`, or a frozen dataclass of one's own: `samples`, `loss`, and `load` or `draw`."""
    sgd: Sgd = field(default_factory=Sgd)
    """How students are updated: optimizer, batch size and order of the batches."""
    grid: Grid = field(default_factory=Grid)
    """The numbers of the cells, and the seeds."""
    schedule: Schedule = field(default_factory=Schedule)
    """How long, when records are taken, and by what factor the learning rate changes on the way."""
    start: Any = field(default_factory=FromDraw)
    """`FromDraw`, `FromTeacher` or `FromRun`."""
    observe: tuple[Any, ...] = ("standard",)
    """What is recorded: names of observables, "standard" for all of the package's, or an `Observable` of one's own."""
    precision: Precision = "float32"
    """Floating-point type of training and observables."""

    def __post_init__(self) -> None:
        for name, kind in {"sgd": Sgd, "grid": Grid, "schedule": Schedule}.items():
            if not isinstance(getattr(self, name), kind):
                raise refuse(name, getattr(self, name), f"it must be a {kind.__name__}")
        needs = {"network": ("init", "apply"), "task": ("samples", "loss"), "start": ()}
        for name, attributes in needs.items():
            check_part(name, getattr(self, name), attributes)
        one_of("precision", self.precision, get_args(Precision))
        set_fields(self, observe=_observed(self.observe))
        self._check_batches()
        self._check_numbers()

    def _check_batches(self) -> None:
        batch, samples = self.sgd.batch_size, getattr(self.task, "samples", None)
        if samples is None:
            return
        if batch > samples:
            raise refuse("sgd.batch_size", batch, f"a batch cannot be larger than task.samples = {samples}")
        if self.sgd.order != "iid" and samples % batch:
            near = sorted({samples // batch * batch, (samples // batch + 1) * batch} - {0})
            raise refuse("sgd.batch_size", batch,
                          f"the {self.sgd.order} order needs it to divide task.samples = {samples}; sgd.order = 'iid' does "
                          f"not, and task.samples = {' or '.join(map(str, near))} would do")  # fmt: skip

    def _check_numbers(self) -> None:
        given = dict(self.grid.numbers)
        if "temperature" in given and self.sgd.optimizer != "sgd":
            allowed = "it defines no temperature, so the grid must give grid.learning_rate"
            raise refuse("sgd.optimizer", names.name_of(self.sgd.optimizer), allowed)
        if self.sgd.factory:
            read, needed = optimizers.numbers_of(self.sgd.factory)
            known = [*read, "sigma_w", *(["temperature"] if self.sgd.optimizer == "sgd" else [])]
            optimizer = names.name_of(self.sgd.optimizer)
            for name in given:
                if name not in known:
                    close = difflib.get_close_matches(name, [*known, *part_fields(Grid)], 1)
                    hint = f"did you mean grid.{close[0]}" if close else f"choose from {', '.join(known)}"
                    raise ExperimentError(f"grid.{name} is read by nothing, the optimizer {optimizer} included: {hint}.")
            for name in needed:
                if name not in given and not (name == "learning_rate" and "temperature" in given):
                    raise ExperimentError(f"grid.{name} is missing: the optimizer {optimizer} needs it.")
        for name in self.grid.axes:
            if name == "sigma_w" and not isinstance(self.start, FromDraw) and name not in getattr(self.start, "along", ()):
                raise ExperimentError(
                    "grid.sigma_w is read by nothing, for students do not start at a draw: give one number."
                )
        for name in getattr(self.start, "along", ()):
            if name not in self.grid.axes:
                raise refuse("start.along", name, "it must be an axis of the grid, a number given as a list")
        if isinstance(self.start, FromTeacher) and not getattr(self.task, "has_teacher", True):
            raise refuse("start", "FromTeacher", "the task has no teacher")
        self._check_rounded()

    def _check_rounded(self) -> None:
        """Raise where the precision turns a number into 0 or infinity, or two of an axis into one."""

        def of(name: str) -> tuple[float, ...]:
            value = dict(self.grid.numbers).get(name, ())
            return value if isinstance(value, tuple) else (value,)

        for name, _ in self.grid.numbers:
            seen: dict[float, float] = {}
            for value in of(name):
                found = rounded(f"grid.{name}", value, self.precision)
                if seen.setdefault(found, value) != value:
                    raise refuse(f"grid.{name}", value, f"in {self.precision} it is the same as {seen[found]!r}")
                if name == "momentum" and found == 1:
                    raise refuse("grid.momentum", value, f"in {self.precision} it is 1")
        rates = of("learning_rate")
        if self.sgd.optimizer == "sgd":
            rates += tuple(t * self.sgd.batch_size * (1 - m) for t in of("temperature") for m in of("momentum") or (0.0,))
        factors = [] if self.schedule.rate == "cosine" else [factor for _, factor in self.schedule.rate]
        for factor in [1.0, *factors]:
            rounded("schedule.rate", factor, self.precision)
            for rate in {min(rates, default=1.0), max(rates, default=1.0)}:
                rounded("grid.learning_rate", rate * factor, self.precision)
        rounded("start.perturbation", getattr(self.start, "perturbation", 0.0), self.precision)
        for scale in getattr(self.network, "sigma_w_scale", ()) if isinstance(self.network, Network) else ():
            rounded("network.sigma_w_scale", scale, self.precision)
            for sigma in {min(of("sigma_w")), max(of("sigma_w"))}:
                rounded("grid.sigma_w", sigma * scale, self.precision)

    # -- what follows from the settings ------------------------------------------------------------------------------

    def cells(self) -> dict[str, list[float]]:
        """Every number of the cells by name, in the order of `Grid.cells`: the grid's, and what follows from them.

        The learning rate follows from the temperature, epsilon = T B (1 - mu), or T from it where T is defined.
        """
        found: dict[str, list[float]] = {}
        for numbers in self.grid.cells():
            numbers = dict(numbers)
            if self.sgd.optimizer == "sgd":
                factor = self.sgd.batch_size * (1 - numbers.get("momentum", 0.0))
                if "temperature" in numbers:
                    numbers["learning_rate"] = numbers["temperature"] * factor
                else:
                    numbers["temperature"] = numbers["learning_rate"] / factor
            for name, value in numbers.items():
                found.setdefault(name, []).append(value)
        return found

    def starts(self) -> tuple[list[float], list[int]]:
        """What distinguishes the students of a seed at step 0, and which of these each cell has.

        Returns:
            Distinct sigma_W for a draw, the size of the perturbation for a teacher, else the numbers of another run's cells;
            and an index into them for each cell.
        """
        if isinstance(self.start, FromTeacher):
            return [self.start.perturbation], [0] * len(self.cells()["sigma_w"])
        along = (
            ("sigma_w",)
            if isinstance(self.start, FromDraw)
            else [name for name in self.grid.axes if name in self.start.along]
        )
        places = [tuple(cell[name] for name in along) for cell in self.grid.cells()]
        distinct = {place: number for number, place in enumerate(dict.fromkeys(places))}
        numbers = [place[0] for place in distinct] if isinstance(self.start, FromDraw) else list(range(len(distinct)))
        return list(map(float, numbers)), [distinct[place] for place in places]

    def depends_on(self, name: str) -> tuple[str, ...]:
        """The axes along which a number of the cells may change."""
        follows = {"learning_rate": ("temperature", "momentum"), "temperature": ("learning_rate", "momentum")}
        own = dict(self.grid.numbers)
        sources = (name,) if name in own else follows[name]
        return tuple(axis for axis in self.grid.axes if axis in sources)

    @functools.cached_property
    def zero(self) -> frozenset[str]:
        """Numbers the grid gives to the optimizer that are 0 in every cell: their terms are left out of the program."""
        return frozenset(
            name for name, value in self.grid.numbers if not any(value if isinstance(value, tuple) else (value,))
        )

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer, and which numbers of a cell it is given.

        Raises:
            ExperimentError: it is a name that nothing given defines.
        """
        factory = self.sgd.factory
        if factory is None:
            raise _not_known("sgd.optimizer", str(self.sgd.optimizer))
        read, _ = optimizers.numbers_of(factory)
        given = [name for name in self.cells() if name in read]
        return optimizers.Optimizer(
            factory, tuple(n for n in given if n not in self.zero), tuple(n for n in given if n in self.zero)
        )

    @property
    def plain(self) -> bool:
        """Whether an update is minus a constant learning rate times the gradient: the displacement then says the latter."""
        terms = {name for name, _ in self.grid.numbers} & {"momentum", "weight_decay"}
        return self.sgd.optimizer == "sgd" and terms <= self.zero and self.schedule.constant

    @property
    def students(self) -> int:
        """Number of students, cells times seeds."""
        return math.prod(self.grid.shape) * self.grid.seeds

    @property
    def epoch_steps(self) -> int:
        """Updates per epoch, D // B."""
        return self.task.samples // self.sgd.batch_size

    @property
    def ladder(self) -> Ladder:
        """When to look, and at what learning rate to train."""
        return Ladder(self.schedule, self.epoch_steps, self.sgd.batch_size)

    def stops(self) -> list[Stop]:
        """The ladder of stops, ascending from step 0."""
        return self.ladder.stops()

    def changed(self, overrides: Mapping[str, Any]) -> "Experiment":
        """The same with other fields, named as on the command line, `sgd.batch_size`, or whole parts, `network`.

        Args:
            overrides: what is different; a table within it, `{"sgd": {"batch_size": 1}}`, names fields of a part, and one
                with a `kind` is a whole part.

        Raises:
            ExperimentError: there is no such field, or the experiment cannot be.
        """
        fields: dict[str, dict[str, Any]] = {}
        whole: dict[str, Any] = {}
        for path, value in flat(overrides).items():
            table, _, name = path.partition(".")
            if table not in _FIELDS or (name and table not in KINDS):
                allowed = "name a field of an experiment, as sgd.batch_size, or a part of it, as network"
                raise refuse("study", path, allowed)
            if name:
                fields.setdefault(table, {})[name] = frozen(value)
            else:
                whole[table] = part_of(table, dict(value)) if isinstance(value, Mapping) else frozen(value)
        for table, values in fields.items():
            whole[table] = dataclasses.replace(whole.get(table, getattr(self, table)), **values)
        return dataclasses.replace(self, **whole)

    # -- TOML ----------------------------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str) -> "Experiment":
        """One of the presets that come with the package, the lengths of the paper's study: quick, desk or paper."""
        one_of("preset", name, PRESETS)
        study = read_toml(
            (resources.files("phasejax") / "studies" / "paper" / "study.toml").read_text("utf-8"), f"preset {name}"
        )
        return cls.from_tables(study["base"]).changed(study["presets"][name])

    @classmethod
    def from_toml(cls, text: str, source: str = "experiment", version: int = 2) -> "Experiment":
        """Read an experiment from TOML text; what is left out has its default.

        Args:
            text: the document.
            source: what to call it in an error, a file's name for instance.
            version: of the format it was written in.
        """
        tables = read_toml(text, source)
        return cls.from_tables(upgraded(tables) if version == 1 else tables)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> "Experiment":
        """Read an experiment from the tables of its TOML."""
        parts: dict[str, Any] = {}
        for name, value in tables.items():
            if name not in _FIELDS:
                raise unknown(name, _FIELDS)
            if name in KINDS:
                if not isinstance(value, Mapping):
                    raise refuse(name, value, f"it must be a table, written [{name}]")
                parts[name] = part_of(name, dict(value))
            else:
                parts[name] = frozen(value)
            if name == "observe" and isinstance(value, list):
                for given, found in zip(value, parts[name], strict=True):
                    looked_up = isinstance(given, str) and found is not given
                    if looked_up and getattr(found, "name", "") != given.partition(":")[2]:
                        raise refuse(name, given, "it must name an Observable, called in its file what its own name is")
        return cls(**parts)

    @classmethod
    def read(cls, path: str | Path) -> "Experiment":
        """Read an experiment from a TOML file."""
        return cls.from_toml(content_of(path, "experiment"), str(path))

    def to_tables(self) -> dict[str, Any]:
        """The tables of the experiment's TOML."""
        tables: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            tables[name] = table_of(name, value) if name in KINDS else written(value)
        return dict(sorted(tables.items(), key=lambda item: isinstance(item[1], dict)))

    def to_toml(self) -> str:
        """The experiment as TOML; `from_toml` gives back an equal object where all its names are known."""
        import tomli_w

        return tomli_w.dumps(self.to_tables())

    @property
    def identity(self) -> str:
        """SHA-256 of the experiment's TOML."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

    def require_resolved(self) -> None:
        """Raise `ExperimentError` if a name is not known here, or a file not there: it can be looked at, but not trained."""
        for name, table in self.to_tables().items():
            value = getattr(self, name)
            if isinstance(value, Unresolved):
                raise _not_known(name, value.kind)
            for key in table if name in KINDS and name != "grid" else ():
                inner = getattr(value, key, None)
                for one in inner if isinstance(inner, tuple) else (inner,):
                    if names.is_reference(one) and key in ("activation", "loss", "optimizer"):
                        raise _not_known(f"{name}.{key}", str(one))
        for one in self.observe:
            if names.is_reference(one):
                raise _not_known("observe", one)
        getattr(self.task, "require_files", lambda: None)()


def content_of(path: str | Path, what: str) -> str:
    """Text of a settings file.

    Raises:
        ExperimentError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MOST_TOML + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ExperimentError(f"the {what} file {str(path)!r} cannot be read: {reason}.") from None


_FIELDS = [entry.name for entry in dataclasses.fields(Experiment)]  # type: ignore[arg-type]


def _observed(given: Any) -> tuple[Any, ...]:
    chosen = sequence("observe", given)
    for one in chosen:
        if not isinstance(one, str) and not (hasattr(one, "name") and hasattr(one, "function")):
            raise refuse("observe", one, 'give names of observables, "standard", or Observables')
    if not chosen:
        raise refuse("observe", list(chosen), "a run that is observed by nothing says nothing")
    return chosen


def _not_known(name: str, given: str) -> ExperimentError:
    return refuse(
        name, given, "nothing of that name is known here; give the file that defines it with --use, or pass the object"
    )
