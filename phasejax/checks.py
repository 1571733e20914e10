"""How settings are checked and refused: one sentence with the field, what was given and what is allowed.

Nothing here imports jax or numpy. Numbers of any library are taken where Python's own would be.
"""

import dataclasses
import difflib
import functools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
MAX_STEPS = 2**31 - 1


class ExperimentError(ValueError):
    """A setting that cannot be: one sentence with the field, what was given and what is allowed."""


def refuse(name: str, given: object, allowed: str) -> ExperimentError:
    """The error for a setting: its name, what was given and what is allowed."""
    return ExperimentError(f"{name} = {given!r} is not possible: {allowed}.")


def unknown(name: str, names: Sequence[str], prefix: str = "") -> ExperimentError:
    """The error for a name that does not exist, with the nearest that does."""
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {prefix}{close[0]}" if close else f"choose from {', '.join(names)}"
    return ExperimentError(f"{prefix}{name} is not a field of an experiment: {hint}.")


def scalar(value: object) -> object:
    """A number of another library (an array without axes, say) as Python's own; anything else as it is."""
    if isinstance(value, bool | str | int | float):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()  # type: ignore[attr-defined]
    return value


def whole(name: str, value: object, least: int, most: int = MAX_STEPS) -> int:
    """A whole number within limits."""
    value = scalar(value)
    right = isinstance(value, numbers.Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not right or not least <= int(value) <= most:  # type: ignore[call-overload]
        raise refuse(name, value, f"it must be a whole number from {least} to {most}")
    return int(value)  # type: ignore[call-overload]


def number(name: str, value: object, allowed: str = "it must be a finite number", above: float = -math.inf) -> float:
    """A finite number, larger than `above`."""
    value = scalar(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise refuse(name, value, allowed)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and found > above):
        raise refuse(name, found, allowed)
    return found


def sequence(name: str, value: object) -> tuple:
    """A list of anything, as a tuple."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise refuse(name, value, "it must be a list")
    return tuple(value)


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """A word among those allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise refuse(name, value, f"choose from {', '.join(allowed)}")


def text(name: str, value: object) -> str:
    """A text, or a path as one."""
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise refuse(name, value, "it must be a text")
    return str(value)


def set_fields(part: object, **values: object) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__` only."""
    for name, value in values.items():
        object.__setattr__(part, name, value)


@dataclass_transform(frozen_default=True)
def part(table: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that answers a wrong keyword with the nearest right one, as a settings file does."""

    def decorate(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True)(cls)
        original = made.__init__
        names = [field.name for field in dataclasses.fields(made)]  # type: ignore[arg-type]

        @functools.wraps(original)
        def init(self: Any, *values: Any, **named: Any) -> None:
            for name in named:
                if name not in names:
                    raise unknown(name, names, f"{table}." if table else "")
            original(self, *values, **named)

        made.__init__ = init
        return made

    return decorate
