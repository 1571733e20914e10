"""Does cooling slowly from T = 64 reach what a quench to the same temperatures does not?

python -m experiments.extensions.annealing
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

import phasejax as pj

COLD = [2.0**k for k in range(-5, 7)]
QUENCHED = replace(
    pj.Experiment(),
    grid=pj.Grid(temperature=COLD, sigma_w=0.125, seeds=10),
    schedule=pj.Schedule(steps=10_000),
    observe=("test_loss", "diverged_step"),
)


def annealed(quenched: pj.Experiment) -> list[pj.Experiment]:
    """The same ends reached from T = 64 along a line in log T. Another schedule is another argument, not another program."""
    grid = dict(quenched.grid.numbers)
    return [
        replace(
            quenched,
            grid=replace(quenched.grid, temperature=64.0),
            schedule=replace(quenched.schedule, rate=[(0, 1), (1, end / 64)]),
        )
        for end in np.atleast_1d(grid["temperature"]).tolist()
    ]


def main(quenched: pj.Experiment = QUENCHED, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train both ways, and draw the loss at the end against the last temperature."""
    ends = quenched.grid.axes["temperature"]
    at_once = pj.simulate(quenched).test_loss.isel(step=-1)
    slowly = np.array([pj.simulate(one).test_loss.isel(step=-1).values for one in annealed(quenched)])
    with matplotlib.style.context(pj.figures.STYLE_SHEET):
        figure = Figure(figsize=(3.4, 2.6))
        ax = figure.subplots()
    ax.loglog(ends, at_once.median("seed"), "o-", label="quenched")
    ax.loglog(ends, np.median(slowly, axis=1), "s-", label="annealed from T = 64")
    ax.set(xlabel="temperature at the end", ylabel="median test loss")
    ax.legend()
    return pj.figures.save(figure, Path(folder) / "annealing")


if __name__ == "__main__":
    main()
