"""phasejax: ensembles of small networks trained as one batched pytree, and the phases SGD falls into.

The public names are loaded when they are first used, so that a command line need not wait for jax to show its help.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phasejax import claims, figures
    from phasejax.advice import Advice, advise
    from phasejax.analysis.run import RunError
    from phasejax.checks import ExperimentError
    from phasejax.engines import Engine
    from phasejax.experiment import Experiment
    from phasejax.explorer import explore
    from phasejax.figures.maps import plane
    from phasejax.figures.style import figure
    from phasejax.files.durable import StoreError
    from phasejax.files.reading import open_run as open  # noqa: F401
    from phasejax.files.slabs import Shard, merge
    from phasejax.grid import Grid
    from phasejax.network import Network
    from phasejax.observables import Observable
    from phasejax.optimizers import Sgd
    from phasejax.schedule import Schedule
    from phasejax.simulation import Interrupted, simulate
    from phasejax.starts import FromDraw, FromRun, FromTeacher
    from phasejax.state import Advance, Batches, Cells, Clock, Data, State, Student, Task
    from phasejax.studies.folder import read_study, report
    from phasejax.studies.reference import reference
    from phasejax.studies.study import Study
    from phasejax.tasks import Arrays, Digits, Keys, TeacherStudent

    __version__: str

_HOMES = {
    "Advice": "advice",
    "Advance": "state",
    "Arrays": "tasks",
    "Batches": "state",
    "Cells": "state",
    "Clock": "state",
    "Data": "state",
    "Digits": "tasks",
    "Engine": "engines",
    "Experiment": "experiment",
    "ExperimentError": "checks",
    "FromDraw": "starts",
    "FromRun": "starts",
    "FromTeacher": "starts",
    "Grid": "grid",
    "Interrupted": "simulation",
    "Keys": "tasks",
    "Network": "network",
    "Observable": "observables",
    "RunError": "analysis.run",
    "Schedule": "schedule",
    "Sgd": "optimizers",
    "Shard": "files.slabs",
    "State": "state",
    "StoreError": "files.durable",
    "Student": "state",
    "Study": "studies.study",
    "Task": "state",
    "TeacherStudent": "tasks",
    "advise": "advice",
    "explore": "explorer",
    "figure": "figures.style",
    "merge": "files.slabs",
    "plane": "figures.maps",
    "read_study": "studies.folder",
    "report": "studies.folder",
    "reference": "studies.reference",
    "simulate": "simulation",
}
_MODULES = ("claims", "figures")

__all__ = [
    "Advance",
    "Advice",
    "Arrays",
    "Batches",
    "Cells",
    "Clock",
    "Data",
    "Digits",
    "Engine",
    "Experiment",
    "ExperimentError",
    "FromDraw",
    "FromRun",
    "FromTeacher",
    "Grid",
    "Interrupted",
    "Keys",
    "Network",
    "Observable",
    "RunError",
    "Schedule",
    "Sgd",
    "Shard",
    "State",
    "StoreError",
    "Student",
    "Study",
    "Task",
    "TeacherStudent",
    "advise",
    "claims",
    "explore",
    "figure",
    "figures",
    "merge",
    "plane",
    "read_study",
    "reference",
    "report",
    "simulate",
]
"""What `from phasejax import *` brings; `open` stays Python's own there."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("phasejax")
    if name in _MODULES:
        return importlib.import_module(f"phasejax.{name}")
    if name == "open":
        return importlib.import_module("phasejax.studies.study").open_any
    if name not in _HOMES:
        raise AttributeError(f"module 'phasejax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"phasejax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__", "open"]
