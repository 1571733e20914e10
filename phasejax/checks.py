"""How settings are checked and refused: one sentence with the field, what was given and what is allowed.

Nothing here imports jax or numpy. Numbers of any library are taken where Python's own would be.
"""

import dataclasses
import difflib
import functools
import math
import numbers
import re
import reprlib
import struct
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
MAX_STEPS = 2**31 - 1


class ExperimentError(ValueError):
    """A setting that cannot be: one sentence with the field, what was given and what is allowed."""


def refuse(name: str, given: object, allowed: str) -> ExperimentError:
    """The error for a setting: its name, what was given and what is allowed."""
    return ExperimentError(f"{shown(name)} = {_shortened.repr(given)} is not possible: {allowed}.")


class _Shortened(reprlib.Repr):
    """Values as words that a sentence can bear, whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20

    def repr_int(self, x: int, level: int) -> str:
        # Python writes no longer numbers.
        return repr(x) if x.bit_length() < 400 else f"a number of {x.bit_length()} bits"

    def repr_instance(self, x: object, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())


_shortened = _Shortened()


def shown(text: object) -> str:
    """A text from elsewhere as part of a sentence: on one line, without control characters, and not endless."""
    words = str(text)
    words = words if len(words) <= 300 else f"{words[:300]} ..."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in words)


def unknown(name: str, names: Sequence[str], prefix: str = "") -> ExperimentError:
    """The error for a name that does not exist, with the nearest that does."""
    name = shown(name)
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


def rounded(name: str, value: float, precision: str) -> float:
    """A number as the run computes with it.

    Raises:
        ExperimentError: it vanishes there, or is infinite. XLA takes what is smaller than the smallest normal number for 0.
    """
    kind, least = ("f", 2.0**-126) if precision == "float32" else ("d", 2.0**-1022)
    try:
        (found,) = struct.unpack(kind, struct.pack(kind, value))
    except OverflowError:
        found = math.copysign(math.inf, value)
    if math.isinf(found) or (value and abs(found) < least):
        raise refuse(name, value, f"in {precision} it is {found if math.isinf(found) else 0.0:g}")
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


MOST_TOML = 2**20
_FLOAT = re.compile(r"(?<![\w.\"'+-])[+-]?\d+\.\d+(?:[eE][+-]?\d+)?(?![\w.\"'])")


def read_toml(content: str, source: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        ExperimentError: it is none, or larger than any settings. Keys with many dots take the parser memory as their square.
    """
    if len(content) > MOST_TOML:
        raise ExperimentError(f"{source} is too large: settings have at most {MOST_TOML:,} characters.")
    if any(line.count(".") > 50 and _FLOAT.sub("", line).count(".") > 50 for line in content.split("\n")):
        raise ExperimentError(f"{source} has more than 50 dots in a line, those of numbers aside: no settings need as many.")
    try:
        return tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ExperimentError(f"{source} is not valid TOML: {shown(error)}.") from None


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
