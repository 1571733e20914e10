"""What a run is: its settings, its engine, and the programs that are computed.

A run goes on, and slabs are joined, only where all of this is the same. Programs are told apart by their text as lowered for
one device and two seeds, which is deterministic: it does not change with a caption or a comment, and does with another
function under an old name, another random-number setting or another version's arithmetic. C++ kernels are in it by the
digest of their source, whether they could be built or not. What Python does in a callback is not in a program's text, so its
code is hashed beside it.
"""

import dataclasses
import functools
import hashlib
import json
import types
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from phasejax.ensemble import Place, build
from phasejax.experiment import Experiment
from phasejax.kernels.build import by_name
from phasejax.observables import Observable

_SEEDS = 2


class Identity(NamedTuple):
    """What a state must agree in to be gone on with."""

    whole: str
    """SHA-256 of all of it but which seeds there are."""
    programs: str
    """SHA-256 of what is computed, whatever the values of the cells and however long."""


def identify(experiment: Experiment, engine: Any, observables: Sequence[Observable], devices: Sequence[Any]) -> Identity:
    """The identity of a run, from within `training.settings_of` its experiment."""
    first = (devices[0],)
    found = hashlib.sha256(engine.name.encode())
    with by_name():
        known = None if _of_ones_own(experiment, engine, observables) else ""
        ensemble = build(experiment, engine.advance(experiment, first), observables, Place(first), known)
        functions = {name: getattr(ensemble, name) for name in ("seeds", "init", "batches", "advance", "mark")}
        functions |= {f"observe {when}": function for when, function in ensemble.observe.items()}
        for name, arguments in ensemble.shapes(experiment, _SEEDS).items():
            traced = functions[name].trace(*arguments)
            found.update(traced.lower().as_text().encode())
            for callback in _callbacks(traced.jaxpr.jaxpr):
                found.update(_code(callback).encode())
    programs = found.hexdigest()
    tables = experiment.to_tables()
    for seeds in ("seeds", "first_seed"):
        del tables["grid"][seeds]
    stops = experiment.stops()
    found.update(json.dumps([tables, experiment.cells(), experiment.starts()]).encode())
    found.update(array("q", [step for stop in stops for step in stop]).tobytes())
    if not experiment.schedule.constant:
        found.update(array("d", [experiment.schedule.factor(stop.step) for stop in stops]).tobytes())
    return Identity(found.hexdigest(), programs)


def _of_ones_own(experiment: Experiment, engine: Any, observables: Sequence[Observable]) -> bool:
    """Whether anything traced is none of the libraries' functions, which read nothing that changes."""
    parts = (experiment.network, experiment.task, experiment.start, experiment.sgd.factory, engine)
    return any(map(_foreign, (*parts, *(one.function for one in observables))))


def _foreign(thing: Any) -> bool:
    if isinstance(thing, tuple):
        return any(map(_foreign, thing))
    if isinstance(thing, functools.partial):
        return any(map(_foreign, (thing.func, *thing.args, *thing.keywords.values())))
    if isinstance(thing, types.ModuleType):
        return thing.__name__.partition(".")[0] != "phasejax"
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return _foreign(type(thing)) or any(_foreign(getattr(thing, field.name)) for field in dataclasses.fields(thing))
    if not callable(thing):
        return False
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return module.partition(".")[0] not in ("phasejax", "jax", "optax")


def _callbacks(jaxpr: Any) -> Iterator[Any]:
    """Host functions that a program calls, of the programs within it too."""
    for equation in jaxpr.eqns:
        if "callback" in equation.params:
            yield equation.params["callback"]
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _callbacks(inner)


def _code(function: Any) -> str:
    """What a host function does, in words that change with it: its code, the code and the numbers it closes over."""
    while inner := next(
        (getattr(function, name) for name in ("callback_func", "__wrapped__", "func") if hasattr(function, name)), None
    ):
        function = inner
    code = getattr(function, "__code__", None)
    if code is None:
        return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    closed = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    inner = [
        _code(value) if callable(value) else repr(value) if isinstance(value, int | float | str) else "" for value in closed
    ]
    return repr((_instructions(code), function.__defaults__ and list(map(repr, function.__defaults__)), inner))


def _instructions(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_instructions(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, constants, code.co_names
