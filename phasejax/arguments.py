"""What stands on a command line: options, by tyro, and settings, `--grid.sigma-w 0.5,1,2 --task.kind Digits`, in TOML."""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import re
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import tyro

from phasejax import optimizers, starts, tasks
from phasejax.checks import ExperimentError
from phasejax.experiment import Experiment
from phasejax.parts import part_fields

T = TypeVar("T")
Given = dict[tuple[str, ...], Any]
"""Values by table and field, or by field alone."""


def split(argv: Sequence[str]) -> tuple[list[str], Given]:
    """Arguments that are no settings, and the settings among them.

    A value is TOML's or a word; several, or several with commas between them, are a list.
    """
    rest: list[str] = []
    given: Given = {}
    tables = [field.name for field in fields(Experiment)]  # type: ignore[arg-type]
    arguments = list(argv)
    while arguments:
        option, equals, value = arguments.pop(0).partition("=")
        table, *field = path = tuple(option.removeprefix("--").replace("-", "_").split("."))
        if not option.startswith("--") or (not field and table not in ("precision", "observe")):
            rest.append(option + equals + value)
            continue
        if len(field) > 1 or table not in tables:
            raise ExperimentError(
                f"{option} is not an option: settings are --table.field, with {', '.join(tables)} for tables."
            )
        values = [value] if equals else []
        while arguments and not equals and not arguments[0].startswith("--"):
            values.append(arguments.pop(0))
        given[path] = _value(values)
    return rest, given


def _value(words: list[str]) -> Any:
    if len(words) == 1 and "," in words[0] and words[0][:1] not in "[{\"'":
        words = [word for word in words[0].split(",") if word]
        return [_toml(word) for word in words]
    return _toml(words[0]) if len(words) == 1 else [_toml(word) for word in words]


def _toml(word: str) -> Any:
    try:
        read = tomllib.loads(f"value = {word}")
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return word
    return read["value"] if set(read) == {"value"} else word


def applied(experiment: Experiment, given: Given) -> Experiment:
    """An experiment with other settings.

    Raises:
        ExperimentError: it cannot be.
    """
    tables = experiment.to_tables()
    depth = len(tables["network"].get("widths", ()))
    for path, value in given.items():
        if len(path) == 1:
            tables[path[0]] = [value] if path[0] == "observe" and not isinstance(value, list) else value
            continue
        name, field = path
        table: dict[str, Any] = tables[name]
        if field == "kind":
            if table.get("kind", type(getattr(experiment, name)).__name__) != value:
                # What another kind was given says nothing of this one.
                own = {at[1]: other for at, other in given.items() if at[0] == name and len(at) > 1}
                tables[name] = own | {"kind": value}
            continue
        if name == "grid":
            for one, other in (("temperature", "learning_rate"), ("learning_rate", "temperature")):
                if field == one and (name, other) not in given:
                    table.pop(other, None)
        listed = isinstance(table.get(field), list) and name != "grid" and not (field == "rate" and isinstance(value, str))
        table[field] = [value] if listed and not isinstance(value, list) else value
    widths = tables["network"].get("widths")
    if isinstance(widths, list) and len(widths) != depth and depth and ("network", "trainable") not in given:
        layers = " ".join(map(str, range(1, len(widths))))
        raise ExperimentError("network.trainable is missing: a network of another depth needs it, "
                              f"--network.trainable {layers} to train all layers.")  # fmt: skip
    return Experiment.from_tables(tables)


def help_of(experiment: Experiment) -> str:
    """A list of all settings with their meaning and their defaults."""
    lines = ["settings, each --table.field VALUE; lists are 1 2 4 or 1,2,4, and a list of the grid's numbers is an axis:"]
    tables = experiment.to_tables()
    for field in fields(Experiment):  # type: ignore[arg-type]
        part = getattr(experiment, field.name)
        if not isinstance(tables[field.name], Mapping):
            lines += _entry(f"--{field.name}", tables[field.name], _described(Experiment).get(field.name, ""))
            continue
        meanings = _described(type(part))
        lines.append(f"\n[{field.name}] {(type(part).__doc__ or '').splitlines()[0]}")
        for name, value in tables[field.name].items():
            lines += _entry(f"--{field.name}.{name.replace('_', '-')}", value, meanings.get(name, _NUMBERS.get(name, "")))
        if field.name == "grid":
            lines += _entry("--grid.NAME", "", f"Any other number that the optimizer reads: {_read_by_optimizers()}; "
                            "a learning rate is given in place of the temperature.")  # fmt: skip
        if field.name in _KINDS:
            lines += _entry(f"--{field.name}.kind", type(part).__name__, _kinds(field.name, type(part)))
    return "\n".join(lines) + "\n"


_NUMBERS = {
    "temperature": "T = learning rate / (batch size (1 - momentum)) of sgd.",
    "sigma_w": "Initialisation scale of the trained layers, W_ij ~ N(0, sigma_W^2 / n_(l-1)).",
}


_KINDS: dict[str, Mapping[str, type]] = {"network": {}, "task": tasks.KINDS, "start": starts.KINDS}
"""Tables of which there are several kinds, and the built-in ones."""


def _kinds(table: str, default: type) -> str:
    """What another kind of part is called, and what settings it has."""
    others = []
    for name, kind in _KINDS[table].items():
        own = [option.replace("_", "-") for option in part_fields(kind) if option not in ("x", "y", "test_x", "test_y")]
        others += [f"{name} ({', '.join(own)})"] if kind is not default else []
    own_kind = [] if table == "start" else ["file:Class, a frozen dataclass of your own in a file given with --use"]
    return " or ".join([*others, *own_kind]) + "."


def _read_by_optimizers() -> str:
    """The numbers that the built-in optimizers read."""
    return "; ".join(f"{', '.join(optimizers.numbers_of(factory)[0])} ({name})"
                     for name, factory in optimizers.BUILT_IN.items())  # fmt: skip


def _entry(option: str, value: Any, meaning: str) -> list[str]:
    default = value
    if isinstance(value, list):
        default = " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    words = f"{meaning} (default: {default})" if default not in ("", None) else meaning
    return [f"  {option}", *textwrap.wrap(words, 96, initial_indent="      ", subsequent_indent="      ")]


def _described(kind: type) -> dict[str, str]:
    """What stands below each field of a class in its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, after in itertools.pairwise(body):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    return found


def parse(command: type[T], argv: Sequence[str], name: str, more_help: Callable[[], str] = str) -> T:
    """tyro's parser, with its framed errors turned into one sentence."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(command, args=argv, prog=f"phasejax {name}", return_unknown_args=True)
    except SystemExit as left:
        if not left.code:
            print(more_help(), end="")
            raise
        raise ExperimentError(_sentence(complaint.getvalue())) from None
    if unknown:
        options = [field.name.replace("_", "-") for field in dataclasses.fields(command)]  # type: ignore[arg-type]
        close = difflib.get_close_matches(unknown[0].lstrip("-"), options, 1)
        hint = f"did you mean --{close[0]}" if close else "--help lists what there is"
        raise ExperimentError(f"{unknown[0]} is not an option: {hint}.")
    return parsed


def _sentence(framed: str) -> str:
    """What a framed error of tyro's says, from under its title to the next rule, as one sentence about a field."""
    lines = [line.strip("│╭╮╰╯ ") for line in framed.splitlines()][1:]
    ruled = [set(line) <= {"─", "-"} for line in lines]
    start = ruled.index(False) if False in ruled else 0
    end = ruled.index(True, start) if True in ruled[start:] else len(lines)
    text = " ".join(lines[start:end])
    for pattern, sentence in _REWORDED:
        text = re.sub(pattern, sentence, text)
    return text


_REWORDED = (
    (r"^Error parsing [\w.]*: (?=[\w.]+ = )", ""),  # our own refusal, raised while tyro built a part
    (
        r"^Error parsing --([\w.-]+): invalid literal for int\(\) .*: (.*)$",
        r"\1 = \2 is not possible: it must be a whole number.",
    ),
    (
        r"^Error parsing --([\w.-]+): could not convert string to float: (.*)$",
        r"\1 = \2 is not possible: it must be a number.",
    ),
    (
        r"^Error parsing --([\w.-]+): Could not find valid parse for arguments: (.*)$",
        r"\1 = \2 is not possible: see --help.",
    ),
    (
        r"^invalid choice ('.*') for argument '--(.*)'. Expected one of \((.*)\)\.$",
        r"\2 = \1 is not possible: choose from \3.",
    ),
)
