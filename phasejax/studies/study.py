"""A study: experiments that differ in what cannot be an axis (batch size, widths, order ...), and one tree of results.

    Study(base, vary={"sgd.batch_size": [1, 4, 16]}, clock="epochs").run("runs/batch")

trains `runs/batch/batch_size=1.nc` and so on, each a run like any other, and opens them as one DataTree.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasejax.checks import ExperimentError, one_of, part, read_toml, refuse, sequence, set_fields, text
from phasejax.experiment import Experiment
from phasejax.parts import KINDS, flat, frozen, part_of, table_of, written

if TYPE_CHECKING:
    import xarray as xr

CLOCKS = ("steps", "epochs", "time")
ONLY = "base"
"""Name of the only member of a study that varies nothing."""


@part("study")
class Study:
    """Several experiments made of one, and the clock on which their records fall together.

    Fields are named as in a settings file, `sgd.batch_size`, or whole parts, `network`. A study that varies nothing has one
    member, its base.

    Raises:
        ExperimentError: a field that does not exist, a member that cannot be, or a clock on which they do not fall together.
    """

    base: Experiment
    """What all have in common."""
    vary: Any = ()
    """A mapping of fields to the values they take: every combination of them is a member."""
    members: Any = ()
    """A mapping of names of further members to the fields in which they differ from the base."""
    presets: Any = ()
    """A mapping of names, of lengths mostly, to the fields of the base that are other there: `at` chooses one."""
    question: str = ""
    """What is asked, in a sentence."""
    clock: str = "steps"
    """Members are equally long in steps, epochs, or time (learning rate times steps), and recorded at the same of these."""

    def __post_init__(self) -> None:
        if not isinstance(self.base, Experiment):
            raise refuse("study.base", self.base, "it must be an Experiment")
        one_of("study.clock", self.clock, CLOCKS)
        vary = {
            name: tuple(_value(name, value) for value in sequence(f"study.vary.{name}", values))
            for name, values in flat(_mapping("vary", self.vary)).items()
        }
        named = {
            table: tuple(
                (text(f"study.{table}", name), tuple((path, _value(path, value)) for path, value in flat(of).items()))
                for name, of in ((name, _mapping(name, of)) for name, of in _mapping(table, getattr(self, table)).items())
            )
            for table in ("members", "presets")
        }
        set_fields(self, vary=tuple(vary.items()), question=text("study.question", self.question), **named)
        for name, _ in self.presets:
            self.at(name)
        if not self.presets:
            self.experiments()

    def at(self, preset: str) -> "Study":
        """The study at one of its lengths.

        Raises:
            ExperimentError: it has no such preset, or what is other there cannot be.
        """
        one_of("preset", preset, [name for name, _ in self.presets])
        return replace(self, base=self.base.changed(dict(dict(self.presets)[preset])), presets=())

    def experiments(self) -> dict[str, Experiment]:
        """The members by name, in the order in which they are said."""
        found: dict[str, Experiment] = {}
        for name, overrides in self._overrides():
            if name in found:
                raise refuse("study.members", name, "two members have this name")
            found[name] = self.base.changed(overrides)
        if not found:
            return {ONLY: self.base}
        return self._in_step(found) if self.clock != "steps" else found

    def _overrides(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names of the members, and in which fields they differ from the base."""
        paths: list[str] = [path for path, _ in self.vary]
        for values in itertools.product(*(values for _, values in self.vary)) if paths else ():
            words = (f"{path.rpartition('.')[2]}={_word(value)}" for path, value in zip(paths, values, strict=True))
            yield ",".join(words), {path: value for path, value in zip(paths, values, strict=True)}  # noqa: C416
        for name, overrides in self.members:
            yield _word(name), dict(overrides)

    def _in_step(self, found: dict[str, Experiment]) -> dict[str, Experiment]:
        """Members as long as the base on the clock, with records at the same times.

        The member with the fewest steps has a ladder of its own; the others' is that one times a whole number.
        """
        lengths = {name: self._rate(self.base, name) / self._rate(member, name) for name, member in found.items()}
        steps = {name: self.base.schedule.steps * length for name, length in lengths.items()}
        fewest = min(steps.values())
        for name, number in steps.items():
            if number.denominator != 1 or (fewest and (number / fewest).denominator != 1):
                allowed = f"the steps of the member {name} would be {float(number):g}, not a multiple of {float(fewest):g}"
                raise refuse("study.clock", self.clock, allowed)
        strides = {name: int(number / fewest) if fewest else 1 for name, number in steps.items()}
        return {
            name: replace(member, schedule=replace(member.schedule, steps=int(steps[name]), stride=strides[name]))
            for name, member in found.items()
        }

    def _rate(self, experiment: Experiment, name: str) -> Fraction:
        """How far the clock goes in a step."""
        if self.clock == "epochs":
            return Fraction(experiment.sgd.batch_size, experiment.task.samples)
        rates, base = experiment.cells()["learning_rate"], self.base.cells()["learning_rate"]
        ratios = {Fraction(rate / of).limit_denominator(10**6) for rate, of in zip(rates, base, strict=False)}
        if len(ratios) != 1 or len(rates) != len(base):
            allowed = f"the learning rates of the member {name} are not those of the base times a number"
            raise refuse("study.clock", "time", allowed)
        return ratios.pop()

    def run(self, folder: str | Path, **options: Any) -> "xr.DataTree":
        """Train what is missing, and open all of it.

        Args:
            folder: where the members' files go; a member that is there is gone on with, or taken as it is.
            **options: as `simulate` takes them.

        Returns:
            A node a member, each the Dataset of its run (step axes may differ), and the question as an attribute.

        Raises:
            StoreError: the folder holds something else.
        """
        from phasejax.files.layout import begun
        from phasejax.simulation import simulate

        for name, experiment in self.keep(folder).items():
            out = Path(folder) / name
            simulate(experiment, out, resume=begun(out), **options).close()
        return open_study(folder)

    def keep(self, folder: str | Path) -> dict[str, Experiment]:
        """Write down in the folder which study it holds; returns the members.

        Raises:
            StoreError: it holds another one.
        """
        from phasejax.files.durable import StoreError, atomically, make

        folder, described = Path(folder), self.to_toml()
        kept = folder / "study.toml"
        if kept.exists() and kept.read_text("utf-8") != described:
            raise StoreError(f"{folder} holds another study: choose another folder.")
        make(folder)
        with atomically(kept, folder) as temporary:
            temporary.write_text(described, "utf-8")
        return self.experiments()

    def to_toml(self) -> str:
        """The study as TOML; `from_toml` gives back an equal one where all its names are known."""
        import tomli_w

        tables: dict[str, Any] = {"question": self.question, "clock": self.clock, "base": self.base.to_tables()}
        tables["vary"] = {path: [_table(path, value) for value in values] for path, values in self.vary}
        tables["member"] = [{"name": name} | _overriding(overrides) for name, overrides in self.members]
        tables["presets"] = {name: _overriding(overrides) for name, overrides in self.presets}
        return tomli_w.dumps({name: table for name, table in tables.items() if table})

    @classmethod
    def from_toml(cls, content: str, source: str = "study") -> "Study":
        """Read a study from TOML text: question, clock, [base], [vary], [[member]] with a name each, and [presets.NAME]."""
        tables = read_toml(content, source)
        known = ("question", "clock", "base", "vary", "member", "presets")
        for name, value in tables.items():
            if name not in known:
                raise refuse(name, value, f"a study has {', '.join(known)}")
        named = tables.pop("member", [])
        if not isinstance(named, list) or not all(isinstance(one, Mapping) and "name" in one for one in named):
            raise refuse("member", named, "write [[member]], with a name each")
        members: dict[str, Any] = {}
        for one in named:
            if text("member.name", one["name"]) in members:
                raise refuse("member.name", one["name"], "two members have this name")
            members[one["name"]] = {path: value for path, value in one.items() if path != "name"}
        base = Experiment.from_tables(_mapping("base", tables.pop("base", {})))
        return cls(base, members=members, **tables)

    @classmethod
    def read(cls, path: str | Path) -> "Study":
        """Read a study from a TOML file."""
        from phasejax.experiment import content_of

        return cls.from_toml(content_of(path, "study"), str(path))


def members_in(folder: str | Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Where each member of a study is or will be, and the tables of its study.toml.

    Raises:
        StoreError: there is no study in the folder.
    """
    from phasejax.files.durable import StoreError

    folder = Path(folder)
    try:
        described = (folder / "study.toml").read_text("utf-8")
        tables = read_toml(described, "study.toml")
    except (OSError, ValueError):
        raise StoreError(f"{folder} holds no study: its study.toml cannot be read.") from None
    try:
        names = list(Study.from_toml(described).experiments())
    except ExperimentError:  # it was made where more names are known; its members are still runs
        names = sorted({path.stem if path.suffix == ".nc" else path.name for path in folder.iterdir()} - {"study.toml"})
    return {name: folder / name for name in names}, tables


def open_study(folder: str | Path) -> "xr.DataTree":
    """The results of a study as one DataTree: a node a member, those that have records so far.

    Raises:
        StoreError: there is no study in the folder, or nothing recorded yet.
    """
    import xarray as xr

    from phasejax.files.durable import StoreError
    from phasejax.files.layout import has_records
    from phasejax.files.reading import open_run

    members, tables = members_in(folder)
    nodes = {name: open_run(member) for name, member in members.items() if has_records(member)}
    if not nodes:
        raise StoreError(f"{folder} has no records yet.")
    tree = xr.DataTree.from_dict(nodes, name=Path(folder).name)
    tree.attrs.update(question=str(tables.get("question", "")), clock=str(tables.get("clock", "steps")))
    return tree


def open_any(path: str | Path) -> "xr.Dataset | xr.DataTree":
    """Open a finished file, the records so far of a run that has not ended, or a folder of a study as a DataTree.

    Args:
        path: `runs/desk.nc`, or the folder `runs/desk`.

    Raises:
        StoreError: there is neither.
    """
    from phasejax.files.reading import open_run

    return open_study(path) if (Path(path) / "study.toml").is_file() else open_run(path)


def _word(value: Any) -> str:
    """A value as part of a file's name."""
    if isinstance(value, tuple | list):
        return "-".join(map(_word, value))
    if is_dataclass(value) and not isinstance(value, type):
        return "-".join([type(value).__name__, *(_word(getattr(value, field.name)) for field in fields(value))][:3])
    return re.sub(r"[^\w.+=,-]", "_", f"{value:g}" if isinstance(value, float) else str(written(value)))


def _mapping(name: str, given: Any) -> dict[Any, Any]:
    """A table, or what one has become in a study."""
    if not isinstance(given, Mapping) and not (isinstance(given, tuple) and all(isinstance(one, tuple) for one in given)):
        raise refuse(f"study.{name}", given, "it must be a table")
    return dict(given)


def _value(path: str, value: Any) -> Any:
    """A field's value as a part has it; a whole part may be given as its table."""
    return part_of(path, dict(value)) if path in KINDS and isinstance(value, Mapping) else frozen(value)


def _table(path: str, value: Any) -> Any:
    """The same for TOML, where a table without `kind` would be some fields of a part."""
    if path not in KINDS:
        return written(value)
    return {"kind": next(iter(KINDS[path])), **table_of(path, value)}


def _overriding(overrides: Any) -> dict[str, Any]:
    return {path: _table(path, value) for path, value in overrides}
