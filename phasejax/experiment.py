"""What to run: five frozen parts make an `Experiment`, which reads from TOML and writes to it without loss.

Nothing here imports jax: an experiment can be built, checked and printed before any device is touched.
"""

import dataclasses
import difflib
import hashlib
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from phasejax.activations import activation_names

Order = Literal["cyclic", "shuffled", "iid"]
Optimiser = Literal["sgd", "adam"]
Precision = Literal["float32", "float64"]
EngineName = Literal["auto", "native", "pallas", "fused", "autodiff"]
Reading = Literal["drift", "x_basis", "text", "released"]

PRESETS = ("quick", "desk", "paper")
MAX_STEPS = 2**31 - 1
# Epochs shorter than this many steps are joined into one call, so that a call is always worth its overhead.
_STEPS_PER_CALL = 1000


class ExperimentError(ValueError):
    """A setting that cannot be: one sentence with the field, what was given and what is allowed."""


def refuse(name: str, given: object, allowed: str) -> ExperimentError:
    """The error for a setting: its name, what was given and what is allowed."""
    return ExperimentError(f"{name} = {given!r} is not possible: {allowed}.")


def _whole(name: str, value: object, least: int, most: int = MAX_STEPS) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not least <= int(value) <= most:  # type: ignore[call-overload]
        raise refuse(name, value, f"it must be a whole number from {least} to {most}")
    return int(value)  # type: ignore[call-overload]


def _number(name: str, value: object, allowed: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refuse(name, value, allowed)
    return float(value)


def _sequence(name: str, value: object) -> tuple:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise refuse(name, value, "it must be a list")
    return tuple(value)


def _positive_axis(name: str, values: object) -> tuple[float, ...]:
    allowed = "it must be a list of different positive finite numbers"
    axis = tuple(_number(name, value, allowed) for value in _sequence(name, values))
    if not axis:
        raise refuse(name, list(axis), "the grid is empty; give at least one positive finite number")
    for value in axis:
        if not 0 < value < math.inf:
            raise refuse(name, value, "every entry must be a positive finite number")
        if axis.count(value) > 1:
            raise refuse(name, value, "it stands there more than once; every entry must be different")
    return axis


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise refuse(name, value, f"choose from {', '.join(allowed)}")


def _set(part: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(part, name, value)


@dataclass(frozen=True)
class Network:
    """A feed-forward network without biases (Eqs 2.2-2.4), the same for teacher and student.

    Raises `ExperimentError` on widths below 1, a layer that does not exist or an unknown activation.
    """

    widths: tuple[int, ...] = (3, 32, 16, 1)
    """Nodes per layer n_0 ... n_L, input and output included."""
    activation: str = "tanh"
    """Activation of the hidden nodes: tanh, relu, gelu, erf, identity or a registered name."""
    trainable: tuple[int, ...] = (2,)
    """Layers l = 1 ... L whose weights W^(l) are trained; the others are the teacher's."""
    sigma_w_scale: tuple[float, ...] = ()
    """A trained layer starts at this factor times the grid's sigma_W, one factor a trained layer; empty: all 1."""

    def __post_init__(self) -> None:
        widths = tuple(_whole("network.widths", n, 1) for n in _sequence("network.widths", self.widths))
        if len(widths) < 2:
            raise refuse("network.widths", list(widths), "give at least an input and an output width")
        layers = len(widths) - 1
        given = _sequence("network.trainable", self.trainable)
        for layer in given:
            if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= layer <= layers:
                raise refuse("network.trainable", layer, f"this network has layers 1 to {layers}")
        if not given or len(set(given)) < len(given):
            raise refuse("network.trainable", list(given), f"name at least one of the layers 1 to {layers}, each once")
        scale = tuple(_number("network.sigma_w_scale", s, "give positive finite numbers")
                      for s in _sequence("network.sigma_w_scale", self.sigma_w_scale))  # fmt: skip
        if (scale and len(scale) != len(given)) or not all(0 < s < math.inf for s in scale):
            raise refuse("network.sigma_w_scale", list(scale), "give one positive finite number a trained layer, or none")
        _one_of("network.activation", self.activation, activation_names())
        if scale:  # a scale stays with its layer
            scale = tuple(s for _, s in sorted(zip(given, scale, strict=True)))
        _set(self, widths=widths, trainable=tuple(sorted(given)), sigma_w_scale=scale)

    @property
    def soft_committee(self) -> bool:
        """Whether it trains one layer of tanh nodes, the last before a single frozen output, as the paper's does."""
        return self.activation == "tanh" and self.trainable == (len(self.widths) - 2,) and self.widths[-1] == 1


@dataclass(frozen=True)
class TeacherStudent:
    """The data: Gaussian inputs labelled by a random teacher network (Eq 3.1)."""

    samples: int = 4000
    """Training samples D, drawn afresh for each seed."""
    test_samples: int = 128
    """Test inputs on which observables are measured; the same inputs for every seed."""

    def __post_init__(self) -> None:
        _set(self, samples=_whole("task.samples", self.samples, 1),
             test_samples=_whole("task.test_samples", self.test_samples, 1))  # fmt: skip


@dataclass(frozen=True)
class Sgd:
    """How a student is updated (Eq 2.28)."""

    optimiser: Optimiser = "sgd"
    """`sgd` (with or without momentum) or `adam`, both optax's; with adam no temperature is defined."""
    batch_size: int = 4
    """Samples per update B."""
    momentum: float = 0.0
    """Heavy-ball momentum mu of `sgd`, 0 <= mu < 1; the temperature is then learning rate / (B (1 - mu))."""
    order: Order = "cyclic"
    """Order of the batches: the same every epoch, a new permutation every epoch, or drawn with replacement."""

    def __post_init__(self) -> None:
        _one_of("sgd.optimiser", self.optimiser, get_args(Optimiser))
        _one_of("sgd.order", self.order, get_args(Order))
        momentum = _number("sgd.momentum", self.momentum, "it must be a number from 0 up to, but not including, 1")
        if not 0 <= momentum < 1:
            raise refuse("sgd.momentum", momentum, "it must be a number from 0 up to, but not including, 1")
        if momentum and self.optimiser != "sgd":
            raise refuse("sgd.momentum", momentum, f"the optimiser {self.optimiser} takes none, so it must be 0")
        _set(self, batch_size=_whole("sgd.batch_size", self.batch_size, 1), momentum=momentum)

    @property
    def plain(self) -> bool:
        """Whether an update is just minus the learning rate times the gradient."""
        return self.optimiser == "sgd" and self.momentum == 0


@dataclass(frozen=True)
class Grid:
    """The ensemble: every temperature times every sigma_W times every seed is one student.

    A seed is a label, and one label is the same teacher, data, batch order and standard-normal draw in every cell.
    """

    temperatures: tuple[float, ...] = tuple(2.0**k for k in range(-5, 7))
    """Temperatures T = learning rate / batch size (dimensionless)."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates; where given they take the place of `temperatures`. Needed with adam."""
    sigma_w: tuple[float, ...] = tuple(2.0**-k for k in range(-8, 4))
    """Initialisation scales sigma_W of the trained layers: W_ij ~ N(0, sigma_W^2 / n_(l-1)) (Eq 2.11)."""
    seeds: int = 100
    """Number of seeds."""
    first_seed: int = 0
    """Label of the first seed; the labels are consecutive."""

    def __post_init__(self) -> None:
        learning_rates = _sequence("grid.learning_rates", self.learning_rates)
        seeds = _whole("grid.seeds", self.seeds, 1)
        _set(
            self,
            learning_rates=_positive_axis("grid.learning_rates", learning_rates) if learning_rates else (),
            temperatures=() if learning_rates else _positive_axis("grid.temperatures", self.temperatures),
            sigma_w=_positive_axis("grid.sigma_w", self.sigma_w),
            seeds=seeds,
            first_seed=_whole("grid.first_seed", self.first_seed, 0, MAX_STEPS - seeds),
        )


@dataclass(frozen=True)
class Schedule:
    """How long to train, and when to look."""

    steps: int = 100_000
    """Updates per student; 0 only records the initial state."""
    records_per_decade: int = 8
    """Records per factor of ten in steps, evenly spaced on a log axis; above one epoch they fall on whole epochs."""

    def __post_init__(self) -> None:
        _set(self, steps=_whole("schedule.steps", self.steps, 0),
             records_per_decade=_whole("schedule.records_per_decade", self.records_per_decade, 1, 1000))  # fmt: skip


class Stop(NamedTuple):
    """A step at which the compiled loop comes back to the host, and what is done there."""

    step: int
    record: bool = False
    """Observe."""
    decade: bool = False
    """The record is at step 0, at a power of ten or at the end."""
    end: bool = False
    """The record is the first or the last."""
    mark: bool = False
    """Open the window over which training loss and gradient are averaged, one epoch before a record."""


@dataclass(frozen=True)
class Experiment:
    """A whole run: students of one `Network` on the `TeacherStudent` task, trained by `Sgd` over a `Grid`.

    The defaults are the paper's set-up at the desk length. Derived quantities are properties; everything about a run,
    its ladder of stops included, follows from this object alone.

    Raises:
        ExperimentError: a value, or a combination of values, that cannot be; the message names the field.
    """

    network: Network = field(default_factory=Network)
    task: TeacherStudent = field(default_factory=TeacherStudent)
    sgd: Sgd = field(default_factory=Sgd)
    grid: Grid = field(default_factory=Grid)
    schedule: Schedule = field(default_factory=Schedule)
    precision: Precision = "float32"
    """Floating-point type of training and observables."""

    def __post_init__(self) -> None:
        for part in dataclasses.fields(self):
            expected = _PARTS.get(part.name)
            if expected and not isinstance(getattr(self, part.name), expected):
                raise refuse(part.name, getattr(self, part.name), f"it must be a {expected.__name__}")
        _one_of("precision", self.precision, get_args(Precision))
        batch, samples = self.sgd.batch_size, self.task.samples
        if batch > samples:
            raise refuse("sgd.batch_size", batch, f"a batch cannot be larger than task.samples = {samples}")
        if self.sgd.order != "iid" and samples % batch:
            raise refuse("sgd.batch_size", batch,
                          f"the {self.sgd.order} order needs it to divide task.samples = {samples}")  # fmt: skip
        if self.sgd.optimiser != "sgd" and not self.grid.learning_rates:
            raise refuse("sgd.optimiser", self.sgd.optimiser,
                          "it defines no temperature, so the grid must give grid.learning_rates")  # fmt: skip

    # -- what follows from the settings ------------------------------------------------------------------------------

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Learning rates epsilon = T B (1 - mu), one an entry of the temperature axis."""
        factor = self.sgd.batch_size * (1 - self.sgd.momentum)
        return self.grid.learning_rates or tuple(t * factor for t in self.grid.temperatures)

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        """Temperatures T = epsilon / (B (1 - mu)); None for an optimiser that defines none."""
        if self.sgd.optimiser != "sgd":
            return None
        factor = self.sgd.batch_size * (1 - self.sgd.momentum)
        return self.grid.temperatures or tuple(rate / factor for rate in self.grid.learning_rates)

    @property
    def seed_labels(self) -> range:
        """Labels of the seeds."""
        return range(self.grid.first_seed, self.grid.first_seed + self.grid.seeds)

    @property
    def students(self) -> int:
        """Number of students, cells times seeds."""
        return len(self.learning_rates) * len(self.grid.sigma_w) * self.grid.seeds

    @property
    def epoch_steps(self) -> int:
        """Updates per epoch, D // B."""
        return self.task.samples // self.sgd.batch_size

    @property
    def block_epochs(self) -> int:
        """Epochs whose batches are made at once; more than one only where an epoch is very short."""
        return max(1, _STEPS_PER_CALL // self.epoch_steps)

    def record_steps(self) -> list[int]:
        """The steps at which records are taken, ascending: 0, about `records_per_decade` per decade, and the last.

        Above one epoch a record falls on a whole epoch; powers of ten are recorded as they are.
        """
        last, k = self.schedule.steps, 0
        records = self._decades()
        while (step := round(10 ** (k / self.schedule.records_per_decade))) <= last:
            records.add(min(last, self._whole_epochs(step)))
            k += 1
        return sorted(records)

    def stops(self) -> list[Stop]:
        """The ladder of stops, ascending from step 0: records, marks, and the ends of the blocks of epochs between them.

        No stretch between two stops crosses the end of a block, so a checkpoint is never far away. Of averaging windows
        that overlap only one can be open: that of the last record, else that of the earlier record.
        """
        last, block = self.schedule.steps, self.epoch_steps * self.block_epochs
        records, decades = set(self.record_steps()), self._decades()
        closing = self._window_start(last)
        opened = reached = 0
        marks = {opened, closing}
        for step in sorted(records):
            start = self._window_start(step)
            if start == opened or (reached <= start <= closing and (step <= closing or start == closing)):
                opened, reached = start, step
                marks.add(start)
        steps = sorted(records | marks | set(range(0, last, block)))
        return [Stop(s, s in records, s in decades, s in (0, last), s in marks) for s in steps]

    def window_steps(self, step: int) -> int:
        """Updates over which a record averages the training loss and gradient: an epoch, or all so far if fewer."""
        return step - self._window_start(step)

    def _window_start(self, step: int) -> int:
        return max(0, step - self.epoch_steps)

    def _decades(self) -> set[int]:
        last = self.schedule.steps
        return {0, last} | {10**k for k in range(len(str(last))) if 10**k <= last}

    def _whole_epochs(self, step: int) -> int:
        return step if step <= self.epoch_steps else round(step / self.epoch_steps) * self.epoch_steps

    # -- TOML ----------------------------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str) -> "Experiment":
        """One of the presets that come with the package: quick, desk or paper."""
        _one_of("preset", name, PRESETS)
        return cls.from_toml((resources.files("phasejax") / "presets" / f"{name}.toml").read_text("utf-8"), f"preset {name}")

    @classmethod
    def from_toml(cls, text: str, source: str = "experiment") -> "Experiment":
        """Read an experiment from TOML text; what is left out has its default.

        Args:
            text: the document.
            source: what to call it in an error, a file's name for instance.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ExperimentError(f"{source} is not valid TOML: {error}.") from None
        _known("", tables, [f.name for f in dataclasses.fields(cls)])
        parts: dict[str, Any] = {}
        for name, value in tables.items():
            if name not in _PARTS:
                parts[name] = value
                continue
            if not isinstance(value, dict):
                raise refuse(name, value, f"it must be a table, written [{name}]")
            _known(name + ".", value, [f.name for f in dataclasses.fields(_PARTS[name])])
            parts[name] = _PARTS[name](**value)
        return cls(**parts)

    @classmethod
    def read(cls, path: str | Path) -> "Experiment":
        """Read an experiment from a TOML file."""
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ExperimentError(f"the experiment file {str(path)!r} cannot be read: {reason}.") from None
        return cls.from_toml(text, str(path))

    def to_toml(self) -> str:
        """The experiment as TOML; `from_toml` gives back an equal object."""
        import tomli_w

        return tomli_w.dumps(dataclasses.asdict(self))

    @property
    def identity(self) -> str:
        """SHA-256 of the experiment's TOML: equal for equal experiments."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()


_PARTS: dict[str, type] = {"network": Network, "task": TeacherStudent, "sgd": Sgd, "grid": Grid, "schedule": Schedule}


def _known(prefix: str, table: dict[str, Any], names: list[str]) -> None:
    for name in table:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {prefix}{close[0]}" if close else f"choose from {', '.join(names)}"
            raise ExperimentError(f"{prefix}{name} is not a field of an experiment: {hint}.")
