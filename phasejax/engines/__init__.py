"""Ways to advance the State: equal in result, different in speed.

An engine is an object with a name and two functions: `why_not`, a reason without its full stop or None, and `advance`, the
function of one shard (`phasejax.state.Advance`), which is compiled once if equal experiments get the very same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from phasejax.checks import refuse
from phasejax.engines import autodiff, native, pallas
from phasejax.experiment import Experiment
from phasejax.state import Advance


class Engine(Protocol):
    """What an engine is; a module or an instance."""

    name: str

    def why_not(self, experiment: Experiment, devices: Sequence[Any], /) -> str | None:
        """Why it does not apply, or None if it does."""
        ...

    def advance(self, experiment: Experiment, devices: Sequence[Any], /) -> Advance:
        """The function that trains one shard's students."""
        ...


BUILT_IN: dict[str, Any] = {engine.name: engine for engine in (native, pallas, autodiff)}
"""Engines by name, the fastest first."""


class Choice(NamedTuple):
    """The engine taken."""

    engine: Any
    passed_over: str = ""
    """Why no faster one was taken, a sentence each; empty if there is none."""


def choose(experiment: Experiment, engine: str | Engine, devices: Sequence[Any]) -> Choice:
    """An engine by name, or an object as it is; with "auto" the fastest that applies.

    Raises:
        ExperimentError: the engine does not apply, or there is none of that name.
    """
    if not isinstance(engine, str):
        for attribute in ("name", "why_not", "advance"):
            if not hasattr(engine, attribute):
                raise refuse("engine", engine, f"an engine has a name, why_not and advance, and this has no {attribute}")
        if reason := engine.why_not(experiment, devices):
            raise refuse("engine", engine.name, reason)
        return Choice(engine)
    if engine not in ("auto", *BUILT_IN):
        raise refuse("engine", engine, f"choose from {', '.join(('auto', *BUILT_IN))}, or give an engine of your own")
    elsewhere = "pallas" if devices[0].platform == "cpu" else "native"  # was not passed over, but is for other devices
    reasons = {name: one.why_not(experiment, devices) for name, one in BUILT_IN.items()}
    if engine == "auto":
        name = next(name for name, reason in reasons.items() if reason is None)
        faster = list(reasons)[: list(reasons).index(name)]
        return Choice(BUILT_IN[name], " ".join(f"Not {other}: {reasons[other]}." for other in faster if other != elsewhere))
    if reason := reasons[engine]:
        usable = " or ".join(name for name, why in reasons.items() if why is None)
        raise refuse("engine", engine, f"{reason}; here {usable} can be used")
    return Choice(BUILT_IN[engine])
