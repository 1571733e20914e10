"""`advise(experiment)` -> Advice: train a pilot, read it, and say what follows for the whole training."""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from phasejax.advice import pilot
from phasejax.advice.reading import Reading, read
from phasejax.analysis.stability import stability_edge
from phasejax.experiment import Experiment
from phasejax.files.layout import begun
from phasejax.grid import Grid

MOST = 4
"""Pilots at most: the first, and those at further temperatures."""


@dataclass(frozen=True)
class Advice:
    """What is advised for an experiment, and what it follows from. Printed, it is its sentences."""

    experiment: Experiment
    """What is planned."""
    pilot: xr.Dataset
    """What was trained for it: (step, temperature or learning_rate, sigma_w, seed)."""
    reading: Reading
    """What it shows."""
    edge: float
    """Free guess T_0 of the best temperature: where SGD becomes unstable at the start, sigma_W = 1; NaN where it is not
    defined."""

    @property
    def boundary(self) -> xr.Dataset:
        """Over sigma_w: the temperature boundary `T_c` between `low` and `high`, and `kind`; NaN where none is reported."""
        return self.reading.columns

    @property
    def recommended(self) -> Experiment:
        """The experiment at the recommended cell, ready to be trained.

        Its learning rate is given as the experiment gave it, by itself or by the temperature.
        """
        given = dict(self.experiment.grid.numbers)
        name = "temperature" if "temperature" in given else "learning_rate"
        numbers = {name: self.temperature if name == "temperature" else self.learning_rate, "sigma_w": self.sigma_w}
        own = self.experiment.grid
        grid = Grid({**numbers, **pilot.fixed(self.experiment)}, own.seeds, own.first_seed, own.replicas)
        return replace(self.experiment, grid=grid)

    @property
    def sigma_w(self) -> float:
        """Recommended scale of the initial weights."""
        return self.reading.best.sigma_w

    @property
    def temperature(self) -> float:
        """Recommended temperature; NaN where the optimizer defines none."""
        return self.reading.best.rate if self.reading.rate == "temperature" else math.nan

    @property
    def learning_rate(self) -> float:
        """Recommended learning rate."""
        return self.reading.best.rate * self.per_temperature

    @property
    def initial_stds(self) -> dict[str, float]:
        """Standard deviation of the initial entries of each array by name, at the recommended sigma_w."""
        from phasejax.advice.words import initial_stds

        return initial_stds(self.experiment, self.sigma_w)

    @property
    def per_temperature(self) -> float:
        """Learning rate over what the pilot's axis is: B (1 - mu) for a temperature, else 1."""
        if self.reading.rate != "temperature":
            return 1.0
        return self.experiment.sgd.batch_size * (1 - pilot.fixed(self.experiment).get("momentum", 0.0))

    @property
    def cost(self) -> float:
        """Steps of all the pilot's students, in trainings of one student."""
        students = self.reading.y.size * self.pilot.sizes["seed"]
        return students * int(self.pilot.step[-1]) / self.experiment.schedule.steps

    def __str__(self) -> str:
        from phasejax.advice.words import sentences

        return "\n".join(sentences(self))


def advise(
    experiment: Experiment | str, folder: str | Path | None = None, *, budget: float = 0.01, **options: Any
) -> Advice:
    """Find the temperature boundary and the best cell of an experiment from a pilot of a small part of its training.

    Args:
        experiment: what is planned, or the name of a preset. The pilot's columns are its sigma_w; of its other numbers each
            must be one. Its temperatures, or learning rates, and its seeds are the pilot's own affair.
        folder: where the pilot's runs are kept, `start.nc`, `pilot.nc` and so on; what is there is gone on with, or taken
            as it is. None keeps them in memory.
        budget: steps of a student of the pilot over those planned.
        **options: as `simulate` takes them.

    Raises:
        ExperimentError: the experiment is none that advice can be given for, or the budget leaves no steps.
        StoreError: the folder holds something else.
    """
    experiment = Experiment.preset(experiment) if isinstance(experiment, str) else experiment
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return advise(experiment, temporary, budget=budget, **options)
    folder = Path(folder)
    experiment.require_resolved()
    pilot.pilot(experiment, budget)  # what cannot be is refused before anything is trained
    from phasejax.simulation import all_devices

    options = {"devices": all_devices()} | options  # all of them, before anything else starts JAX
    edge = math.nan
    if pilot.rate_of(experiment) == "temperature":
        with _run(pilot.at_start(experiment), folder / "start", options) as start:
            edge = float(np.exp(np.log(stability_edge(start, at="start")).mean()))
    decades = -math.log10(budget) if pilot.normalises(experiment) else None
    now, runs = pilot.pilot(experiment, budget, edge), []
    for number in range(1, MOST + 1):
        with _run(now, folder / ("pilot" if number == 1 else f"pilot-{number}"), options) as run:
            runs.append(run.load())
        found = pilot.joined(runs)
        more = pilot.beyond(found, hotter=decades is None)
        if not more:
            break
        now = pilot.widened(now, more)
    return Advice(experiment, found, read(found, decades), edge)


def _run(experiment: Experiment, out: Path, options: dict[str, Any]) -> xr.Dataset:
    from phasejax.simulation import simulate

    return simulate(experiment, out, resume=begun(out), **options)
