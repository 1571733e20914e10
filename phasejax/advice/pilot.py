"""What a pilot is: the experiment itself, short, over a plane of its own.

Its temperatures are powers of two around the stability edge T_0 of students that start at sigma_W = 1, and reach seven
octaves above. There, never at sigma_W << 1: with all layers trained the start is then near a saddle, whose curvature says
nothing. Where the optimizer defines no temperature, its learning rates are powers of two from 2^-13 to 2^-1.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from phasejax.advice.reading import NEEDED, boundary, plateau, read
from phasejax.analysis.run import grid_axis
from phasejax.checks import number, refuse
from phasejax.experiment import Experiment
from phasejax.grid import Grid
from phasejax.starts import FromDraw

SEEDS = 5
BELOW, ABOVE = 4, 7
"""Octaves below and above the guess."""
WITHOUT_TEMPERATURE = (-13, -1)
"""Exponents of two, the least and the greatest, of learning rates where the optimizer defines no temperature."""
MORE = 3
"""Octaves by which a plane is made larger that turns out too small."""


def rate_of(experiment: Experiment) -> str:
    """The axis along which the learning rate grows: temperature where the optimizer defines one."""
    return "temperature" if experiment.sgd.optimizer == "sgd" else "learning_rate"


def fixed(experiment: Experiment) -> dict[str, float]:
    """Numbers of the cells that are given to the pilot as they are: momentum, weight decay, ...

    Raises:
        ExperimentError: one of them is an axis, or the experiment is none that advice can be given for.
    """
    if not isinstance(experiment.start, FromDraw):
        raise refuse("start", type(experiment.start).__name__, "advice is about the initial scale: students must start at a "
                     "draw, FromDraw")  # fmt: skip
    found: dict[str, float] = {}
    for name, value in experiment.grid.numbers:
        if name in ("temperature", "learning_rate", "sigma_w"):
            continue
        if isinstance(value, tuple):
            raise refuse(f"grid.{name}", list(value), "advice is about the learning rate and sigma_w: give one number")
        found[name] = value
    return found


def normalises(experiment: Experiment) -> bool:
    """Whether the optimizer's updates stay as large as they are where gradients become small, as Adam's do.

    Students then move by as much as the learning rate says however near a solution they are, and the longer they train the
    smaller is the learning rate that is best.
    """
    import jax.numpy as jnp

    numbers = {name: values[0] for name, values in experiment.cells().items()}
    optimizer = experiment.optimizer.of(numbers | {"learning_rate": 1.0})

    def update(size: float) -> float:
        weights = {"w": jnp.zeros(4)}
        found: Any = optimizer.update({"w": jnp.full(4, size)}, optimizer.init(weights), weights)[0]
        return float(jnp.abs(found["w"]).max())

    return update(1e-3) > 0.5 * update(1e-2)


def at_start(experiment: Experiment) -> Experiment:
    """Students at step 0 at sigma_W = 1, whose curvature is recorded."""
    grid = Grid({"temperature": 1.0, "sigma_w": 1.0, **fixed(experiment)}, SEEDS, experiment.grid.first_seed)
    return replace(experiment, grid=grid, schedule=replace(experiment.schedule, steps=0),
                   observe=("sharpness", "noise_sharpness"))  # fmt: skip


def pilot(experiment: Experiment, budget: float, guess: float = math.nan) -> Experiment:
    """The pilot of an experiment.

    Args:
        experiment: what is planned. Of its grid sigma_w and numbers other than the learning rate are kept.
        budget: the pilot's steps over the planned ones.
        guess: temperature around which to look, where one is defined; around 1 if it is NaN.

    Raises:
        ExperimentError: the budget leaves no step, or more than are planned.
    """
    budget = number("budget", budget, "it must be a number above 0, up to 1", 0)
    if budget > 1:
        raise refuse("budget", budget, "it must be a number above 0, up to 1")
    steps = round(budget * experiment.schedule.steps)
    if steps < 10:
        raise refuse("budget", budget, f"of {experiment.schedule.steps:,} steps it leaves {steps}, and a pilot needs 10")
    middle = round(math.log2(guess)) if 0 < guess < math.inf else 0
    ends = (middle - BELOW, middle + ABOVE) if rate_of(experiment) == "temperature" else WITHOUT_TEMPERATURE
    rates = [2.0**k for k in range(ends[0], ends[1] + 1)]
    numbers: dict[str, Any] = {rate_of(experiment): rates, "sigma_w": experiment.grid.sigma_w, **fixed(experiment)}
    return replace(experiment, grid=Grid(numbers, SEEDS, experiment.grid.first_seed), observe=NEEDED,
                   schedule=replace(experiment.schedule, steps=steps))  # fmt: skip


def beyond(run: xr.Dataset, hotter: bool = True) -> list[float]:
    """Temperatures (or learning rates) that a plane lacks, ascending.

    Hotter ones where a plateau is not reached and there is to be one, else colder ones where the best cell is the coldest;
    none where nothing is lacking, or nothing was learned.
    """
    found, rate = read(run), grid_axis(run)
    at = found.y[rate].values
    if not found.learned:
        return []
    if hotter and not bool(plateau(boundary(found.y, rate)).all()):
        return [float(at[-1]) * 2.0**k for k in range(1, MORE + 1)]
    return [float(at[0]) * 2.0**k for k in range(-MORE, 0)] if found.best.rate == at[0] else []


def widened(experiment: Experiment, rates: list[float]) -> Experiment:
    """A pilot at other temperatures (or learning rates)."""
    numbers = dict(experiment.grid.numbers) | {rate_of(experiment): rates}
    return replace(experiment, grid=Grid(numbers, SEEDS, experiment.grid.first_seed))


def joined(runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """Pilots of one experiment at different temperatures (or learning rates) as one, in memory."""
    rate = grid_axis(runs[0])
    parts = [run[list(NEEDED)].load() for run in runs]
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, rate, data_vars="minimal", combine_attrs="override").sortby(rate)
