"""phasejax: ensembles of small networks trained as one batched pytree, and the phases SGD falls into.

The public names are loaded when they are first used, so that a command line need not wait for jax to show its help.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phasejax.activations import register_activation
    from phasejax.experiment import Experiment, ExperimentError, Grid, Network, Schedule, Sgd, TeacherStudent
    from phasejax.files.durable import StoreError
    from phasejax.files.reading import open_run as open
    from phasejax.observables import Observable
    from phasejax.simulation import Interrupted, simulate

_HOMES = {
    "register_activation": "activations",
    "Experiment": "experiment",
    "ExperimentError": "experiment",
    "Grid": "experiment",
    "Network": "experiment",
    "Schedule": "experiment",
    "Sgd": "experiment",
    "TeacherStudent": "experiment",
    "Interrupted": "simulation",
    "Observable": "observables",
    "simulate": "simulation",
    "StoreError": "files.durable",
    "open": "files.reading",
}

__all__ = [
    "Experiment",
    "ExperimentError",
    "Grid",
    "Interrupted",
    "Network",
    "Observable",
    "Schedule",
    "Sgd",
    "StoreError",
    "TeacherStudent",
    "open",
    "register_activation",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phasejax' has no attribute {name!r}")
    module = importlib.import_module(f"phasejax.{_HOMES[name]}")
    return getattr(module, "open_run" if name == "open" else name)


def __dir__() -> list[str]:
    return __all__
