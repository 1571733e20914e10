"""Parts of an experiment as tables of a settings file, and back.

A table's `kind` names a built-in class, or a frozen dataclass of one's own as `module:Class`; its other keys are the fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from phasejax import names, starts, tasks
from phasejax.checks import ExperimentError, refuse, unknown
from phasejax.grid import Grid
from phasejax.network import ACTIVATIONS, Network
from phasejax.optimizers import Sgd
from phasejax.schedule import Schedule

KINDS: dict[str, Mapping[str, type]] = {
    "network": {"Network": Network},
    "task": tasks.KINDS,
    "sgd": {"Sgd": Sgd},
    "grid": {"Grid": Grid},
    "schedule": {"Schedule": Schedule},
    "start": starts.KINDS,
}
"""Built-in kinds of each part, the first of which a table without `kind` is."""


@dataclass(frozen=True)
class Unresolved:
    """A part whose class is not known here: its settings, to be looked at, counted, and written down again."""

    kind: str
    settings: tuple[tuple[str, Any], ...]

    def __getattr__(self, name: str) -> Any:
        for known, value in self.__dict__.get("settings", ()):
            if known == name:
                return value
        raise AttributeError(f"{self.__dict__.get('kind')} is not known here, nor its {name}")


def part_fields(kind: type) -> list[str]:
    """Names of what a table of this kind may have."""
    return [entry.name for entry in fields(kind) if entry.name != "numbers"]


def check_part(name: str, value: Any, attributes: Sequence[str]) -> None:
    """Raise unless a part is of a known kind, or a frozen dataclass with these attributes."""
    if isinstance(value, Unresolved):
        return
    if name == "start" and not isinstance(value, tuple(KINDS[name].values())):
        raise refuse(name, value, f"it must be a {' or '.join(KINDS[name])}")
    frozen = not isinstance(value, type) and getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
    lacking = [attribute for attribute in attributes if not hasattr(value, attribute)]
    if name == "task" and not (hasattr(value, "load") or hasattr(value, "draw")):
        lacking.append("load or draw")
    if not frozen or lacking:
        known = " or ".join(KINDS[name])
        asked = f" with {', '.join(attributes)}" if attributes else ""
        raise refuse(name, value, f"it must be a {known}, or a frozen dataclass of your own{asked}"
                     + (f"; it has no {', '.join(lacking)}" if lacking else ""))  # fmt: skip
    try:
        hash(value)
    except TypeError:
        raise refuse(name, value, "its fields must be hashable: tuples in place of lists and arrays") from None


def frozen(value: Any) -> Any:
    """A TOML value as a field has it: lists are tuples, and names known here are what they name."""
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    if isinstance(value, Mapping):
        return tuple((name, frozen(inner)) for name, inner in value.items())
    return names.look_up(value) if names.is_reference(value) else value


def flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by their paths, `sgd.batch_size`; a table with a `kind` is a whole part, and stays one."""
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping) and name in KINDS and "kind" not in value:
            found |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            found[name] = value
    return found


def part_of(name: str, table: dict[str, Any]) -> Any:
    """The part that a table describes."""
    kinds = KINDS[name]
    kind = table.pop("kind", next(iter(kinds)))
    settings = {key: frozen(value) for key, value in table.items()}
    cls: Any = kinds.get(kind) if isinstance(kind, str) else None
    if cls is None:
        cls = names.look_up(kind) if names.is_reference(kind) else None
        if isinstance(cls, str):
            return Unresolved(kind, tuple(settings.items()))
        if not hasattr(cls, "__dataclass_fields__"):
            raise refuse(f"{name}.kind", kind, f"choose from {', '.join(kinds)}, or name a frozen dataclass module:Class")
    if cls is Grid:
        return Grid(**settings)
    if name == "task" and "samples" not in part_fields(cls):
        settings.pop("samples", None)
    for key in settings:
        if key not in part_fields(cls):
            raise unknown(key, part_fields(cls), f"{name}.")
    try:
        return cls(**settings)
    except TypeError as error:
        raise ExperimentError(f"{name} of kind {kind} is not possible: {error}.") from None


def table_of(name: str, value: Any) -> dict[str, Any]:
    """A part as a table."""
    if isinstance(value, Unresolved):
        return {"kind": value.kind, **{key: written(inner) for key, inner in value.settings}}
    if isinstance(value, Grid):
        rest = {key: getattr(value, key) for key in part_fields(Grid)}
        return {key: written(inner) for key, inner in (*value.numbers, *rest.items())}
    kind, default = names.name_of(type(value), KINDS[name]), next(iter(KINDS[name]))
    values = {entry.name: getattr(value, entry.name) for entry in fields(value)}
    table = {key: written(inner) for key, inner in values.items() if inner is not None and not hasattr(inner, "dtype")}
    if name == "task" and "samples" not in values:
        table["samples"] = value.samples  # for whoever reads it without the class
    return table if kind == default else {"kind": kind, **table}


def written(value: Any) -> Any:
    """A field's value as TOML has it: tuples are lists, and what has a name is its name."""
    if isinstance(value, tuple | list):
        return [written(inner) for inner in value]
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    # An observable is called by its own name in its file, and says so.
    return getattr(value, "reference", None) or names.name_of(value)


_LISTS = ("temperatures", "learning_rates")


def upgraded(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of an experiment written in format version 1, in the present format."""
    new = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tables.items()}
    network, sgd, grid = new.get("network"), new.get("sgd"), new.get("grid")
    if isinstance(network, dict) and isinstance(found := network.get("activation"), str) and found not in ACTIVATIONS:
        network["activation"] = found if names.is_reference(found) else f"unknown:{found}"  # registered under a name alone
    if isinstance(sgd, dict) and isinstance(grid, dict) and {"optimiser", *_LISTS} & {*sgd, *grid}:
        if "optimiser" in sgd:
            sgd["optimizer"] = sgd.pop("optimiser")
        momentum = sgd.pop("momentum", 0.0)
        rates, temperatures = grid.pop("learning_rates", []), grid.pop("temperatures", [])
        axis = {"learning_rate": rates} if rates else {"temperature": temperatures}
        new["grid"] = {**axis, "sigma_w": grid.pop("sigma_w", []), **({"momentum": momentum} if momentum else {}), **grid}
    return new
