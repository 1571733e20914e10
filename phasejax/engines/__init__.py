"""Ways to advance the State: equal in result, different in speed."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from phasejax.engines import autodiff, fused, native, pallas
from phasejax.ensemble import Advance
from phasejax.experiment import EngineName, Experiment, refuse


class Engine(NamedTuple):
    """An engine that applies to an experiment on some devices."""

    name: str
    advance: Advance
    """Equal experiments get the very same function, so that it is compiled once."""
    passed_over: str
    """Why no faster engine was taken, one sentence each; empty if there is none."""


def choose(experiment: Experiment, name: EngineName, devices: Sequence[Any]) -> Engine:
    """The engine of this name, or with "auto" the fastest that applies.

    Raises:
        ExperimentError: the engine named does not apply, or there is none of that name.
    """
    if name not in get_args(EngineName):
        raise refuse("engine", name, f"choose from {', '.join(get_args(EngineName))}")
    on_cpu = devices[0].platform == "cpu"
    why_not = {
        "native": lambda: native.why_not(experiment, on_cpu),
        "pallas": lambda: pallas.why_not(experiment, devices[0]),
        "fused": lambda: fused.why_not(experiment),
        "autodiff": lambda: None,
    }
    candidates = ("native" if on_cpu else "pallas", "fused", "autodiff")  # the fastest first
    passed_over = ""
    if name == "auto":
        reasons = {candidate: why_not[candidate]() for candidate in candidates}
        name = next(candidate for candidate, reason in reasons.items() if reason is None)  # type: ignore[assignment]
        passed_over = " ".join(f"Not {other}: {why}." for other, why in reasons.items() if why)
    elif reason := why_not[name]():
        usable = " or ".join(candidate for candidate in candidates if why_not[candidate]() is None)
        raise refuse("engine", name, f"{reason}; here {usable} can be used")
    match name:
        case "native":
            return Engine(name, native.engine(experiment), passed_over)
        case "pallas":
            return Engine(name, pallas.engine(), passed_over)
        case "fused":
            return Engine(name, fused.engine(on_cpu), passed_over)
        case _:
            return Engine("autodiff", autodiff.engine(experiment.network, experiment.sgd, on_cpu), passed_over)
